# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Case many: many volumes hydrating at once beside a single one with as many bytes; and what each takes of memory."""
import time

from . import rounds, stats
from .clone import Clone, bitmap_bytes
from .context import GIB, MIB
from .procs import BenchError, CpuWindow, peak_memory_bytes
from .targets import Ktarget


class Volume:
    """A source, its export, a destination."""

    def __init__(self, bench, name, size, seed):
        self.bench, self.name, self.size = bench, name, size
        self.source, self.dest = bench.make_image(name + ".src", "mixed", size, seed), bench.path(name + ".dst")
        self.target, self.clone = Ktarget(bench, self.source, "ktarget-" + name), None

    def prepare(self):
        self.bench.reset_dest(self.source, self.dest)
        self.clone = Clone(self.bench, self.name, self.target.url, self.dest, options=self.bench.options.kclone_args)

    def is_durable(self):
        st = self.clone.status()
        if st["bad_bytes"] or st["failure"]:
            raise BenchError(f"{self.name}: {st['bad_bytes']} bad bytes, {st['failure']}")
        return st["durable_bytes"] == st["size_bytes"]

    def end_round(self):
        self.clone.stop()
        self.clone = None

    def close(self):
        if self.clone:
            self.clone.stop()
        self.target.stop()
        self.bench.remove(self.source, self.dest)


def hydrate_all(bench, volumes):
    """All told to begin, until the last is durable. Those still under way are asked in turn, seldom."""
    for v in volumes:
        v.prepare()
    clones = [v.clone.proc.pid for v in volumes]
    client_cpu, server_cpu = CpuWindow(clones), CpuWindow(v.target.proc.pid for v in volumes)
    watch = rounds.Watch()
    begin = time.monotonic()
    for v in volumes:
        v.clone.ask("hydrate")
    left = list(volumes)
    while left:
        left = [v for v in left if not v.is_durable()]
        if time.monotonic() - begin > 600:
            raise BenchError(f"{len(left)} volumes are not durable after 600 s")
        time.sleep(0.005)
    wall = time.monotonic() - begin
    watch.end()
    client_s, server_s, size = client_cpu.taken(), server_cpu.taken(), sum(v.size for v in volumes)
    memory = peak_memory_bytes(clones)
    for v in volumes:
        v.end_round()
        bench.compare(v.source, v.dest)
    return {**rounds.copy_figures(size, wall, client_s, server_s, watch.others(client_s + server_s)),
            "beyond_bitmap_mib": (memory - bitmap_bytes(size)) / MIB / len(volumes)}


def run(bench):
    nr = bench.options.volumes or (64 if bench.options.long else 16)
    total = bench.fit(bench.options.size or GIB, 4)
    volumes = []
    try:
        one = Volume(bench, "one", total, 7)
        volumes.append(one)
        for i in range(nr):
            volumes.append(Volume(bench, f"many{i}", max(total // nr // MIB, 1) * MIB, 100 + i))
        rigs = {"1": lambda: hydrate_all(bench, [one]), str(nr): lambda: hydrate_all(bench, volumes[1:])}
        runs = rounds.take_turns(bench, rigs, bench.options.rounds)
    finally:
        for v in volumes:
            v.close()
    rounds.copy_table(bench, runs)
    memory = {n: stats.summary([x["beyond_bitmap_mib"] for x in r]) for n, r in runs.items()}
    for name, s in memory.items():
        bench.say(f"   {name} at once: {s['median']:.1f} MiB a volume beyond the bitmap ({s['min']:.1f} to {s['max']:.1f})")
    return {"total_bytes": total, "volumes": nr, "runs": runs, "memory_mib": memory,
            "ratio": stats.ratio(rounds.rates(runs[str(nr)]), rounds.rates(runs["1"])),
            "memory": {n: stats.ratio([x["beyond_bitmap_mib"] for x in r], [1.0] * len(r)) for n, r in runs.items()}}


def goals(result):
    yield f"many: {result['volumes']} volumes at once over one, total rate", ">=", 0.9, result["ratio"]
    for name, got in result["memory"].items():
        yield f"memory: MiB a volume beyond the bitmap, {name} at once", "<=", 64, got
