# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Is a file of bench/run --json complete? For the smoke test: shape and plausibility, never speed."""
import json
import sys


def positive(values, what):
    if not values or not all(isinstance(v, (int, float)) and v > 0 for v in values):
        sys.exit(f"FAILED: {what}: {values}")


def check_hydrate(case):
    for rig in ("kcopy", "kclone", "floor", "floor-holes", "floor-splice"):
        for key in ("mib_s", "cpu_s_gib", "client_cpu_s", "server_cpu_s"):
            positive([r[key] for r in case["runs"].get(rig, [])], f"hydrate: {rig}: {key}")
    curve = case["curves"]["kclone"][0]
    if curve[-1][1] != case["size_bytes"] or sorted(curve) != curve:
        sys.exit(f"FAILED: hydrate: the curve of kclone: {curve}")


def check_readthrough(case):
    for depth in ("1", "32"):
        for rig in ("tcp", "kclone-nbd", "kclone-fuse"):
            positive([r["iops"] for r in case["runs"][depth].get(rig, [])], f"readthrough: {rig} at {depth}")


def check_foreground(case):
    # of so small a volume the busy time may hold no read at all
    for key in ("nr", "p50_us", "p99_us"):
        positive([r["idle"].get(key) for r in case["runs"]["kclone"]], f"foreground: idle {key}")
    positive([r["hydration_mib_s"] for r in case["runs"]["kclone"]], "foreground: rate")
    if not case["timeline"] or "nr" not in case["runs"]["kclone"][0]["busy"]:
        sys.exit("FAILED: foreground: no timeline")


CHECKS = {"hydrate": check_hydrate, "readthrough": check_readthrough, "foreground": check_foreground}


def main(path):
    with open(path, encoding="utf-8") as f:
        ret = json.load(f)
    for key in ("kernel", "cpu", "cores", "commit"):
        if not ret["facts"].get(key):
            sys.exit(f"FAILED: facts: {key}")
    for name, check in CHECKS.items():
        if "error" in ret["cases"].get(name, {"error": "is not there"}):
            sys.exit(f"FAILED: case {name}: {ret['cases'].get(name)}")
        check(ret["cases"][name])
        if not any(g["case"] == name for g in ret["goals"]):
            sys.exit(f"FAILED: no goal of case {name}")
    print(f"ok: {len(CHECKS)} cases, {len(ret['goals'])} goals")


if __name__ == "__main__":
    main(sys.argv[1])
