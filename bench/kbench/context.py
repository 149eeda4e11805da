# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. What every case needs: the programs, a directory on tmpfs, images, the options; and the facts about the machine.

Owns. The directory and all in it. A directory whose bench was killed is removed by the next bench: its lock is free.
"""
import fcntl
import glob
import os
import platform
import shutil
import subprocess
import sys

from .link import remove_netns
from .procs import BenchError, Procs, end_recorded

MIB = 1 << 20
GIB = 1 << 30
SHM = "/dev/shm"
PEERS = {"nbdkit": "nbdkit", "nbdcopy": "libnbd-bin", "nbdinfo": "libnbd-bin", "tgtd": "tgt", "tgtadm": "tgt",
         "qemu-img": "qemu-utils", "fio": "fio", "iscsi-perf": "libiscsi-bin"}
PEER_PACKAGES = ["nbdkit", "libnbd-bin", "tgt", "qemu-utils", "qemu-block-extra", "fio", "libiscsi-bin", "xfsprogs"]


def install_peers():
    """What is missing, from Debian."""
    missing = []
    for name in PEER_PACKAGES:
        out = subprocess.run(["dpkg-query", "-W", "-f", "${Status}", name], capture_output=True, text=True, check=False)
        if "ok installed" not in out.stdout:
            missing.append(name)
    if missing:
        print(f"== installing: {' '.join(missing)}", flush=True)
        env = dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
        subprocess.run(["apt-get", "update", "-q"], check=True, env=env)
        subprocess.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing], check=True, env=env)


def drop_devices(root, directory):
    """Loop devices and mounts of a directory that a program which was killed left behind; by path, so that no one else's is touched."""
    drop_loops = ["bash", "-c", '. "$1" && loop_drop_all "$2/"', "-", os.path.join(root, "tests", "lib", "loop.sh"), directory]
    subprocess.run(drop_loops, check=False, timeout=60)
    with open("/proc/mounts", encoding="utf-8") as f:
        mounts = [line.split()[1] for line in f if line.split()[1].startswith(directory + "/")]
    for path in reversed(mounts):
        subprocess.run(["umount", "-l", path], check=False, timeout=60)
    subprocess.run(drop_loops, check=False, timeout=60)


class Bench:
    """One run of bench/run."""

    def __init__(self, root, options):
        self.root, self.options = root, options
        self.build = options.build or os.path.join(root, "build", "release")
        self.remove_stale(root)
        self.dir = f"{SHM}/kedge-bench.{os.getpid()}"
        os.mkdir(self.dir, 0o700)
        self.lock = os.open(self.dir, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.procs = Procs(self.dir)
        self.has_peers = all(shutil.which(p) for p in PEERS) and options.peers

    @staticmethod
    def remove_stale(root):
        for path in glob.glob(f"{SHM}/kedge-bench.*"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                end_recorded(path)
                drop_devices(root, path)
                remove_netns(path.rpartition(".")[2])
                shutil.rmtree(path, ignore_errors=True)
            except BlockingIOError:
                pass # somebody's who lives
            finally:
                os.close(fd)

    def path(self, name):
        return os.path.join(self.dir, name)

    def program(self, name):
        return os.path.join(self.build, "bin", name)

    def tool(self, name):
        return os.path.join(self.build, "bench", "bench_" + name)

    def room_bytes(self):
        st = os.statvfs(SHM)
        free = st.f_bavail * st.f_frsize
        with open("/proc/meminfo", encoding="ascii") as f:
            available = next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))
        return min(free, available) - GIB

    def fit(self, want_bytes, copies):
        """A volume's size of which so many copies fit on the tmpfs: want_bytes, or half of it, a quarter..."""
        size = want_bytes
        while size * copies > self.room_bytes() and size > 16 * MIB:
            size //= 2
        if size * copies > self.room_bytes():
            raise BenchError(f"{SHM} has no room for {copies} files of {size // MIB} MiB")
        if size != want_bytes:
            self.say(f"   {SHM} is small: {size // MIB} MiB instead of {want_bytes // MIB}")
        return size

    def make_image(self, name, kind, size_bytes, seed=7, data_bytes=None):
        path = self.path(name)
        more = [str(data_bytes)] if data_bytes else []
        self.procs.run("image", [self.tool("image"), "make", path, kind, str(size_bytes), str(seed), *more], 600)
        return path

    def reset_dest(self, source, dest, allocated=False):
        self.procs.run("reset", [self.tool("image"), "reset", source, dest, *(["allocated"] if allocated else [])], 300)

    def compare(self, source, dest):
        self.procs.run("compare", [self.tool("image"), "compare", source, dest], 300)

    @staticmethod
    def say(text):
        print(text, flush=True)

    @staticmethod
    def remove(*paths):
        for path in paths:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    def close(self):
        self.procs.stop_all()
        drop_devices(self.root, self.dir)
        remove_netns(os.getpid())
        if os.environ.get("KEDGE_KEEP"):
            self.say(f"kept: {self.dir}")
        else:
            shutil.rmtree(self.dir, ignore_errors=True)
        os.close(self.lock)


def _first(path, prefix):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return next((line.partition(":")[2].strip() for line in f if line.startswith(prefix)), "")
    except OSError:
        return ""


def _text(path):
    try:
        with open(path, encoding="utf-8") as f:
            return f.read().strip()
    except OSError:
        return ""


def _output(argv, cwd=None):
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=cwd, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def cache_entry(build, name):
    """Of the build's CMakeCache.txt, or ""."""
    return next((line.partition("=")[2] for line in _text(os.path.join(build, "CMakeCache.txt")).splitlines() if line.startswith(name + ":")), "")


def facts(bench):
    """What the figures depend on. The commit is that of the tree that the programs were built from, which need not be ours."""
    tree, cpu0 = cache_entry(bench.build, "CMAKE_HOME_DIRECTORY") or bench.root, "/sys/devices/system/cpu/cpu0/cpufreq/"
    with open("/proc/mounts", encoding="utf-8") as f:
        shm = next((line.split()[3] for line in f if line.split()[1] == SHM), "")
    ret = {
        "kernel": platform.release(),
        "cpu": _first("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "is_virtual": "hypervisor" in _first("/proc/cpuinfo", "flags").split(),
        "governor": _text(cpu0 + "scaling_governor"),
        "tmpfs": shm,
        "thp_shmem": _text("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
        "load_at_begin": list(os.getloadavg()),
        "commit": _output(["git", "rev-parse", "HEAD"], tree),
        "is_dirty": bool(_output(["git", "status", "--porcelain", "--untracked-files=no"], tree)),
        "build_type": cache_entry(bench.build, "CMAKE_BUILD_TYPE"),
        "congestion_control": _text("/proc/sys/net/ipv4/tcp_congestion_control"),
        "python": sys.version.split()[0],
    }
    if bench.has_peers:
        ret["peers"] = {name: (_output([name, "--version"]) or "?").splitlines()[0] for name in ("nbdkit", "nbdcopy", "qemu-img", "fio")}
        ret["peers"]["tgt"] = _output(["dpkg-query", "-W", "-f", "${Version}", "tgt"])
    return ret
