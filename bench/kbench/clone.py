# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. kclone create and serve for one run, and its control socket.

Owns. One kclone, its metadata and sockets.
"""
import json
import socket
import time

from .link import HERE
from .procs import BenchError, wait_until

SERIAL = "0f8fad5b-d9cb-469f-a165-70867728950e.7"
META_FILES = ("", ".seen", ".source", ".disk", ".run", ".compared")


def bitmap_bytes(size_bytes):
    """What the bitmaps of a volume may take in memory: 160 MiB a TiB."""
    return size_bytes * 160 // (1 << 20)


class Clone:
    """A clone of url on dest, not hydrating until it is told to."""

    def __init__(self, bench, name, url, dest, program=None, options=(), fuse=False, block=False, place=HERE):
        self.bench, self.name = bench, name
        self.program = program or bench.program("kclone")
        self.meta = bench.path(name + ".meta")
        self.control_path = bench.path(name + ".ctl")
        self.nbd_path = bench.path(name + ".nbd")
        self.fuse_path = bench.path(name + ".fuse")
        if fuse or block:
            options = [*options, "--fuse", self.fuse_path, *(["--block"] if block else [])]
        self.remove_files()
        bench.procs.run(name + ".create", [*place.run, self.program, "create", "--source", url, "--dest", dest, "--meta", self.meta], 60)
        self.proc = bench.procs.start(name, [*place.run, self.program, "serve", "--meta", self.meta, "--nbd", self.nbd_path,
                                             "--control", self.control_path, "--no-hydrate", *options])
        self.sock = None
        wait_until(30, f"{name}: the source is up", self.is_up)

    def is_up(self):
        if self.proc.poll() is not None:
            raise BenchError(f"{self.name} ended: {self.bench.procs.tail(self.name)}")
        try:
            return self.status()["source"]["state"] == "up"
        except OSError:
            self.sock = None
            return False

    def ask(self, cmd, **args):
        if not self.sock:
            s = socket.socket(socket.AF_UNIX)
            try:
                s.settimeout(30)
                s.connect(self.control_path)
            except OSError:
                s.close()
                raise
            self.sock, self.rest = s, b""
        self.sock.sendall(json.dumps({"v": 1, "cmd": cmd, "args": args}).encode() + b"\n")
        while b"\n" not in self.rest:
            part = self.sock.recv(65536)
            if not part:
                raise ConnectionError(f"{self.name} closed its control socket")
            self.rest += part
        line, self.rest = self.rest.split(b"\n", 1)
        answer = json.loads(line)
        if not answer.get("ok"):
            raise BenchError(f"{self.name}: {cmd}: {answer.get('error')}")
        return answer["result"]

    def status(self):
        return self.ask("status")

    def hydrate(self, seconds=600):
        """Copy everything; returns (wall_s, [(seconds, durable bytes, bytes here)...]) when every block is durable."""
        begin = time.monotonic()
        self.ask("hydrate")
        return self.wait_durable(begin, seconds)

    def wait_durable(self, begin, seconds=600, every_s=None):
        """Polls seldom at first and often towards the end: the end is known to 2 ms, and asking costs the worker little. With every_s at that pace
        from beginning to end: for who looks at single reads, of which one that meets a question is slow."""
        samples = []
        while True:
            st = self.status()
            now = time.monotonic() - begin
            samples.append((now, st["durable_bytes"], st["here_bytes"]))
            if st["durable_bytes"] == st["size_bytes"]:
                return now, samples
            if st["bad_bytes"] or st["failure"]:
                raise BenchError(f"{self.name}: {st['bad_bytes']} bad bytes, {st['failure']}")
            if now > seconds:
                raise BenchError(f"{self.name}: {st['durable_bytes']} of {st['size_bytes']} bytes after {seconds} s")
            if every_s:
                time.sleep(every_s)
                continue
            left = now * (st["size_bytes"] / st["here_bytes"] - 1) if st["here_bytes"] else 1 # what is here is durable in bursts
            time.sleep(min(0.05, max(0.002, left / 4)))

    def verify_and_finish(self, seconds=600):
        self.ask("verify")
        wait_until(seconds, f"{self.name} is verified", lambda: self.status()["verify"]["state"] != "running")
        if self.status()["verify"]["state"] != "passed":
            raise BenchError(f"{self.name}: {self.status()['verify']}")
        self.ask("finish")

    def pids(self):
        return [self.proc.pid]

    def close_control(self):
        if self.sock:
            self.sock.close()
            self.sock = None

    def stop(self):
        try:
            self.ask("stop")
            self.bench.procs.wait_exit(self.proc, 30)
        except (OSError, BenchError):
            self.bench.procs.stop(self.proc)
        self.close_control()
        self.remove_files()

    def remove_files(self):
        self.bench.remove(*(self.meta + suffix for suffix in META_FILES), self.fuse_path)
