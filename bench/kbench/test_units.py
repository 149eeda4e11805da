# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. What the figures rest on: processor time of threads, children and ended threads; percentiles; intervals; verdicts."""
import copy
import os
import subprocess
import sys
import tempfile
import time
import types
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True

from kbench import case_foreground, context, disturb, goals, profile, rounds, stats, table  # noqa: E402
from kbench.procs import BenchError, CpuWindow, Procs, wait_until  # noqa: E402

# Waits for a line; then works in a thread that ends, in a child that lives on, and itself; says what each took by its own clock.
WORKER = """
import os, sys, threading, time
def burn(clock, s):
    end = time.clock_gettime(clock) + s
    while time.clock_gettime(clock) < end: pass
r, w = os.pipe()
go, back = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.read(go[0], 1); burn(time.CLOCK_PROCESS_CPUTIME_ID, 0.2); os.write(back[1], b'x'); os.read(r, 1); os._exit(0)
print('ready', flush=True); sys.stdin.readline()
os.write(go[1], b'x')
t = threading.Thread(target=burn, args=(time.CLOCK_THREAD_CPUTIME_ID, 0.15)); t.start(); t.join()
burn(time.CLOCK_THREAD_CPUTIME_ID, 0.1); os.read(back[0], 1)
print('done', flush=True); sys.stdin.readline()
if len(sys.argv) > 1: os.write(w, b'x'); os.wait()
print('waited', flush=True); sys.stdin.readline(); os.write(w, b'x')
"""


