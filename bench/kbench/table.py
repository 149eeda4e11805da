# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Separate runs of the bench as one table: of each goal the least, the middle and the most of what the runs measured. Pure."""
from . import stats

RUNS_MIN = 3
SAME_FACTS = ("cpu", "cores", "memory_bytes", "kernel", "thp_shmem", "governor", "congestion_control", "build_type", "commit", "is_dirty", "peers")
# where the results go and which cases ran is no difference
OTHER_OPTIONS = ("json", "plot", "case", "build")


class NotComparable(Exception):
    """These runs do not belong into one table."""


def check(results):
    """They are of separate runs of one thing on one machine, or NotComparable."""
    first, seen = results[0], {}
    for at, r in enumerate(results):
        if r.get("v") != 1 or "goals" not in r or "began" not in r:
            raise NotComparable(f"file {at + 1} was not written by this bench/run --json")
        if r["began"] in seen:
            raise NotComparable(f"files {seen[r['began']] + 1} and {at + 1} are the same run, of {r['began']}")
        seen[r["began"]] = at
        for key in SAME_FACTS:
            if r["facts"].get(key) != first["facts"].get(key):
                raise NotComparable(f"file {at + 1} differs from the first: {key} is {r['facts'].get(key)}, not {first['facts'].get(key)}")
        for key in (set(r["options"]) | set(first["options"])) - set(OTHER_OPTIONS):
            if r["options"].get(key) != first["options"].get(key):
                raise NotComparable(f"file {at + 1} was run otherwise: {key} is {r['options'].get(key)}, not {first['options'].get(key)}")


def verdict(judged, nr_runs):
    """What all runs say together of one goal; judged: those that count."""
    nr, reached = len(judged), sum(j["verdict"].startswith("reached") for j in judged)
    said = "reached" if reached == nr else "not reached" if reached == 0 else f"reached in {reached} of {nr}"
    unsure = sum("noise" in j["verdict"] or "rounds" in j["verdict"] for j in judged)
    if unsure:
        said += f", {unsure} of {nr} undecided" # within the noise, or of too few rounds
    if nr < nr_runs:
        said += f"; {nr_runs - nr} of {nr_runs} runs do not count"
    if nr < RUNS_MIN:
        said += f"; by {nr} of the {RUNS_MIN} runs it takes"
    return said


def rows(results):
    """[(goal, wanted, least, middle, most, verdict)...] in the order of the runs' goals."""
    by_goal = {}
    for r in results:
        for j in r["goals"]:
            by_goal.setdefault((j["goal"], j["sense"], j["limit"]), []).append(j)
    out = []
    for (goal, sense, limit), judged in by_goal.items():
        measured = [j for j in judged if j["got"]]
        counted = [j for j in measured if not j["verdict"].startswith("meaningless")]
        wanted = f"{sense} {limit:g}"
        if not counted:
            out.append((goal, wanted, "", "", "", judged[0]["verdict"] if not measured else f"meaningless in all {len(measured)} runs"))
            continue
        got = stats.summary([j["got"]["ratio"] for j in counted])
        out.append((goal, wanted, *(f"{got[k]:.3g}" for k in ("min", "median", "max")), verdict(counted, len(results))))
    return out


def machine(results):
    f = results[0]["facts"]
    commit = f["commit"][:12] + (" with changes" if f["is_dirty"] else "")
    text = [f"{len(results)} runs, begun {', '.join(sorted(r['began'] for r in results))}; commit {commit}, {f['build_type']}; {f['cpu']}, {f['cores']} cores"
            f"{' (virtual)' if f['is_virtual'] else ''}, {f['memory_bytes'] / (1 << 30):.0f} GiB, Linux {f['kernel']}, {f['congestion_control']}; "
            f"{results[0]['options']['rounds']} rounds a case."]
    if f.get("peers"):
        text.append("Peers: " + ", ".join(sorted(f"{name} {version.split(' (')[0].removeprefix(name).lstrip('- ')}" for name, version in f["peers"].items())) + ".")
    lines = []
    for name in results[0]["cases"]:
        others = [f"{c['disturbed']['others_percent']:.0f}" for c in (r["cases"].get(name, {}) for r in results) if "disturbed" in c]
        failed = sum("error" in r["cases"].get(name, {}) for r in results)
        lines.append(f"{name} {'/'.join(others) or '-'}" + (f" ({failed} failed)" if failed else ""))
    text.append("What others took of the machine, in percent, by case and run: " + ", ".join(lines) + ".")
    return "\n".join(text)


def markdown(results):
    check(results)
    out = [machine(results), "", "| goal | wanted | min | median | max | |", "|---|---|---|---|---|---|"]
    out += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows(results)]
    return "\n".join(out)
