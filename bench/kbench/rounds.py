# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Competitors taking turns, so that whatever drifts hits all alike; and what is said of their runs."""
import os
import random
import time

from . import stats
from .context import GIB, MIB
from .procs import machine_cpu_s


def turns(names, at):
    """The order of round at: drawn anew for each two rounds, and the second of them backwards, so that nobody always comes after the
    same other, and everybody is on the average in the middle. Pure."""
    order = list(names)
    random.Random(at // 2).shuffle(order)
    return order[::-1] if at % 2 else order


SELDOM_ROUNDS = 3


def take_turns(bench, rigs, nr_rounds, warm_up=True, seldom=()):
    """rigs: {name: function() -> dict of figures}. One round before, not counted, then nr_rounds. {name: [figures...]}
    seldom: those that no goal is about take part in the first SELDOM_ROUNDS alone, with --long as often as the rest."""
    seldom = () if bench.options.long else seldom
    runs = {name: [] for name in rigs}
    for at in range(-1 if warm_up else 0, nr_rounds):
        for name in turns([n for n in rigs if n not in seldom or 0 <= at < SELDOM_ROUNDS], at):
            figures = rigs[name]()
            if at >= 0:
                runs[name].append(figures)
        bench.say(f"   round {at + 1} of {nr_rounds}" + (" (warming up, not counted)" if at < 0 else ""))
    return runs


def rates(runs, key="mib_s"):
    return [r[key] for r in runs]


class Watch:
    """How much of the machine others took while something of ours was measured: from its making to end()."""

    def __init__(self):
        self.nr_cores = len(os.sched_getaffinity(0))
        self.begin, self.before = time.monotonic(), machine_cpu_s()

    def end(self):
        self.after, self.wall_s = machine_cpu_s(), time.monotonic() - self.begin

    def others(self, our_cpu_s):
        all_s = self.wall_s * self.nr_cores
        alien = max(0.0, self.after[0] - self.before[0] - our_cpu_s)
        return {"others_percent": 100 * alien / all_s, "stolen_percent": 100 * (self.after[1] - self.before[1]) / all_s}


def copy_figures(size_bytes, wall_s, client_cpu_s, server_cpu_s, others):
    """Of one copy of a volume: virtual MiB/s, CPU seconds per GiB of volume, both ends together."""
    return {"wall_s": wall_s, "mib_s": size_bytes / MIB / wall_s, "client_cpu_s": client_cpu_s, "server_cpu_s": server_cpu_s,
            "cpu_s_gib": (client_cpu_s + server_cpu_s) / (size_bytes / GIB), **others}


def copy_table(bench, runs):
    """One line a competitor."""
    bench.say(f"   {'':26}{'MiB/s median':>14}{'min':>8}{'max':>8}{'CPU s/GiB':>12}{'others %':>10}")
    for name, r in runs.items():
        rate, cpu = stats.summary(rates(r)), stats.median(rates(r, "cpu_s_gib"))
        alien = stats.median(rates(r, "others_percent"))
        bench.say(f"   {name:26}{rate['median']:14.0f}{rate['min']:8.0f}{rate['max']:8.0f}{cpu:12.3f}{alien:10.0f}")


def compare_all(runs, base, key):
    """{name: ratio with interval} of every competitor over one of them."""
    return {name: stats.ratio(rates(r, key), rates(runs[base], key)) for name, r in runs.items() if name != base and base in runs}