class Cpu(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.procs = Procs(self.dir.name)

    def tearDown(self):
        self.procs.stop_all()
        self.dir.cleanup()

    def start(self, *args):
        p = self.procs.start("worker", [sys.executable, "-c", WORKER, *args], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
        self.addCleanup(p.stdout.close)
        self.addCleanup(p.stdin.close)
        self.assertEqual(self.procs.first_line(p), "ready")
        return p

    def go(self, p, expected):
        p.stdin.write(b"\n")
        p.stdin.flush()
        self.assertEqual(self.procs.first_line(p, 60), expected)

    def test_window_counts_ended_threads_and_living_children(self):
        p = self.start()
        window = CpuWindow([p.pid])
        self.go(p, "done")
        taken = window.taken()
        # what was burnt by their own clocks, and little more: the exact sum, whatever else the machine does
        self.assertGreaterEqual(taken, 0.449)
        self.assertLess(taken, 0.7)
        self.go(p, "waited")

    def test_window_refuses_when_a_process_ended(self):
        p = self.start("end")
        window = CpuWindow([p.pid])
        self.go(p, "done")
        self.go(p, "waited")
        with self.assertRaises(BenchError):
            window.taken()

    def test_run_counts_children_and_says_failure(self):
        burn = "import time\nwhile time.process_time() < 0.2: pass"
        _, cpu, text = self.procs.run("sh", ["sh", "-c", f"{sys.executable} -c '{burn}'; echo told"], capture=True)
        self.assertGreaterEqual(cpu, 0.199)
        self.assertEqual(text, "told\n")
        with self.assertRaises(BenchError):
            self.procs.run("false", ["false"])
        with self.assertRaises(BenchError):
            self.procs.run("late", ["sleep", "60"], seconds=0.2)


class Stats(unittest.TestCase):
    def test_percentile_is_nearest_rank(self):
        v = list(range(1, 101))
        self.assertEqual([stats.percentile(v, p) for p in (1, 50, 99, 100)], [1, 50, 99, 100])
        self.assertEqual(stats.percentile([7], 99), 7)

    def test_median_of_even_and_odd(self):
        self.assertEqual((stats.median([3, 1, 2]), stats.median([4, 1, 2, 3])), (2, 2.5))

    def test_drift_that_hits_both_does_not_widen_the_interval(self):
        weather = [1.0, 2.0, 3.0, 4.0, 5.0]
        got = stats.ratio([2 * w for w in weather], weather)
        self.assertEqual((got["ratio"], got["low"], got["high"]), (2.0, 2.0, 2.0))

    def test_noise_does(self):
        got = stats.ratio([1.0, 2.0, 3.0, 2.0, 1.0], [2.0, 1.0, 1.0, 3.0, 2.0])
        self.assertLess(got["low"], got["ratio"])
        self.assertGreater(got["high"], got["ratio"])


    def test_the_doubt_of_both_is_in_a_difference(self):
        sure, unsure = stats.above([50.0] * 5, [10.0] * 5), stats.above([50.0] * 5, [5.0, 10.0, 10.0, 10.0, 30.0])
        self.assertEqual((sure["ratio"], sure["low"], sure["high"]), (40, 40, 40))
        self.assertEqual((unsure["ratio"], unsure["low"]), (40, 20))


class Turns(unittest.TestCase):
    def test_each_has_one_turn_a_round_and_is_in_the_middle_on_average(self):
        names = list("ABCDEFGHI")
        orders = [rounds.turns(names, at) for at in range(6)]
        for order in orders:
            self.assertEqual(sorted(order), names)
        for name in names:
            self.assertEqual(sum(order.index(name) for order in orders), 6 * 4)

    def test_a_seldom_one_takes_part_in_the_first_rounds(self):
        bench = types.SimpleNamespace(say=lambda text: None, options=types.SimpleNamespace(long=False))
        calls = []
        rigs = {name: lambda name=name: calls.append(name) or {} for name in "AB"}
        runs = rounds.take_turns(bench, rigs, 5, seldom=("B",))
        self.assertEqual((len(runs["A"]), len(runs["B"])), (5, rounds.SELDOM_ROUNDS))
        self.assertEqual((calls.count("A"), calls.count("B")), (6, rounds.SELDOM_ROUNDS)) # and does not warm up
        bench.options.long = True
        self.assertEqual(len(rounds.take_turns(bench, rigs, 5, seldom=("B",))["B"]), 5)

    def test_nobody_always_follows_the_same(self):
        orders = [rounds.turns(list("ABCDE"), at) for at in range(6)]
        for name in "ABCDE":
            self.assertGreater(len({o[o.index(name) - 1] for o in orders if o.index(name)}), 1)


class Disturbed(unittest.TestCase):
    BURN = "import time\nprint('ready', flush=True)\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True)\nimport sys; sys.stdin.read()"

    def why(self, others, stolen=0.0, build="Release"):
        return disturb.why_meaningless({"others_percent": others, "stolen_percent": stolen}, build)

    def test_reasons(self):
        self.assertIsNone(self.why(9))
        self.assertIn("others took 11 %", self.why(11))
        self.assertIn("hypervisor", self.why(0, 2))
        self.assertIn("Debug", self.why(0, 0, "Debug"))
        self.assertIn("meaningless: others", goals.judge("case", ("text", "<=", 1, {"ratio": 0.5, "low": 0.4, "high": 0.6, "n": 5}), self.why(50))["verdict"])

    def burn(self):
        p = subprocess.Popen([sys.executable, "-c", self.BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(p.stdout.close)
        self.addCleanup(p.kill)
        self.assertEqual([p.stdout.readline(), p.stdout.readline()], [b"ready\n", b"done\n"])
        return p

    def test_what_we_started_is_ours_alive_and_ended(self):
        before = disturb.own_cpu_s()
        p = self.burn()
        alive = disturb.own_cpu_s() - before
        p.stdin.close()
        p.wait()
        ended = disturb.own_cpu_s() - before
        for got in (alive, ended):
            self.assertGreaterEqual(got, 0.49)
            self.assertLess(got, 2)

    def test_a_grandchild_that_ended_is_ours(self):
        before = disturb.own_cpu_s()
        shell = f'{sys.executable} -c "import time\nwhile time.process_time() < 0.5: pass"; echo done; read line'
        p = subprocess.Popen(["bash", "-c", shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(p.stdout.close)
        self.assertEqual(p.stdout.readline(), b"done\n")
        self.assertGreaterEqual(disturb.own_cpu_s() - before, 0.47)
        p.communicate(b"\n")
        self.assertGreaterEqual(disturb.own_cpu_s() - before, 0.47)

    @staticmethod
    def is_running(pid):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as f:
                return f.read().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def test_what_others_take_is_seen(self):
        # by a process that is not below us: its parent ends at once
        code = (f"import os, subprocess, sys\np = subprocess.Popen([sys.executable, '-c', 'import time\\nwhile time.process_time() < 1: pass'], "
                "stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)\nprint(p.pid); os._exit(0)")
        watch = disturb.Disturbance()
        pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        wait_until(60, "the other has ended", lambda: not self.is_running(pid))
        got, seconds = watch.end(), time.monotonic() - watch.begin
        self.assertGreater(got["others_percent"] / 100 * seconds * watch.nr_cores, 0.7)


class Goals(unittest.TestCase):
    def verdict(self, sense, limit, ratio, low, high, n=5):
        return goals.judge("case", ("text", sense, limit, {"ratio": ratio, "low": low, "high": high, "n": n}))["verdict"]

    def test_verdicts(self):
        self.assertEqual(self.verdict(">=", 1.3, 1.4, 1.35, 1.5), "reached")
        self.assertEqual(self.verdict(">=", 1.3, 1.4, 1.2, 1.5), "reached, within the noise")
        self.assertEqual(self.verdict(">=", 1.3, 1.2, 1.1, 1.25), "not reached")
        self.assertEqual(self.verdict("<=", 0.7, 0.8, 0.75, 0.9), "not reached")
        self.assertEqual(self.verdict("<=", 0.7, 0.6, 0.5, 0.65), "reached")
        self.assertIn("by 3 of the 5", self.verdict("<=", 0.7, 0.6, 0.5, 0.65, 3))
        self.assertEqual(goals.judge("case", ("text", "<=", 1, None))["verdict"], "not measured")


PERF = """
    33.33%  [kernel.kallsyms]  [k] finish_task_switch.isra.0   -      -
    11.11%  kcopy              [.] kedge_crc32c                -      -

     1.50%  libc.so.6          [.] __memcpy_avx_unaligned      -      -
"""
STRACE = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 61.50    0.012300           3      4096        12 recvfrom
 38.50    0.007700           7      1100           io_uring_enter
------ ----------- ----------- --------- --------- ----------------
100.00    0.020000           3      5196        12 total
"""


class Profile(unittest.TestCase):
    def test_symbols_of_perf(self):
        self.assertEqual(profile.parse_symbols(PERF), [(33.33, "finish_task_switch.isra.0", "kernel"), (11.11, "kedge_crc32c", "kcopy"),
                                                       (1.5, "__memcpy_avx_unaligned", "libc.so.6")])

    def test_calls_of_strace_with_and_without_errors(self):
        self.assertEqual(profile.parse_calls(STRACE), {"recvfrom": 4096, "io_uring_enter": 1100})

    def test_a_symbol_that_one_copy_did_not_show_counts_as_none_there(self):
        got = profile.mean_symbols([[(40.0, "a", "kernel"), (60.0, "b", "kernel")], [(100.0, "b", "kernel")]])
        self.assertEqual(got, [(80.0, "b", "kernel"), (20.0, "a", "kernel")])

    def test_calls_are_of_a_gib(self):
        text = profile.markdown({"size_bytes": 1 << 29, "rounds": 1, "server_s_gib": 0.3, "client_s_gib": 0.4, "symbols": {"source": [(60.0, "f", "kernel")]},
                                 "calls": {"source": {"sendfile": 100, "brk": 1}, "destination": {"readv": 300}}})
        self.assertIn("| readv | 0 | 600 |\n| sendfile | 200 | 0 |\n| all | 202 | 600 |", text)
        self.assertIn("| 60.0 | `f` | kernel |\n| 40.0 | the rest | |", text)


class Facts(unittest.TestCase):
    def test_the_commit_is_that_of_the_tree_the_programs_came_from(self):
        with tempfile.TemporaryDirectory() as tree:
            env = dict(os.environ, GIT_AUTHOR_NAME="x", GIT_AUTHOR_EMAIL="x@x", GIT_COMMITTER_NAME="x", GIT_COMMITTER_EMAIL="x@x")
            for argv in (["git", "init", "-q"], ["git", "commit", "-q", "--allow-empty", "-m", "x"]):
                subprocess.run(argv, cwd=tree, env=env, check=True)
            with open(os.path.join(tree, "CMakeCache.txt"), "w", encoding="ascii") as f:
                f.write(f"CMAKE_BUILD_TYPE:STRING=Debug\nCMAKE_HOME_DIRECTORY:INTERNAL={tree}\n")
            head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tree, capture_output=True, text=True, check=True).stdout.strip()
            here = os.path.dirname(os.path.abspath(__file__))
            got = context.facts(types.SimpleNamespace(root=here, build=tree, has_peers=False))
            self.assertEqual((got["commit"], got["is_dirty"], got["build_type"]), (head, False, "Debug"))


class Foreground(unittest.TestCase):
    def test_only_what_was_seen_under_way_is_beside_hydration(self):
        looks = [(0.0, 5, 10), (0.1, 10, 30), (0.2, 30, 70), (0.3, 80, 100), (0.4, 100, 100)]
        self.assertEqual(case_foreground.under_way(looks, 100), (0.2, 60))
        self.assertEqual(case_foreground.under_way(looks[3:], 100), (0, 0))


class Table(unittest.TestCase):
    FACTS = {"cpu": "x", "cores": 2, "memory_bytes": 1 << 34, "kernel": "6", "build_type": "Release", "commit": "abc", "is_dirty": False,
             "is_virtual": True, "congestion_control": "cubic", "peers": {"nbdkit": "nbdkit 1.32", "tgt": "1:1.0"}}

    def one(self, began, ratio, others=0.0, low=None, high=None, n=5):
        why = disturb.why_meaningless({"others_percent": others, "stolen_percent": 0}, "Release")
        got = {"ratio": ratio, "low": low or ratio, "high": high or ratio, "n": n}
        return {"v": 1, "began": began, "facts": copy.deepcopy(self.FACTS), "options": {"rounds": 5, "json": began, "size": None},
                "cases": {"case": {"disturbed": {"others_percent": others}}},
                "goals": [goals.judge("case", ("more", ">=", 1.3, got), why), goals.judge("case", ("never", "<=", 1, None), why)]}

    def rows(self, *results):
        return {row[0]: row[2:] for row in table.rows(results)}

    def test_least_middle_and_most(self):
        got = self.rows(self.one("a", 1.5), self.one("b", 1.4), self.one("c", 1.7))
        self.assertEqual(got["more"], ("1.4", "1.5", "1.7", "reached"))
        self.assertEqual(got["never"], ("", "", "", "not measured"))

    def test_runs_that_do_not_agree_are_counted(self):
        got = self.rows(self.one("a", 1.5), self.one("b", 1.2), self.one("c", 1.31, low=1.2, high=1.4))
        self.assertEqual(got["more"][3], "reached in 2 of 3, 1 of 3 undecided")
        self.assertEqual(self.rows(*(self.one(b, 1.1) for b in "abc"))["more"][3], "not reached")

    def test_a_disturbed_run_does_not_count(self):
        got = self.rows(self.one("a", 1.5), self.one("b", 9.9, others=40), self.one("c", 1.6))
        self.assertEqual(got["more"], ("1.5", "1.55", "1.6", "reached; 1 of 3 runs do not count; by 2 of the 3 runs it takes"))
        self.assertEqual(self.rows(self.one("a", 9.9, others=40))["more"], ("", "", "", "meaningless in all 1 runs"))

    def refused(self, key, *results):
        with self.assertRaisesRegex(table.NotComparable, key):
            table.markdown(results)

    def test_what_does_not_belong_together_is_refused(self):
        a, b = self.one("a", 1.5), self.one("b", 1.5)
        self.assertIn("| more | >= 1.3 | 1.5 | 1.5 | 1.5 |", table.markdown([a, b]))
        self.refused("same run", a, copy.deepcopy(a))
        for key, other in (("commit", "def"), ("is_dirty", True), ("cores", 4), ("peers", {})):
            c = copy.deepcopy(b)
            c["facts"][key] = other
            self.refused(key, a, c)
        c = copy.deepcopy(b)
        c["options"]["size"] = 1
        self.refused("size", a, c)
        del c["began"]
        self.refused("not written", a, c)


if __name__ == "__main__":
    unittest.main()
