# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Clients that read small blocks: ours (bench_reads), fio, iscsi-perf. Each gives {"iops", "p50_us", "p99_us"} as far as it knows."""
import array
import json
import re
import subprocess

from .procs import BenchError


def reads_argv(bench, what, where, size_bytes, depth, seed, *more):
    return [bench.tool("reads"), what, where, "--size", str(size_bytes), "--depth", str(depth), "--seed", str(seed), *more]


def read(bench, what, where, size_bytes, depth, seed, seconds, *more):
    """bench_reads to its end."""
    argv = reads_argv(bench, what, where, size_bytes, depth, seed, "--seconds", str(seconds), *more)
    _, _, text = bench.procs.run("reads", argv, seconds + 60, capture=True)
    return json.loads(text.splitlines()[-1])


class Reader:
    """bench_reads in the background, from the first answer on, until stopped; then every sample is known."""

    def __init__(self, bench, what, where, size_bytes, depth=1, offset=0, seed=1, rate=0):
        self.bench, self.log = bench, bench.path("reads.samples")
        argv = reads_argv(bench, what, where, size_bytes, depth, seed, "--offset", str(offset), "--rate", str(rate), "--log", self.log)
        self.proc = bench.procs.start("reader", argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
        if bench.procs.first_line(self.proc, 30) != "ready":
            raise BenchError("bench_reads: not ready")

    def stop(self):
        """[(begin_s, took_s)...] on the clock of time.monotonic()"""
        self.proc.stdin.close()
        if self.bench.procs.wait_exit(self.proc, 60) != 0:
            raise BenchError(f"bench_reads: {self.bench.procs.tail('reader')}")
        self.proc.stdout.close()
        flat = array.array("Q")
        with open(self.log, "rb") as f:
            flat.frombytes(f.read())
        self.bench.remove(self.log)
        return [(flat[i] / 1e9, flat[i + 1] / 1e9) for i in range(0, len(flat), 2)]


def fio_nbd(bench, uri, size_bytes, depth, seed, seconds):
    """fio's nbd engine; it counts whole seconds."""
    argv = ["fio", "--name=r", "--ioengine=nbd", f"--uri={uri}", "--rw=randread", "--bs=4k", f"--iodepth={depth}", f"--size={size_bytes}",
            "--time_based", f"--runtime={max(1, round(seconds))}", f"--randseed={seed}", "--output-format=json"]
    _, _, text = bench.procs.run("fio", argv, seconds + 60, capture=True)
    job = json.loads(text[text.index("{"):])["jobs"][0]
    if job["error"]:
        raise BenchError(f"fio {uri}: error {job['error']}")
    pct = job["read"]["clat_ns"]["percentile"]
    return {"iops": job["read"]["iops"], "p50_us": pct["50.000000"] / 1000, "p99_us": pct["99.000000"] / 1000}


def iscsi_perf(bench, url, depth, seconds):
    """libiscsi's own tool: the average over its run; it knows no latencies."""
    argv = ["iscsi-perf", "-m", str(depth), "-b", "8", "-r", "-t", str(max(1, round(seconds))), url]
    _, _, text = bench.procs.run("iscsi-perf", argv, seconds + 60, capture=True)
    found = re.findall(r"iops average\s+(\d+)", text)
    if not found:
        raise BenchError(f"iscsi-perf says: {text[-400:]}")
    return {"iops": float(found[-1])}
