# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. The servers that export a file over TCP, on loopback or at one end of a link: ours, the peers', the floor's. Each has pids() and stop()."""
import os
import re
import subprocess
import time

from .clone import SERIAL
from .link import HERE
from .procs import BenchError, free_port, is_listening, wait_until

IQN = "iqn.2026-01.test.kedge:bench"


class Target:
    """A server process of a file."""

    def __init__(self, bench, proc):
        self.bench, self.proc = bench, proc

    def pids(self):
        return [self.proc.pid]

    def stop(self):
        self.bench.procs.stop(self.proc)

    def wait_port(self, port):
        def check():
            if self.proc.poll() is not None:
                raise BenchError(f"{self.proc.bench_name} ended: {self.bench.procs.tail(self.proc.bench_name)}")
            return is_listening(self.proc.pid, port)
        wait_until(20, f"{self.proc.bench_name} listens", check)


class Ktarget(Target):
    def __init__(self, bench, path, name="ktarget", program=None, place=HERE):
        proc = bench.procs.start(name, [*place.run, program or bench.program("ktarget"), "--portal", place.address + ":0", "--iqn", IQN,
                                        "--lun", path, "--serial", SERIAL], stdout=subprocess.PIPE)
        super().__init__(bench, proc)
        line = bench.procs.first_line(proc)
        found = re.match(r"ktarget: listening on (.*)$", line)
        if not found:
            raise BenchError(f"ktarget says: {line}")
        self.url = f"iscsi://{found[1]}/{IQN}/1"


class Nbdkit(Target):
    def __init__(self, bench, path, place=HERE):
        port = free_port()
        argv = [*place.run, "nbdkit", "-f", "-r", "-i", place.address, "-p", str(port), "file", path]
        super().__init__(bench, bench.procs.start("nbdkit", argv))
        self.wait_port(port)
        self.url = f"nbd://{place.address}:{port}"


class Tgtd(Target):
    """With its defaults: thin_provisioning=1 has qemu-img ask where the holes are, and costs it three quarters of its rate on tmpfs. Of several
    tgtds each has a control socket of its own number."""

    def __init__(self, bench, path, place=HERE):
        port = free_port()
        self.number = str(1000 + os.getpid() % 30000)
        super().__init__(bench, bench.procs.start("tgtd", [*place.run, "tgtd", "-f", "-C", self.number, "--iscsi",
                                                            f"portal={place.address}:{port}"]))
        self.wait_port(port)
        wait_until(10, "tgtd answers", lambda: subprocess.run(self.adm("--op", "show", "--mode", "system"), check=False,
                                                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0)
        for args in (["--op", "new", "--mode", "target", "--tid", "1", "-T", IQN],
                     ["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", path],
                     ["--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", "1",
                      "--params", "readonly=1"],
                     ["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"]):
            bench.procs.run("tgtadm", self.adm(*args), 20)
        self.url = f"iscsi://{place.address}:{port}/{IQN}/1"

    def adm(self, *args):
        return ["tgtadm", "-C", self.number, "--lld", "iscsi", *args]

    def stop(self):
        # a tgtd with open sessions does not end at SIGTERM
        if self.proc.poll() is None:
            self.proc.terminate()
            end = time.monotonic() + 1
            while self.proc.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
            if self.proc.poll() is None:
                self.proc.kill()
        super().stop()
        for suffix in ("", ".lock"):
            try:
                os.unlink(f"/var/run/tgtd/socket.{self.number}{suffix}")
            except FileNotFoundError:
                pass


class PortPrinter(Target):
    """A program of bench/ that prints the port it listens on."""

    def __init__(self, bench, name, argv):
        super().__init__(bench, bench.procs.start(name, argv, stdout=subprocess.PIPE))
        self.port = bench.procs.first_line(self.proc)
