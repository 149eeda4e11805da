# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Case after: the device of a clone that is complete, beside a loop device on the file itself."""
import subprocess

from . import readers, rounds, stats
from .clone import Clone
from .context import MIB
from .targets import Ktarget

LOADS = {"read 4k QD1": ("iops", 1, []), "read 4k QD32": ("iops", 32, []), "write 4k QD1": ("iops", 1, ["--write"]),
         "read 1M QD4": ("mib_s", 4, ["--block", "1048576", "--sequential"])}


class Loop:
    """A loop device on a file of ours, as the agent gives it to a workload."""

    def __init__(self, bench, path):
        _, _, text = bench.procs.run("losetup", ["losetup", "--direct-io=on", "--find", "--show", path], capture=True)
        self.device = text.strip()

    def close(self):
        subprocess.run(["losetup", "-d", self.device], check=False)


def one(bench, device, size, load, seed):
    _, depth, more = LOADS[load]
    seconds = 3 if bench.options.long else bench.options.seconds
    return lambda: readers.read(bench, "file", device, size, depth, next(seed), seconds, *more)


def numbers():
    at = 0
    while True:
        at += 1
        yield at


def measure(bench, size, devices):
    """Each load on each device, in turns."""
    seed, runs = numbers(), {}
    for load in LOADS:
        bench.say(f"   {load}")
        runs[load] = rounds.take_turns(bench, {name: one(bench, path, size, load, seed) for name, path in devices.items()},
                                       bench.options.rounds)
    return runs


def run(bench):
    size = bench.fit(min(bench.options.size or 256 * MIB, 256 * MIB), 3)
    source, dest, raw = bench.make_image("after.src", "full", size), bench.path("after.dst"), bench.make_image("after.raw", "full", size)
    bench.reset_dest(source, dest)
    target, clone, loop = Ktarget(bench, source), None, Loop(bench, raw)
    try:
        clone = Clone(bench, "after", target.url, dest, fuse=True, block=True)
        clone.hydrate()
        clone.verify_and_finish()
        target.stop()
        runs = measure(bench, size, {"raw": loop.device, "kclone": clone.status()["device"]["block"]})
    finally:
        loop.close()
        if clone:
            clone.stop()
        target.stop()
        bench.remove(source, dest, raw)
    ratios = {}
    for load, (key, _, _) in LOADS.items():
        ratios[load] = stats.ratio(rounds.rates(runs[load]["kclone"], key), rounds.rates(runs[load]["raw"], key))
        for name, r in runs[load].items():
            s = stats.summary(rounds.rates(r, key))
            bench.say(f"   {load:14}{name:8}{s['median']:10.0f} {key:6}{s['min']:10.0f}{s['max']:10.0f}")
    return {"size_bytes": size, "runs": runs, "ratios": ratios}


def goals(result):
    for load, got in result["ratios"].items():
        yield f"after: the complete clone's device over raw, {load}", ">=", 0.97, got
