# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Starts programs, knows what processor time they took, ends them whatever happens.

Owns. Every process it started, by pid, until it is reaped; nothing is ever ended by name.
"""
import ctypes
import glob
import os
import select
import signal
import socket
import subprocess
import time

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class BenchError(Exception):
    """The bench cannot go on: a program failed or did not answer."""


def _die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _be_killed_with_parent(): # a client that waits for a server which ends too hears nothing less
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def start_time(pid):
    """Of a process, in ticks since boot: with the pid its identity. None: there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        return None


def end_recorded(directory):
    """Servers that a bench which was killed has left: those whose pid and start time its directory names, and no others."""
    left = []
    for path in glob.glob(os.path.join(directory, "*.pid")):
        with open(path, encoding="ascii") as f:
            pid, _, started = f.read().partition(" ")
        if started and start_time(pid) == started:
            left.append((int(pid), started))
    for signum, seconds in ((signal.SIGTERM, 3), (signal.SIGKILL, 3)):
        for pid, started in left:
            if start_time(pid) == started:
                os.kill(pid, signum)
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(start_time(p) == s for p, s in left):
            time.sleep(0.05)


def cpu_s(pid):
    """Processor time of a live process in seconds, to the nanosecond: all threads, ended ones and io_uring's workers too."""
    return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3)


def descendants(pids):
    """Some processes and all below them that live now."""
    parent = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as f:
                    parent[int(name)] = int(f.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                pass
    found, todo = [], list(pids)
    while todo:
        at = todo.pop()
        found.append(at)
        todo += [p for p, up in parent.items() if up == at]
    return found


def peak_memory_bytes(pids):
    """The most that these processes and all below them ever had resident, each for itself: what they share counts for each, so
    that the sum is an upper bound."""
    total = 0
    for pid in descendants(pids):
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            total += next((int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:")), 0)
    return total


class CpuWindow:
    """Processor time of running servers (with their children) between its making and taken()."""

    def __init__(self, pids):
        self.pids = list(pids)
        self.before = self.look()

    def look(self):
        ret = {}
        for pid in descendants(self.pids):
            try:
                ret[pid] = cpu_s(pid)
            except OSError:
                pass
        return ret

    def taken(self):
        after = self.look()
        gone = set(self.before) - set(after)
        if gone:
            raise BenchError(f"a process ended while it was measured: {sorted(gone)}")
        return sum(s - self.before.get(p, 0.0) for p, s in after.items())


def machine_cpu_s():
    """(busy, stolen) seconds of all processors since boot: tells how much of a run was somebody else's."""
    with open("/proc/stat", encoding="ascii") as f:
        v = [int(x) for x in f.readline().split()[1:9]]
    tick = os.sysconf("SC_CLK_TCK")
    return (v[0] + v[1] + v[2] + v[5] + v[6]) / tick, v[7] / tick


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(seconds, what, check):
    """Ask until it is so; bounded."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise BenchError(f"waited {seconds} s in vain: {what}")
        time.sleep(0.01)


def is_listening(pid, port):
    """Does somebody listen on a TCP port where the process lives? Seen from here, whatever network namespace that is."""
    with open(f"/proc/{pid}/net/tcp", encoding="ascii") as f:
        return any(w[3] == "0A" and int(w[1].partition(":")[2], 16) == port for w in (line.split() for line in list(f)[1:]))


class Procs:
    """All processes of a bench."""

    def __init__(self, log_dir):
        self.log_dir = log_dir
        self.alive = []

    def start(self, name, argv, stdout=None, env=None, stdin=subprocess.DEVNULL):
        """A server; its output goes to NAME.log unless stdout says otherwise. Returns its Popen."""
        with open(os.path.join(self.log_dir, name + ".log"), "ab") as log:
            p = subprocess.Popen(argv, stdin=stdin, stdout=stdout or log, stderr=log, env=env,
                                 preexec_fn=_die_with_parent)
        p.bench_name = name
        self.alive.append(p)
        with open(os.path.join(self.log_dir, name + ".pid"), "w", encoding="ascii") as f:
            f.write(f"{p.pid} {start_time(p.pid)}")
        return p

    def stop(self, p, seconds=10):
        """SIGTERM, then SIGKILL. Says by its result whether the process ended by itself when it was asked."""
        if p not in self.alive:
            return True
        was_polite = True
        if p.poll() is None:
            p.terminate()
            try:
                p.wait(seconds)
            except subprocess.TimeoutExpired:
                was_polite = False
                p.kill()
                p.wait()
        self.alive.remove(p)
        return was_polite

    def stop_all(self):
        for p in reversed(list(self.alive)):
            self.stop(p)

    def wait_exit(self, p, seconds):
        p.wait(seconds)
        self.alive.remove(p)
        return p.returncode

    def first_line(self, p, seconds=10):
        """The first line of a server that was started with stdout=PIPE."""
        if not select.select([p.stdout], [], [], seconds)[0]:
            raise BenchError(f"{p.bench_name} says nothing")
        line = p.stdout.readline().decode()
        if not line:
            raise BenchError(f"{p.bench_name} does not start: {self.tail(p.bench_name)}")
        return line.strip()

    def tail(self, name):
        try:
            with open(os.path.join(self.log_dir, name + ".log"), "rb") as f:
                return f.read()[-800:].decode(errors="replace").strip()
        except OSError:
            return ""

    def run(self, name, argv, seconds=600, capture=False):
        """A program to its end: (wall_s, cpu_s, output). Its processor time comes with wait4(2): all its threads and children."""
        log_path = os.path.join(self.log_dir, name + ".log")
        with open(log_path, "wb") as log:
            begin = time.monotonic()
            p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if capture else log, stderr=log,
                                 preexec_fn=_be_killed_with_parent)
            self.alive.append(p)
            p.bench_name = name
            text = self._read_output(p, seconds) if capture else ""
            status, usage = self._wait4(p, begin + seconds)
            wall = time.monotonic() - begin
        self.alive.remove(p)
        if status != 0:
            raise BenchError(f"{' '.join(argv)}: ended with {status}: {self.tail(name) or text[-800:]}")
        return wall, usage.ru_utime + usage.ru_stime, text

    def _read_output(self, p, seconds):
        parts, end = [], time.monotonic() + seconds
        while True:
            if not select.select([p.stdout], [], [], max(0, end - time.monotonic()))[0]:
                raise BenchError(f"{p.bench_name} did not end within {seconds} s")
            part = os.read(p.stdout.fileno(), 65536)
            if not part:
                p.stdout.close()
                return b"".join(parts).decode(errors="replace")
            parts.append(part)

    def _wait4(self, p, deadline):
        # wait4 blocks without a bound; an alarm is the bound, so that nothing polls beside what is measured
        def late(signum, frame):
            raise BenchError(f"{p.bench_name} did not end in time")
        old = signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, max(0.001, deadline - time.monotonic()))
        try:
            _, status, usage = os.wait4(p.pid, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
        p.returncode = os.waitstatus_to_exitcode(status)
        return p.returncode, usage
