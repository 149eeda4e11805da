# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. The link of bench/link.c does what case links says it does: no quicker than its rate and delay, each loss drawn from the seed, the
queue bounded. Nothing here is an upper bound on a time. usage: test_link.py BUILD"""
import os
import subprocess
import sys
import tempfile
import types
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True

from kbench.link import HOSTS, Link, LinkSpec, netns  # noqa: E402
from kbench.procs import Procs, wait_until  # noqa: E402

BUILD = None
MASK = (1 << 64) - 1

# Each in its namespace. FLOOD sends numbered datagrams, SINK says which of them came, as soon as it has so many.
FLOOD = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print('ready', flush=True)
nr, size, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
for i in range(nr):
    s.sendto(i.to_bytes(4, 'big') + bytes(size - 4), ('10.84.0.2', 7001))
    if pause: time.sleep(pause)
sys.stdin.read()
"""
SINK = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.84.0.2', 7001)); s.settimeout(20)
print('ready', flush=True)
try:
    print(' '.join(str(int.from_bytes(s.recv(65536)[:4], 'big')) for _ in range(int(sys.argv[1]))), flush=True)
except TimeoutError: print('too few', flush=True)
"""
ECHO = """
import socket
s = socket.create_server(('10.84.0.1', 7000)); print('ready', flush=True)
c, _ = s.accept(); c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while True:
    d = c.recv(1)
    if not d: break
    c.sendall(d)
"""
ASK = """
import socket, time
c = socket.create_connection(('10.84.0.1', 7000)); c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1); best = 9
for _ in range(5):
    t = time.monotonic(); c.sendall(b'x'); c.recv(1); best = min(best, time.monotonic() - t)
print(best)
"""
SEND = """
import socket, sys
s = socket.create_server(('10.84.0.1', 7000)); print('ready', flush=True)
c, _ = s.accept(); c.sendall(bytes(2000000)); c.shutdown(socket.SHUT_WR); sys.stdin.read()
"""
TAKE = """
import socket, time
c = socket.create_connection(('10.84.0.1', 7000)); t = time.monotonic(); n = 0
while True:
    d = c.recv(65536)
    if not d: break
    n += len(d)
print(n, time.monotonic() - t)
"""


def survivors(seed, nr, loss_ppm):
    """Which of nr packets from a the program lets through: its draws (splitmix64) again."""
    state, kept = seed, []
    for i in range(nr):
        state = (state + 0x9e3779b97f4a7c15) & MASK
        z = ((state ^ state >> 30) * 0xbf58476d1ce4e5b9) & MASK
        z = ((z ^ z >> 27) * 0x94d049bb133111eb) & MASK
        if (z ^ z >> 31) % 1000000 >= loss_ppm:
            kept.append(i)
    return kept


class LinkTest(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.procs = Procs(self.dir.name)
        self.addCleanup(self.procs.stop_all)
        self.bench = types.SimpleNamespace(procs=self.procs, tool=lambda name: os.path.join(BUILD, "bench", "bench_" + name))

    def open(self, *spec, seed=1):
        link = Link(self.bench, LinkSpec("test", *spec), seed)
        self.addCleanup(link.close)
        return link

    def start(self, place, code, *args):
        p = self.procs.start("py", [*place.run, sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
        self.addCleanup(p.stdout.close)
        self.addCleanup(p.stdin.close)
        self.assertEqual(self.procs.first_line(p, 30), "ready")
        return p

    def ask(self, place, code, *args):
        return self.procs.run("py", [*place.run, sys.executable, "-c", code, *args], 60, capture=True)[2]

    def test_an_answer_takes_the_delay_of_both_ways(self):
        link = self.open(100, 30, 0)
        self.start(link.a, ECHO)
        self.assertGreaterEqual(float(self.ask(link.b, ASK)), 0.030)

    def test_bytes_take_their_time_at_the_rate(self):
        link = self.open(40, 1, 0)
        server = self.start(link.a, SEND)
        before = link.carried_bytes(server.pid)
        nr, seconds = self.ask(link.b, TAKE).split()
        self.assertEqual(nr, "2000000")
        # what came before the first look at the clock is one window at the most
        self.assertGreaterEqual(float(seconds), (2000000 - 65536) * 8 / 40e6)
        self.assertGreater(link.carried_bytes(server.pid) - before, 2000000)

    def test_what_is_lost_is_drawn_from_the_seed(self):
        link, expected = self.open(1000, 1, 10, seed=7), survivors(7, 1500, 100000)
        sink = self.start(link.b, SINK, str(len(expected)))
        self.start(link.a, FLOOD, "1500", "200", "0.0001")
        self.assertEqual(self.procs.first_line(sink, 60), " ".join(map(str, expected)))
        counts = link.close()
        self.assertEqual((counts["a"]["lost"], counts["a"]["overflowed"]), (1500 - len(expected), 0))

    def test_the_queue_is_bounded_and_the_rest_is_dropped(self):
        link = self.open(8, 1, 0)
        fit = 256 * 1024 // 1028
        sink = self.start(link.b, SINK, str(fit))
        flood = self.start(link.a, FLOOD, "1000", "1000", "0")
        wait_until(60, "all are in", lambda: link.carried_bytes(flood.pid) >= 1000 * 1028)
        self.assertEqual(self.procs.first_line(sink, 60), " ".join(map(str, range(fit))))
        counts = link.close()
        self.assertGreater(counts["a"]["overflowed"], 0)
        self.assertLessEqual(counts["a"]["overflowed"], 1000 - fit)

    def test_nothing_of_it_stays(self):
        link = self.open(100, 1, 0)
        pid = link.proc.pid
        link.close()
        self.assertFalse(any(os.path.exists("/run/netns/" + netns(host)) for host in HOSTS))
        self.assertFalse(os.path.exists(f"/proc/{pid}"))


if __name__ == "__main__":
    BUILD = sys.argv.pop(1)
    unittest.main()
