# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Case readthrough: 4 KiB random reads of blocks that are at the source only, beside a bare TCP request and reply."""
from . import readers, rounds, stats
from .clone import Clone
from .context import MIB
from .procs import BenchError
from .targets import Ktarget, Nbdkit, PortPrinter, Tgtd

DEPTHS = (1, 32)
# They count whole seconds, and no goal is about them.
SELDOM = ("kclone-nbd-fio", "nbdkit-fio", "ktarget-iscsi-perf", "tgtd-iscsi-perf")


def make_rigs(bench, clone, targets, size, seconds):
    """{name: f(depth, seed) -> figures}"""
    def ours(what, where):
        return lambda depth, seed: readers.read(bench, what, where, size, depth, seed, seconds)

    def fio(uri):
        return lambda depth, seed: readers.fio_nbd(bench, uri, size, depth, seed, seconds)

    def perf(url):
        return lambda depth, seed: readers.iscsi_perf(bench, url, depth, seconds)

    rigs = {"tcp": ours("ping", targets["pong"].port), "kclone-nbd": ours("nbd", "unix:" + clone.nbd_path),
            "kclone-fuse": ours("file", clone.fuse_path)}
    if bench.has_peers:
        rigs["nbdkit"] = ours("nbd", targets["nbdkit"].url.replace("nbd://127.0.0.1", "tcp"))
        rigs["kclone-nbd-fio"] = fio("nbd+unix:///?socket=" + clone.nbd_path)
        rigs["nbdkit-fio"] = fio(targets["nbdkit"].url)
        rigs["ktarget-iscsi-perf"] = perf(targets["ktarget"].url)
        rigs["tgtd-iscsi-perf"] = perf(targets["tgtd"].url)
    return rigs


def measure(bench, clone, targets, size):
    seconds = 5 if bench.options.long else bench.options.seconds
    rigs, runs, seed = make_rigs(bench, clone, targets, size, seconds), {}, [0]

    def one(rig, depth):
        def run():
            seed[0] += 1
            return rig(depth, seed[0])
        return run
    for depth in DEPTHS:
        bench.say(f"   {depth} at a time")
        runs[str(depth)] = rounds.take_turns(bench, {name: one(rig, depth) for name, rig in rigs.items()}, bench.options.rounds,
                                             seldom=SELDOM)
    here = clone.status()["here_bytes"]
    if here:
        raise BenchError(f"{here} bytes came to the clone while it was read: this was not read-through")
    return runs


def run(bench):
    size = bench.fit(min(bench.options.size or 256 * MIB, 256 * MIB), 2)
    source, dest = bench.make_image("readthrough.src", "full", size), bench.path("readthrough.dst")
    with open(dest, "wb") as f:
        f.truncate(size)
    targets, clone = {"ktarget": Ktarget(bench, source), "pong": PortPrinter(bench, "pong", [bench.tool("pong")])}, None
    try:
        if bench.has_peers:
            targets.update(nbdkit=Nbdkit(bench, source), tgtd=Tgtd(bench, source))
        clone = Clone(bench, "readthrough", targets["ktarget"].url, dest, fuse=True)
        runs = measure(bench, clone, targets, size)
    finally:
        if clone:
            clone.stop()
        for target in targets.values():
            target.stop()
        bench.remove(source, dest)
    for depth, by_rig in runs.items():
        for name, r in by_rig.items():
            s = stats.summary(rounds.rates(r, "iops"))
            p99 = f"{stats.median(rounds.rates(r, 'p99_us')):8.0f}" if "p99_us" in r[0] else f"{'':8}"
            bench.say(f"   QD{depth:3} {name:20}{s['median']:9.0f} IOPS{s['min']:9.0f}{s['max']:9.0f}   p99 {p99} us")
    ratios = {depth: rounds.compare_all(by_rig, "tcp", "iops") for depth, by_rig in runs.items()}
    return {"size_bytes": size, "runs": runs, "ratios": ratios}


def goals(result):
    for depth, limit in (("1", 0.9), ("32", 0.8)):
        for rig in ("kclone-nbd", "kclone-fuse"):
            yield f"readthrough: {rig} over bare TCP, QD{depth}", ">=", limit, result["ratios"][depth].get(rig)
