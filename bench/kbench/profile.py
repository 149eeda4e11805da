# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Where the time of a hydration goes: the symbols that take it at each end, by perf, and the system calls of each end, by strace.

perf and strace watch copies of their own, one after the other: strace slows down what it counts, and what is slowed down finds more ready at once.
"""
import os
import re
import signal

from . import rounds, stats
from .case_hydrate import Copier
from .context import GIB
from .procs import BenchError, wait_until
from .targets import Ktarget

HERTZ = 4999 # no divisor of the tick
SYMBOLS_MAX = 14
PERCENT_MIN = 1.0
CALLS_MIN = 10 # fewer a GiB are what beginning and ending takes


class Watcher:
    """perf or strace beside a running process, from its making to end(). has_begun(pid of the watcher) says that it watches."""

    def __init__(self, bench, name, argv, has_begun):
        self.bench, self.proc = bench, bench.procs.start(name, argv)
        wait_until(20, f"{name} watches", lambda: self.proc.poll() is not None or has_begun(self.proc.pid))

    def end(self):
        self.proc.send_signal(signal.SIGINT)
        self.bench.procs.wait_exit(self.proc, 60)


def has_perf_events(pid):
    try:
        return any("perf_event" in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


def is_traced(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return "TracerPid:\t0\n" not in f.read()


def parse_symbols(text):
    """[(percent, symbol, where)...] of perf report. Pure."""
    found = []
    for line in text.splitlines():
        m = re.match(r"\s*([\d.]+)%\s+(\S+)\s+\[(.)\]\s+(\S+)", line)
        if m:
            found.append((float(m[1]), m[4], "kernel" if m[3] == "k" else m[2]))
    return found


def parse_calls(text):
    """{name: count} of strace -c. Pure."""
    calls = {}
    for line in text.splitlines():
        w = line.split()
        if len(w) in (5, 6) and re.fullmatch(r"\d+\.\d+", w[0]) and w[-1] != "total":
            calls[w[-1]] = int(w[3])
    return calls


def mean_symbols(several):
    """Of several profiles of as many equal copies. Pure."""
    total = {}
    for found in several:
        for percent, symbol, where in found:
            total[symbol, where] = total.get((symbol, where), 0.0) + percent / len(several)
    return sorted(((percent, *who) for who, percent in total.items()), reverse=True)


def read_symbols(bench, path):
    argv = ["perf", "report", "-i", path, "--stdio", "--no-children", "-q", "--sort", "dso,symbol"]
    found = parse_symbols(bench.procs.run("perf-report", argv, 120, capture=True)[2])
    if not found:
        raise BenchError(f"perf saw nothing: {path}")
    return found


def by_perf(bench, copier, target, argv, nr):
    """{end: symbols} of nr copies. The source idles while a destination is reset, and what idles is not sampled."""
    record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(HERTZ), "-o"]
    source, dest = bench.path("perf.source"), [bench.path(f"perf.destination{i}") for i in range(nr)]
    watcher = Watcher(bench, "perf-source", [*record, source, "-p", str(target.proc.pid)], has_perf_events)
    for path in dest:
        copier.tool("perf-destination", target, [*record, path, "--", *argv])()
    watcher.end()
    return {"source": mean_symbols([read_symbols(bench, source)]), "destination": mean_symbols([read_symbols(bench, path) for path in dest])}


def by_strace(bench, copier, target, argv):
    """{end: {call: count}} of one copy."""
    source, dest = bench.path("strace.source"), bench.path("strace.destination")
    watcher = Watcher(bench, "strace-source", ["strace", "-f", "-c", "-o", source, "-p", str(target.proc.pid)],
                      lambda pid: is_traced(target.proc.pid))
    copier.tool("strace-destination", target, ["strace", "-f", "-c", "-o", dest, *argv])()
    watcher.end()
    ret = {}
    for end, path in (("source", source), ("destination", dest)):
        with open(path, encoding="utf-8") as f:
            ret[end] = parse_calls(f.read())
        if not ret[end]:
            raise BenchError(f"strace counted nothing at the {end}")
    return ret


def markdown(ret):
    """Pure."""
    gib = ret["size_bytes"] / GIB
    out = [f"{ret['rounds']} copies by kcopy, {ret['size_bytes'] >> 20} MiB of volume; CPU s/GiB, not watched: source {ret['server_s_gib']:.3f}, "
           f"destination {ret['client_s_gib']:.3f}."]
    for end, found in ret["symbols"].items():
        out += ["", f"| % of the {end}'s samples | symbol | in |", "|---|---|---|"]
        shown = [row for row in found if row[0] >= PERCENT_MIN][:SYMBOLS_MAX]
        out += [f"| {percent:.1f} | `{symbol}` | {where} |" for percent, symbol, where in shown]
        out.append(f"| {max(0.0, 100 - sum(row[0] for row in shown)):.1f} | the rest | |")
    out += ["", "| system calls a GiB of volume | source | destination |", "|---|---|---|"]
    calls = ret["calls"]
    names = sorted(set(calls["source"]) | set(calls["destination"]), key=lambda n: (-sum(c.get(n, 0) for c in calls.values()), n))
    for name in names:
        counts = [calls[end].get(name, 0) / gib for end in ("source", "destination")]
        if max(counts) >= CALLS_MIN:
            out.append(f"| {name} | {counts[0]:,.0f} | {counts[1]:,.0f} |")
    out.append("| all | " + " | ".join(f"{sum(calls[end].values()) / gib:,.0f}" for end in ("source", "destination")) + " |")
    return "\n".join(out)


def run(bench):
    size = bench.fit(bench.options.size or GIB, 2)
    source, dest = bench.make_image("profile.src", "mixed", size), bench.path("profile.dst")
    copier, target = Copier(bench, source, dest, size), Ktarget(bench, source)
    argv = [bench.program("kcopy"), *bench.options.kcopy_args, target.url, dest]
    try:
        plain = rounds.take_turns(bench, {"kcopy": copier.tool("kcopy", target, argv)}, bench.options.rounds)["kcopy"]
        ret = {"size_bytes": size, "rounds": bench.options.rounds,
               "symbols": by_perf(bench, copier, target, argv, bench.options.rounds), "calls": by_strace(bench, copier, target, argv)}
    finally:
        target.stop()
        bench.remove(source, dest)
    for end in ("client", "server"):
        ret[end + "_s_gib"] = stats.median(rounds.rates(plain, end + "_cpu_s")) / (size / GIB)
    return ret
