# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. The table at the end: each goal beside what was measured. Pure.

A goal is (text, ">=" or "<=", limit, {"ratio", "low", "high", "n"} or None when its competitor was not measured).
"""
ROUNDS_MIN = 5


def judge(case, goal, meaningless=None):
    """meaningless: why nothing can be said, whatever was measured."""
    text, sense, limit, got = goal
    if not got:
        return {"case": case, "goal": text, "sense": sense, "limit": limit, "got": None, "verdict": "not measured"}
    is_reached = got["ratio"] >= limit if sense == ">=" else got["ratio"] <= limit
    verdict = "reached" if is_reached else "not reached"
    if meaningless:
        verdict = f"meaningless: {meaningless}"
    elif got["n"] < ROUNDS_MIN:
        verdict += f", by {got['n']} of the {ROUNDS_MIN} rounds it takes"
    elif got["low"] <= limit <= got["high"]:
        verdict += ", within the noise" # the interval does not decide
    return {"case": case, "goal": text, "sense": sense, "limit": limit, "got": got, "verdict": verdict}


def table(judged):
    width = max([len(j["goal"]) for j in judged] + [10])
    lines = [f"{'goal':{width}}  {'wanted':>10}  {'measured':>9}  {'95 % interval':>17}  "]
    for j in judged:
        wanted = f"{j['sense']} {j['limit']:g}"
        if j["got"]:
            interval = f"{j['got']['low']:.3g} .. {j['got']['high']:.3g}"
            lines.append(f"{j['goal']:{width}}  {wanted:>10}  {j['got']['ratio']:9.3g}  {interval:>17}  {j['verdict']}")
        else:
            lines.append(f"{j['goal']:{width}}  {wanted:>10}  {'':>9}  {'':>17}  {j['verdict']}")
    return "\n".join(lines)
