# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Two network namespaces and a link of a given rate, delay and loss between them (bench/link.c).

Owns. The namespaces, named after the bench's pid, and the relay between them.
"""
import collections
import os
import subprocess

from .procs import BenchError

HOSTS = {"a": "10.84.0.1", "b": "10.84.0.2"}
DEVICE = "kbench" # as bench/link.c calls it
MTU_BYTES = 1500
HEADER_BYTES = 52 # IPv4, TCP with timestamps
QUEUE_MIN_BYTES = 256 * 1024

# rtt_ms: there and back. loss: of packets, each way.
LinkSpec = collections.namedtuple("LinkSpec", "name mbit_s rtt_ms loss_percent")


def netns(host, pid=None):
    return f"kedge-bench-{pid or os.getpid()}-{host}"


def remove_netns(pid):
    """The namespaces of a bench; nobody else's have its pid in their name."""
    for host in HOSTS:
        if os.path.exists("/run/netns/" + netns(host, pid)):
            subprocess.run(["ip", "netns", "del", netns(host, pid)], check=False, timeout=60)


def queue_bytes(spec):
    """What the line holds under way once more, as a router's buffer is sized; at least a small switch's."""
    return max(QUEUE_MIN_BYTES, int(spec.mbit_s * 1e6 / 8 * spec.rtt_ms / 1000))


def payload_bytes_s(spec):
    """The most that TCP can carry over it."""
    return spec.mbit_s * 1e6 / 8 * (MTU_BYTES - HEADER_BYTES) / MTU_BYTES


class Place:
    """Where a program runs: on this machine as it is, or at one end of a link. run: what goes before its command line."""

    def __init__(self, address="127.0.0.1", run=()):
        self.address, self.run = address, list(run)


HERE = Place()


class Link:
    """a and b: the two places. From a to b goes what b copies from a."""

    def __init__(self, bench, spec, seed=1):
        self.bench, self.spec, self.seed, self.proc = bench, spec, seed, None
        self.a, self.b = (Place(address, ["nsenter", "--net=/run/netns/" + netns(host), "--"]) for host, address in HOSTS.items())
        try:
            self.open()
        except BaseException:
            self.close()
            raise

    def open(self):
        for host in HOSTS:
            self.ip("netns", "add", netns(host))
            # no packets of its own accord on a line of which every packet is counted
            self.bench.procs.run("ip", ["nsenter", "--net=/run/netns/" + netns(host), "--", "sh", "-c",
                                        "! [ -e /proc/sys/net/ipv6 ] || echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6"], 20)
        s = self.spec
        self.proc = self.bench.procs.start("link", [self.bench.tool("link"), netns("a"), netns("b"), str(round(s.mbit_s * 1e6)), str(round(s.rtt_ms * 500)),
                                                    str(round(s.loss_percent * 1e4)), str(queue_bytes(s)), str(self.seed)], stdout=subprocess.PIPE)
        if self.bench.procs.first_line(self.proc) != "ready":
            raise BenchError(f"bench_link: {self.bench.procs.tail('link')}")
        for host, address in HOSTS.items():
            self.ip("-n", netns(host), "link", "set", "lo", "up")
            self.ip("-n", netns(host), "link", "set", "dev", DEVICE, "mtu", str(MTU_BYTES), "txqueuelen", "10000", "up")
            self.ip("-n", netns(host), "addr", "add", address + "/24", "dev", DEVICE)

    def ip(self, *args):
        self.bench.procs.run("ip", ["ip", *args], 20)

    def carried_bytes(self, server_pid):
        """What a sent since the link is there, headers and what was lost included; server_pid: a process in a."""
        with open(f"/proc/{server_pid}/net/dev", encoding="ascii") as f:
            fields = next(line.split() for line in f if line.strip().startswith(DEVICE + ":"))
        return int(fields[9])

    def close(self):
        """{"a": {...}, "b": {...}}: what was sent from each end, or None when the link never stood."""
        counts = None
        if self.proc:
            self.proc.terminate()
            out, _ = self.proc.communicate(timeout=10)
            lines = [[int(w) for w in line.split()] for line in out.decode().splitlines() if line != "ready"]
            counts = {host: dict(zip(("sent", "lost", "overflowed", "bytes"), line)) for host, line in zip(HOSTS, lines)} or None
            self.bench.procs.stop(self.proc)
            self.proc = None
        remove_netns(os.getpid())
        return counts
