# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Case hydrate: a mixed image over loopback TCP onto a preallocated file on tmpfs, overwritten in place."""
import os
import time

from . import rounds, stats
from .clone import Clone
from .context import GIB
from .nbdmap import NbdMap
from .procs import CpuWindow, peak_memory_bytes
from .targets import Ktarget, Nbdkit, PortPrinter, Tgtd

# No goal is about it.
SELDOM = ("qemu-img",)
FLOORS = ("floor", "floor-holes", "floor-splice")
MAP_CELLS, MAP_SECONDS = 1024, 3
QEMU_CONVERT = ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw"]


class Copier:
    """Resets the destination, runs one copy between two looks at the clocks, compares."""

    def __init__(self, bench, source, dest, size_bytes):
        self.bench, self.source, self.dest, self.size_bytes = bench, source, dest, size_bytes
        self.curves = {}
        bench.reset_dest(source, dest) # a clone is made on what is there, whoever comes first

    def measured(self, server, copy, allocated=False):
        """copy() -> (wall_s, client_cpu_s)"""
        self.bench.reset_dest(self.source, self.dest, allocated)
        server_cpu, watch = CpuWindow(server.pids()), rounds.Watch()
        wall, client_cpu = copy()
        watch.end()
        server_cpu_s = server_cpu.taken()
        others = watch.others(client_cpu + server_cpu_s)
        self.bench.compare(self.source, self.dest)
        return rounds.copy_figures(self.size_bytes, wall, client_cpu, server_cpu_s, others)

    def tool(self, name, server, argv, allocated=False):
        return lambda: self.measured(server, lambda: self.bench.procs.run(name, argv)[:2], allocated)

    def kclone(self, name, server, program=None):
        def run():
            clone = Clone(self.bench, name, server.url, self.dest, program, self.bench.options.kclone_args)

            def hydrate():
                cpu = CpuWindow(clone.pids())
                wall, samples = clone.hydrate()
                self.curves.setdefault(name, []).append(samples)
                return wall, cpu.taken()

            # made and attached before the destination is reset: a clone that waits does not touch it
            ret = self.measured(server, hydrate)
            ret["peak_memory_bytes"] = peak_memory_bytes(clone.pids())
            clone.stop()
            return ret
        return run


def make_rigs(bench, copier, servers):
    source, dest = copier.source, copier.dest
    ktarget = servers.setdefault("ktarget", Ktarget(bench, source))
    floor = servers.setdefault("floor", PortPrinter(bench, "floor", [bench.tool("floor"), "serve", source]))
    rigs = {"kcopy": copier.tool("kcopy", ktarget, [bench.program("kcopy"), *bench.options.kcopy_args, ktarget.url, dest]),
            "kclone": copier.kclone("kclone", ktarget)}
    if bench.options.baseline:
        old = bench.options.baseline
        server = servers.setdefault("baseline", Ktarget(bench, source, "ktarget-baseline", os.path.join(old, "bin", "ktarget")))
        rigs["kcopy-baseline"] = copier.tool("kcopy-baseline", server, [os.path.join(old, "bin", "kcopy"), server.url, dest])
        rigs["kclone-baseline"] = copier.kclone("kclone-baseline", server, os.path.join(old, "bin", "kclone"))
    if bench.has_peers:
        nbdkit, tgtd = servers.setdefault("nbdkit", Nbdkit(bench, source)), servers.setdefault("tgtd", Tgtd(bench, source))
        rigs["nbdcopy"] = copier.tool("nbdcopy", nbdkit, ["nbdcopy", "--connections=4", "--requests=64", nbdkit.url, dest])
        rigs["qemu-img"] = copier.tool("qemu-img", tgtd, [*QEMU_CONVERT, tgtd.url, dest])
        rigs["qemu-img-W-m16"] = copier.tool("qemu-img-W", tgtd, [*QEMU_CONVERT, "-W", "-m", "16", tgtd.url, dest])
    for name, how in zip(FLOORS, ("all", "holes", "splice")):
        argv = [bench.tool("floor"), "fetch", floor.port, dest, how]
        rigs[name] = copier.tool(name, floor, argv, allocated=how == "all")
    return rigs


def map_order(bench, ktarget, copier):
    """When each of MAP_CELLS parts of the volume was here, in a run slowed down to about MAP_SECONDS."""
    size, cell = copier.size_bytes, copier.size_bytes // MAP_CELLS
    times = [None] * MAP_CELLS
    bench.reset_dest(copier.source, copier.dest)
    clone = Clone(bench, "map", ktarget.url, copier.dest, options=bench.options.kclone_args)
    try:
        nbd = NbdMap(clone.nbd_path, size)
        clone.ask("rate", bps=size * 7 // 10 // MAP_SECONDS)
        begin = time.monotonic()
        clone.ask("hydrate")
        while None in times and time.monotonic() - begin < 60 * MAP_SECONDS:
            ranges, now = nbd.hydrated(), time.monotonic() - begin
            for start, end in ranges:
                for i in range(-(-start // cell), min(end // cell, MAP_CELLS)):
                    times[i] = now if times[i] is None else times[i]
            time.sleep(0.02)
        nbd.close()
    finally:
        clone.stop()
    return {"cell_bytes": cell, "times_s": times}


def run(bench):
    size = bench.fit(bench.options.size or (4 * GIB if bench.options.long else GIB), 2)
    source, dest = bench.make_image("hydrate.src", "mixed", size), bench.path("hydrate.dst")
    copier, servers = Copier(bench, source, dest, size), {}
    try:
        runs = rounds.take_turns(bench, make_rigs(bench, copier, servers), bench.options.rounds, seldom=SELDOM)
        order = map_order(bench, servers["ktarget"], copier) if bench.options.plot else None
    finally:
        for server in servers.values():
            server.stop()
        bench.remove(source, dest)
    rounds.copy_table(bench, runs)
    best_floor = max(FLOORS, key=lambda f: stats.median(rounds.rates(runs[f])))
    bench.say(f"   the best floor: {best_floor}")
    ret = {"size_bytes": size, "runs": runs, "best_floor": best_floor, "rate": {n: stats.summary(rounds.rates(r)) for n, r in runs.items()},
           "cpu_s_gib": {n: stats.summary(rounds.rates(r, "cpu_s_gib")) for n, r in runs.items()}, "curves": copier.curves, "map": order,
           "ratios": {"rate/" + base: rounds.compare_all(runs, base, "mib_s") for base in (best_floor, "nbdcopy", "qemu-img",
                                                                                           "qemu-img-W-m16", "kcopy-baseline",
                                                                                           "kclone-baseline")},
           "cpu_ratios": {"cpu/" + base: rounds.compare_all(runs, base, "cpu_s_gib") for base in ("nbdcopy", best_floor)}}
    return ret


def goals(result):
    for ours in ("kcopy", "kclone"):
        rate, cpu = result["ratios"], result["cpu_ratios"]
        yield f"hydrate: {ours} over nbdcopy, rate", ">=", 1.3, rate["rate/nbdcopy"].get(ours)
        yield f"hydrate: {ours} over qemu-img -W -m 16, rate", ">=", 3.0, rate["rate/qemu-img-W-m16"].get(ours)
        yield f"hydrate: {ours} over nbdcopy, CPU s/GiB", "<=", 0.7, cpu["cpu/nbdcopy"].get(ours)
        yield f"hydrate: {ours} over the best floor, rate", ">=", 0.8, rate["rate/" + result["best_floor"]].get(ours)
