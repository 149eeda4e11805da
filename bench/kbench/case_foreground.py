# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Case foreground: 4 KiB reads of blocks that are here, while the rest hydrates at full speed, beside the same with hydration paused."""
import time

from . import rounds, stats
from .clone import Clone
from .context import GIB, MIB
from .nbdmap import NbdMap
from .procs import BenchError, wait_until
from .readers import Reader
from .targets import Ktarget, Nbdkit

BIN_S = 0.02
READS_PER_S = 2000
READS_MIN = 200 # for a 99th percentile to be one
ASK_S = 0.1 # the clone's answer takes as long as two reads: of one read in 200 that is noise, of one in 50 it would be the 99th percentile


def figures(samples):
    took = [t * 1e6 for _, t in samples]
    if not took:
        return {"nr": 0}
    return {"nr": len(took), "p50_us": stats.percentile(took, 50), "p99_us": stats.percentile(took, 99), "max_us": max(took)}


def within(samples, begin, end):
    """Those that were due then, however late their answer came."""
    return [s for s in samples if begin <= s[0] < end]


def timeline(samples, begin):
    """[(seconds since hydration began, reads, p50, p99)...] of every 20 ms, for the report."""
    bins = {}
    for b, t in samples:
        bins.setdefault(int((b - begin) // BIN_S), []).append(t * 1e6)
    return [(at * BIN_S, len(v), stats.percentile(v, 50), stats.percentile(v, 99)) for at, v in sorted(bins.items())]


def is_still(clone):
    """Nothing in hand, and nothing that a commit is yet to record."""
    before = clone.status()
    time.sleep(0.1)
    after = clone.status()
    return before["here_bytes"] == after["here_bytes"] == after["durable_bytes"]


def under_way(curve, size):
    """(seconds, bytes): from the first to the last look that saw hydration under way. Pure."""
    looks = [c for c in curve if c[2] < size]
    return (looks[-1][0], looks[-1][2] - looks[0][2]) if looks else (0, 0)


def head_start(clone, size):
    """A quarter hydrated and the rest paused; the largest range that is here."""
    clone.ask("rate", bps=size // 2) # so that a pause is not overtaken
    clone.ask("hydrate")
    wait_until(120, "a quarter is here", lambda: clone.status()["here_bytes"] >= size // 4)
    clone.ask("pause")
    clone.ask("rate", bps=0)
    clone.ask("commit")
    wait_until(20, "hydration is paused", lambda: is_still(clone))
    nbd = NbdMap(clone.nbd_path, size)
    start, end = max(nbd.hydrated(), key=lambda r: r[1] - r[0])
    nbd.close()
    return start, end


def round_of_kclone(bench, url, source, dest, size, keep):
    bench.reset_dest(source, dest)
    clone = Clone(bench, "foreground", url, dest, options=bench.options.kclone_args)
    try:
        start, end = head_start(clone, size)
        reader = Reader(bench, "nbd", "unix:" + clone.nbd_path, end - start, offset=start, rate=READS_PER_S)
        paused_at, begin_idle = clone.status()["durable_bytes"], time.monotonic()
        while time.monotonic() < begin_idle + (2 if bench.options.long else bench.options.seconds):
            clone.status() # as later, so that hydration is all that differs
            time.sleep(ASK_S)
        durable, begin = clone.status()["durable_bytes"], time.monotonic()
        if durable != paused_at:
            raise BenchError("hydration went on while it was paused: the idle figures would be none")
        clone.ask("resume")
        end, curve = clone.wait_durable(begin, every_s=ASK_S)
        samples = reader.stop()
    finally:
        clone.stop()
    bench.compare(source, dest)
    wall, copied = under_way(curve, size)
    keep["timeline"], keep["curve"] = timeline(samples, begin), curve
    return {"idle": figures(within(samples, begin_idle, begin)), "busy": figures(within(samples, begin, begin + wall)),
            "range_bytes": end - start, "hydration_mib_s": copied / MIB / wall if copied else (size - durable) / MIB / end}


def round_of_nbdkit(bench, nbdkit, dest, size):
    """The peer: reads of nbdkit while nbdcopy empties it, and before."""
    reader = Reader(bench, "nbd", nbdkit.url.replace("nbd://127.0.0.1", "tcp"), size // 4, rate=READS_PER_S)
    begin_idle = time.monotonic()
    time.sleep(2 if bench.options.long else bench.options.seconds)
    begin = time.monotonic()
    wall, _, _ = bench.procs.run("nbdcopy", ["nbdcopy", "--connections=4", "--requests=64", nbdkit.url, dest])
    samples = reader.stop()
    return {"idle": figures(within(samples, begin_idle, begin)), "busy": figures(within(samples, begin, begin + wall)),
            "hydration_mib_s": size / MIB / wall}


def run(bench):
    size = bench.fit(bench.options.size or (4 * GIB if bench.options.long else GIB), 2)
    source, dest = bench.make_image("foreground.src", "mixed", size), bench.path("foreground.dst")
    ktarget, nbdkit, last = Ktarget(bench, source), None, {}
    rigs = {"kclone": lambda: round_of_kclone(bench, ktarget.url, source, dest, size, last)}
    try:
        if bench.has_peers:
            nbdkit = Nbdkit(bench, source)
            rigs["nbdkit-nbdcopy"] = lambda: round_of_nbdkit(bench, nbdkit, dest, size)
        runs = rounds.take_turns(bench, rigs, bench.options.rounds)
    finally:
        ktarget.stop()
        if nbdkit:
            nbdkit.stop()
        bench.remove(source, dest)
    ret = {"size_bytes": size, "runs": runs, "ratios": {}, **last}
    for name, all_rounds in runs.items():
        r = [x for x in all_rounds if min(x["idle"]["nr"], x["busy"]["nr"]) >= READS_MIN]
        if len(r) < len(all_rounds):
            bench.say(f"   {name}: {len(all_rounds) - len(r)} rounds were too short for {READS_MIN} reads and do not count: a larger volume is needed")
        for p in ("p50_us", "p99_us") if r else ():
            busy, idle = [x["busy"][p] for x in r], [x["idle"][p] for x in r]
            ret["ratios"].setdefault(p, {})[name] = stats.ratio(busy, idle)
            bench.say(f"   {name:16} {p[:3]} idle {stats.median(idle):8.0f} us, busy {stats.median(busy):8.0f} us"
                      f"   copying at {stats.median([x['hydration_mib_s'] for x in r]):.0f} MiB/s while it is seen under way")
    return ret


def goals(result):
    yield "foreground: kclone's p99, hydrating over idle", "<=", 1.5, result["ratios"].get("p99_us", {}).get("kclone")
