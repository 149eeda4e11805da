# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Case sparse: a volume of 1 TiB that holds 1 GiB, beside a full one of 1 GiB: time follows what is allocated."""
from . import rounds, stats
from .case_hydrate import Copier
from .clone import bitmap_bytes
from .context import GIB, MIB
from .targets import Ktarget

TIMES_LARGER = 1024


def run(bench):
    data = bench.fit(bench.options.size or GIB, 4)
    images, targets, rigs = {}, {}, {}
    try:
        for kind, size in (("full", data), ("sparse", data * TIMES_LARGER)):
            source = bench.make_image(kind + ".src", kind, size, data_bytes=data)
            images[kind] = Copier(bench, source, bench.path(kind + ".dst"), data)
            targets[kind] = Ktarget(bench, source, "ktarget-" + kind)
        for kind, copier in images.items():
            target = targets[kind]
            rigs["kcopy " + kind] = copier.tool("kcopy-" + kind, target, [bench.program("kcopy"), *bench.options.kcopy_args, target.url,
                                                                           copier.dest])
            rigs["kclone " + kind] = copier.kclone("kclone-" + kind, target)
        runs = rounds.take_turns(bench, rigs, bench.options.rounds)
    finally:
        for target in targets.values():
            target.stop()
        for copier in images.values():
            bench.remove(copier.source, copier.dest)
    rounds.copy_table(bench, runs)
    beyond = [(r["peak_memory_bytes"] - bitmap_bytes(data * TIMES_LARGER)) / MIB for r in runs["kclone sparse"]]
    bench.say(f"   memory of the large volume beyond its bitmap: {stats.median(beyond):.1f} MiB")
    return {"data_bytes": data, "memory": stats.ratio(beyond, [1.0] * len(beyond)), "runs": runs, "wall_s": {n: stats.summary(rounds.rates(r, "wall_s")) for n, r in runs.items()},
            "ratios": {n: stats.ratio(rounds.rates(runs[n + " sparse"], "wall_s"), rounds.rates(runs[n + " full"], "wall_s"))
                       for n in ("kcopy", "kclone")}}


def goals(result):
    for name in ("kcopy", "kclone"):
        yield f"sparse: {name}, 1024 times as large with the same data, time", "<=", 1.2, result["ratios"][name]
    yield "memory: MiB beyond the bitmap, 1024 times as large", "<=", 64, result["memory"]
