# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Was the machine ours while a case ran? What others took of it makes figures meaningless, however narrow their interval."""
import os
import resource
import time

from .procs import cpu_s, descendants, machine_cpu_s

OTHERS_PERCENT_MAX = 10
STOLEN_PERCENT_MAX = 1
BUILD_TYPES = ("RelWithDebInfo", "Release")
KTHREADD = 2


def kernel_cpu_s():
    """{(pid, start): seconds} of the kernel's own threads: a loop device's, a flusher's. They work for whoever asks, here for us."""
    tick, ret = os.sysconf("SC_CLK_TCK"), {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as f:
                    w = f.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(w[1]) == KTHREADD:
                ret[int(name), w[19]] = (int(w[11]) + int(w[12])) / tick
    return ret


def own_cpu_s():
    """Of the bench, of all that it started and that ended, and of all that lives."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = ended.ru_utime + ended.ru_stime
    for pid in descendants([os.getpid()]):
        try:
            total += cpu_s(pid)
            if pid != os.getpid():
                total += waited_cpu_s(pid)
        except OSError:
            pass
    return total


def waited_cpu_s(pid):
    """Of the children that a living process has waited for: they are in no clock of a living process."""
    with open(f"/proc/{pid}/stat", "rb") as f:
        w = f.read().rpartition(b")")[2].split()
    return (int(w[13]) + int(w[14])) / os.sysconf("SC_CLK_TCK")


class Disturbance:
    """From its making to end(): what others took, and what the hypervisor did."""

    def __init__(self):
        self.nr_cores = len(os.sched_getaffinity(0))
        self.begin, self.machine, self.own, self.kernel = time.monotonic(), machine_cpu_s(), own_cpu_s(), kernel_cpu_s()

    def end(self, has_daemons=False):
        """has_daemons: what it starts leaves our tree and ends unseen, so that nobody can tell it from others."""
        wall, own = time.monotonic() - self.begin, own_cpu_s() - self.own
        kernel = sum(s - self.kernel.get(who, 0.0) for who, s in kernel_cpu_s().items())
        busy, stolen = (after - before for after, before in zip(machine_cpu_s(), self.machine))
        all_s = wall * self.nr_cores
        others = 0.0 if has_daemons else min(100.0, max(0.0, 100 * (busy - own - kernel) / all_s))
        return {"others_percent": others, "stolen_percent": 100 * stolen / all_s}


def why_meaningless(disturbed, build_type):
    """A reason, or None. Pure."""
    if build_type and build_type not in BUILD_TYPES:
        return f"a {build_type} build"
    if disturbed["others_percent"] > OTHERS_PERCENT_MAX:
        return f"others took {disturbed['others_percent']:.0f} % of the machine"
    if disturbed["stolen_percent"] > STOLEN_PERCENT_MAX:
        return f"the hypervisor took {disturbed['stolen_percent']:.1f} %"
    return None
