# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Case transit: a mixed image over a link, as it is and by --transit auto, in turns: is the choice ever slower than none?"""
from . import rounds, stats
from .case_links import measured
from .context import GIB, MIB
from .link import LinkSpec
from .targets import Ktarget

# Of a volume of 1 GiB the share that each link gets. At 1 Gbit/s two cores compress about as fast as the link carries: there a wrong choice shows.
LINKS = [(LinkSpec("1 Gbit/s, 0.5 ms", 1000, 0.5, 0), 4), (LinkSpec("100 Mbit/s, 10 ms", 100, 10, 0), 16)]


def make_rigs(bench, copier, servers):
    servers["ktarget"] = ktarget = Ktarget(bench, copier.source, place=copier.link.a)
    return {mode: copier.at_b("kcopy-" + mode, ktarget, [bench.program("kcopy"), "--transit", mode, ktarget.url, copier.dest]) for mode in ("plain", "auto")}


def over_link(bench, spec, size):
    bench.say(f"   {spec.name}: {size // MIB} MiB")
    runs, _ = measured(bench, spec, size, make_rigs)
    rounds.copy_table(bench, runs)
    for mode, r in runs.items():
        bench.say(f"   {mode:26}{stats.median(rounds.rates(r, 'carried_bytes')) / MIB:14.1f} MiB sent")
    return {"spec": spec._asdict(), "size_bytes": size, "runs": runs, "ratios": rounds.compare_all(runs, "plain", "mib_s")}


def run(bench):
    full = bench.options.size or GIB
    return {"links": {spec.name: over_link(bench, spec, bench.fit(max(full // share, 4 * MIB), 2)) for spec, share in LINKS}}


def goals(result):
    for name, of in result["links"].items():
        yield f"transit: auto over plain, {name}, rate", ">=", 1.0, of["ratios"].get("auto")
