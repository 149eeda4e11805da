# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Case downtime: a drain of 1 GiB and of 16 TiB, sparse, from the last acknowledged write on the source to the first on the destination."""
import json
import os
import shutil
import subprocess
import time

from . import rounds, stats
from .procs import BenchError, wait_until

SMALL, BIG, ROOM = "1G", "16T", "40T"
HAS_DAEMONS = True
STEPS = ["SRC_STOPPING", "SRC_STOPPED", "SRC_FENCED", "EXPORTED", "ATTACHED", "BOOT_INTENT", "SRC_RELINQUISHED", "DEST_RUNNING"]


class Room:
    """A file system that holds 32 TiB of nothing: XFS in a sparse file on the tmpfs. Without XFS only the small volume is moved."""

    def __init__(self, bench):
        self.bench, self.image, self.dir = bench, bench.path("room.img"), bench.path("room")
        os.mkdir(self.dir)
        self.has_big = False
        if not shutil.which("mkfs.xfs"):
            bench.say(f"   no mkfs.xfs (xfsprogs): {BIG} is left out")
            return
        bench.procs.run("room", ["truncate", "-s", ROOM, self.image])
        bench.procs.run("room", ["mkfs.xfs", "-q", "-l", "size=64m", self.image])
        try:
            bench.procs.run("room", ["mount", "-o", "loop,discard", self.image, self.dir])
            self.has_big = True
        except BenchError as e:
            bench.say(f"   {e}: {BIG} is left out")

    def close(self):
        if self.has_big:
            self.bench.procs.run("room", ["umount", self.dir], 60)
        self.bench.remove(self.image)
        shutil.rmtree(self.dir, ignore_errors=True)


def gap_ms(record):
    """From the last line of host a to the first of host b."""
    with open(record, encoding="ascii") as f:
        lines = [line.split() for line in f]
    last = max(int(w[1]) for w in lines if w[0] == "a")
    return (min(int(w[1]) for w in lines if w[0] == "b") - last) / 1e6


def bare_restart_ms(bench, room):
    """The workload's own share: ended and started again by hand on a loop device, without kedge."""
    path, record = os.path.join(room.dir, "bare"), bench.path("bare.record")
    with open(path, "wb") as f:
        f.truncate(1 << 26)
    _, _, text = bench.procs.run("losetup", ["losetup", "--direct-io=on", "--find", "--show", path], capture=True)
    device = text.strip()

    def has_lines(nr):
        try:
            with open(record, "rb") as f:
                return f.read().count(b"\n") >= nr
        except FileNotFoundError:
            return False

    try:
        argv = [bench.tool("writer"), record]
        env = {"PATH": os.environ.get("PATH", ""), "KEDGE_DEVICE": device}
        first = bench.procs.start("writer", argv, env=dict(env, KEDGE_HOST="a"))
        wait_until(20, "the workload writes", lambda: has_lines(50))
        first.terminate()
        first.wait()
        second = bench.procs.start("writer", argv, env=dict(env, KEDGE_HOST="b"))
        nr = len(open(record, "rb").readlines())
        wait_until(20, "the workload writes again", lambda: has_lines(nr + 5))
        bench.procs.stop(first)
        bench.procs.stop(second)
        return gap_ms(record)
    finally:
        bench.remove(record)
        subprocess.run(["losetup", "-d", device], check=False)
        os.unlink(path)


def figures(line):
    """Of one move: the gap as the workload saw it, and the step that each part of it belongs to; the parts add up to the gap."""
    acks, m = line["acks"], line["migration"]
    times = [(s, m["times"][s]) for s in STEPS if s in m["times"]]
    last, first = acks["last_real_ns"] / 1e6, acks["first_real_ns"] / 1e6
    still_writing_ms, times[0] = last - times[0][1], (times[0][0], last)
    parts = {name: at - before for (_, before), (name, at) in zip(times, times[1:])}
    parts["first write"] = first - times[-1][1]
    return {"gap_ms": (acks["first_mono_ns"] - acks["last_mono_ns"]) / 1e6, "downtime_ms": m["downtime_ms"], "parts_ms": parts,
            "still_writing_ms": still_writing_ms}


def move_all(bench, room, sizes):
    argv = [os.path.join(bench.root, "bench", "drains.sh"), bench.build, str(bench.options.rounds), *sizes]
    proc = bench.procs.start("drains", argv, stdout=subprocess.PIPE, env=dict(os.environ, KEDGE_TEST_DIR=room.dir))
    moves = {size: [] for size in sizes}
    try:
        for _ in range(bench.options.rounds * len(sizes)):
            line = json.loads(bench.procs.first_line(proc, 300))
            moves[line["size"]].append(figures(line))
        if bench.procs.wait_exit(proc, 120) != 0:
            raise BenchError(f"drains.sh: {bench.procs.tail('drains')}")
    finally:
        proc.stdout.close()
        bench.procs.stop(proc, 90) # it takes its hosts down
        remove_hosts(proc.pid)
    return moves


def remove_hosts(pid):
    """The namespaces of a drains.sh that was killed; those of nobody else have its pid in their name."""
    for host in "ab":
        if os.path.exists(f"/run/netns/kedge-{pid}-{host}"):
            subprocess.run(["ip", "netns", "del", f"kedge-{pid}-{host}"], check=False)


def say_parts(bench, moves):
    names = list(next(iter(moves.values()))[0]["parts_ms"])
    bench.say(f"   {'ms, medians':22}" + "".join(f"{size:>9}" for size in moves))
    bench.say(f"   {'(still writing)':22}" + "".join(f"{stats.median(rounds.rates(r, 'still_writing_ms')):9.1f}" for r in moves.values()))
    for name in names:
        bench.say(f"   {name:22}" + "".join(f"{stats.median([m['parts_ms'].get(name, 0) for m in r]):9.1f}" for r in moves.values()))


def run(bench):
    room = Room(bench)
    try:
        bare = [bare_restart_ms(bench, room) for _ in range(max(5, bench.options.rounds))]
        begin = time.monotonic()
        moves = move_all(bench, room, [SMALL, BIG] if room.has_big else [SMALL])
    finally:
        room.close()
    say_parts(bench, moves)
    ret = {"moves": moves, "bare_ms": bare, "gap_ms": {size: stats.summary(rounds.rates(r, "gap_ms")) for size, r in moves.items()},
           "seconds_of_moves": time.monotonic() - begin}
    for size, r in moves.items():
        gap = rounds.rates(r, "gap_ms")
        own = [g - stats.median(bare) for g in gap]
        ret.setdefault("own_ms", {})[size] = stats.summary(own)
        bench.say(f"   {size:>4}: down {stats.median(gap):.1f} ms ({min(gap):.1f} to {max(gap):.1f}), of which the workload's bare restart "
                  f"{stats.median(bare):.1f}; kedge says {stats.median(rounds.rates(r, 'downtime_ms')):.0f}")
    if room.has_big:
        ret["flat"] = stats.ratio(rounds.rates(moves[BIG], "gap_ms"), rounds.rates(moves[SMALL], "gap_ms"))
    ret["own"] = stats.above(rounds.rates(moves[SMALL], "gap_ms"), bare) # how sure the bare restart is, is part of how sure this is
    return ret


def goals(result):
    yield f"downtime: {BIG} over {SMALL}, sparse", "<=", 1.1, result.get("flat")
    yield "downtime: kedge's own share in ms", "<=", 50, result["own"]
