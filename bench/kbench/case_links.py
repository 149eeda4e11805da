# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Case links: a mixed image over links of a given rate, delay and loss, beside the peers and beside what the link can carry."""
import os

from . import rounds, stats
from .case_hydrate import QEMU_CONVERT, Copier
from .context import GIB, MIB
from .link import Link, LinkSpec, payload_bytes_s
from .procs import cpu_s
from .targets import Ktarget, Nbdkit, PortPrinter, Tgtd

# Of a volume of 1 GiB the share that each link gets, so that none takes much longer than a second; the longer the delay, the more of it is TCP's slow start.
LINKS = [(LinkSpec("1 Gbit/s, 0.5 ms", 1000, 0.5, 0), 16), (LinkSpec("100 Mbit/s, 10 ms", 100, 10, 0), 128),
         (LinkSpec("200 Mbit/s, 40 ms, 0.1 % lost", 200, 40, 0.1), 64)]
PEERS = ("nbdcopy", "qemu-img-W-m16")


class LinkCopier(Copier):
    """The client at b; what went over the link is counted."""

    def __init__(self, bench, link, source, dest, size_bytes):
        super().__init__(bench, source, dest, size_bytes)
        self.link, self.data_bytes = link, os.stat(source).st_blocks * 512

    def measured(self, server, copy, allocated=False):
        carried = []

        def counted():
            before, relay_s = self.link.carried_bytes(server.proc.pid), cpu_s(self.link.proc.pid)
            ret = copy()
            carried.append((self.link.carried_bytes(server.proc.pid) - before, cpu_s(self.link.proc.pid) - relay_s))
            return ret
        ret, spec = super().measured(server, counted, allocated), self.link.spec
        ret["carried_bytes"], relay_s = carried[0]
        ret["relay_percent"] = 100 * relay_s / ret["wall_s"]
        ret["of_capacity"] = self.data_bytes / ret["wall_s"] / payload_bytes_s(spec)
        ret["busy_percent"] = 100 * ret["carried_bytes"] / ret["wall_s"] / (spec.mbit_s * 1e6 / 8)
        return ret

    def at_b(self, name, server, argv):
        return self.tool(name, server, [*self.link.b.run, *argv])


def make_rigs(bench, copier, servers):
    link, source, dest = copier.link, copier.source, copier.dest
    servers["ktarget"] = ktarget = Ktarget(bench, source, place=link.a)
    servers["bare"] = bare = PortPrinter(bench, "floor", [*link.a.run, bench.tool("floor"), "serve", source, link.a.address])
    rigs = {"kcopy": copier.at_b("kcopy", ktarget, [bench.program("kcopy"), *bench.options.kcopy_args, ktarget.url, dest])}
    if bench.has_peers:
        servers["nbdkit"], servers["tgtd"] = Nbdkit(bench, source, place=link.a), Tgtd(bench, source, place=link.a)
        rigs["nbdcopy"] = copier.at_b("nbdcopy", servers["nbdkit"], ["nbdcopy", "--connections=4", "--requests=64", servers["nbdkit"].url, dest])
        rigs["qemu-img-W-m16"] = copier.at_b("qemu-img-W", servers["tgtd"], [*QEMU_CONVERT, "-W", "-m", "16", servers["tgtd"].url, dest])
    rigs["bare"] = copier.at_b("bare", bare, [bench.tool("floor"), "fetch", bare.port, dest, "holes", link.a.address])
    return rigs


def table(bench, runs):
    bench.say(f"   {'':26}{'MiB/s median':>14}{'min':>8}{'max':>8}{'of capacity':>13}{'link busy %':>13}{'sent MiB':>10}{'relay %':>9}")
    for name, r in runs.items():
        rate = stats.summary(rounds.rates(r))
        of, busy, sent, relay = (stats.median(rounds.rates(r, key)) for key in ("of_capacity", "busy_percent", "carried_bytes", "relay_percent"))
        bench.say(f"   {name:26}{rate['median']:14.1f}{rate['min']:8.1f}{rate['max']:8.1f}{of:13.2f}{busy:13.0f}{sent / MIB:10.1f}{relay:9.0f}")


def measured(bench, spec, size, make_rigs, seldom=()):
    """The competitors of make_rigs(bench, copier, servers) over one link, taking turns. Their runs, and what the link counted."""
    source, dest, servers = bench.make_image("links.src", "mixed", size), bench.path("links.dst"), {}
    link, counts = Link(bench, spec), None
    try:
        copier = LinkCopier(bench, link, source, dest, size)
        # no round to warm up: a link that is slower than the machine has nothing that could get warm
        runs = rounds.take_turns(bench, make_rigs(bench, copier, servers), bench.options.rounds, warm_up=False, seldom=seldom)
    finally:
        for server in servers.values():
            server.stop()
        counts = link.close()
        bench.remove(source, dest)
    return runs, counts


def over_link(bench, spec, size):
    bench.say(f"   {spec.name}: {size // MIB} MiB, at most {payload_bytes_s(spec) / MIB:.1f} MiB/s of data")
    runs, counts = measured(bench, spec, size, make_rigs, seldom=("bare",))
    table(bench, runs)
    best = max([p for p in PEERS if p in runs], key=lambda p: stats.median(rounds.rates(runs[p])), default=None)
    return {"spec": spec._asdict(), "size_bytes": size, "capacity_bytes_s": payload_bytes_s(spec), "runs": runs, "packets": counts, "best_peer": best,
            "of_capacity": {n: stats.summary(rounds.rates(r, "of_capacity")) for n, r in runs.items()},
            "ratios": {base: rounds.compare_all(runs, base, "mib_s") for base in ("bare", *PEERS) if base in runs}}


def run(bench):
    full = bench.options.size or (8 * GIB if bench.options.long else GIB)
    return {"links": {spec.name: over_link(bench, spec, bench.fit(max(full // share, 4 * MIB), 2)) for spec, share in LINKS}}


def goals(result):
    for name, of in result["links"].items():
        yield f"links: kcopy over the best peer, {name}, rate", ">=", 1.0, of["ratios"].get(of["best_peer"], {}).get("kcopy")
