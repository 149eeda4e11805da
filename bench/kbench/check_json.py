# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Are the files of bench/run --json and --plot complete? For the smoke test: shape and plausibility, never speed."""
import json
import sys
import xml.etree.ElementTree


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
    if None in case["map"]["times_s"]:
        sys.exit(f"FAILED: hydrate: the map has parts that never came: {case['map']}")


def check_readthrough(case):
    for depth in ("1", "32"):
        for rig in ("tcp", "kclone-nbd", "kclone-fuse"):
            positive([r["iops"] for r in case["runs"][depth].get(rig, [])], f"readthrough: {rig} at {depth}")


def check_links(case):
    if len(case["links"]) < 3:
        sys.exit(f"FAILED: links: {list(case['links'])}")
    for name, of in case["links"].items():
        for rig in ("kcopy", "bare"):
            runs = of["runs"].get(rig, [])
            for key in ("mib_s", "carried_bytes", "of_capacity", "busy_percent"):
                positive([r[key] for r in runs], f"links: {name}: {rig}: {key}")
        # a line that carries more than its rate is none; what waits in the queue at the end was counted already
        if any(r["busy_percent"] > 200 for rig in of["runs"].values() for r in rig):
            sys.exit(f"FAILED: links: {name}: {of['runs']}")
        # of few packets none may be lost; that the right ones are is test_link.py's
        if of["packets"]["a"]["lost"] and not of["spec"]["loss_percent"]:
            sys.exit(f"FAILED: links: {name}: lost packets: {of['packets']}")


def check_foreground(case):
    # of so small a volume the busy time may hold no read at all
    for key in ("nr", "p50_us", "p99_us"):
        positive([r["idle"].get(key) for r in case["runs"]["kclone"]], f"foreground: idle {key}")
    positive([r["hydration_mib_s"] for r in case["runs"]["kclone"]], "foreground: rate")
    if not case["timeline"] or "nr" not in case["runs"]["kclone"][0]["busy"]:
        sys.exit("FAILED: foreground: no timeline")


def check_downtime(case):
    for size, moves in case["moves"].items():
        positive([m["gap_ms"] for m in moves], f"downtime: {size}")
        for m in moves:
            if abs(sum(m["parts_ms"].values()) - m["gap_ms"]) > 1:
                sys.exit(f"FAILED: downtime: {size}: the parts are not the whole: {m}")
    positive(case["bare_ms"], "downtime: bare restart")


def check_sparse(case):
    for rig in ("kcopy full", "kcopy sparse", "kclone full", "kclone sparse"):
        positive([r["wall_s"] for r in case["runs"].get(rig, [])], f"sparse: {rig}")


def check_after(case):
    for load, by_rig in case["runs"].items():
        for rig in ("raw", "kclone"):
            positive([r["iops"] for r in by_rig[rig]], f"after: {load}: {rig}")


def check_many(case):
    for name in ("1", str(case["volumes"])):
        for key in ("mib_s", "client_cpu_s", "server_cpu_s"):
            positive([r[key] for r in case["runs"][name]], f"many: {name}: {key}")


def check_boot(case):
    for name in ("neither", "read-around", "history", "both"):
        positive([r["reads"] for r in case["runs"][name]], f"boot: {name}: reads")
    positive([r["waited"] for r in case["runs"]["neither"]], "boot: neither: waited")


CHECKS = {"hydrate": check_hydrate, "links": check_links, "readthrough": check_readthrough, "foreground": check_foreground,
          "downtime": check_downtime, "sparse": check_sparse, "after": check_after, "many": check_many, "boot": check_boot}


def text_boxes(chart):
    """[(left, right, top, bottom, text)...] of an SVG, by the width that letters have about; what stands upright is left out."""
    for t in chart.iter("text"):
        if t.get("transform") or not t.text:
            continue
        x, y, width = float(t.get("x")), float(t.get("y")), 5.8 * len(t.text)
        left = x - {"start": 0, "middle": width / 2, "end": width}[t.get("text-anchor")]
        yield left, left + width, y - 9, y + 2, t.text


def check_chart(chart):
    """Each text is inside, and none stands on another."""
    _, _, width, height = (float(w) for w in chart.get("viewBox").split())
    boxes = list(text_boxes(chart))
    for i, a in enumerate(boxes):
        if a[0] < -1 or a[1] > width + 1 or a[2] < -1 or a[3] > height + 1:
            sys.exit(f"FAILED: the report: {chart.get('aria-label')}: {a} is not inside {width} x {height}")
        for b in boxes[:i]:
            if a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]:
                sys.exit(f"FAILED: the report: {chart.get('aria-label')}: {a[4]} stands on {b[4]}")


def check_report(path):
    """It is well-formed, holds each kind of chart, and asks for nothing from elsewhere."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    root = xml.etree.ElementTree.fromstring(text.partition("<html")[1] + text.partition("<html")[2].replace('<meta charset="utf-8">', ""))
    charts = root.findall(".//svg")
    for chart in charts:
        check_chart(chart)
    nr = len(charts)
    if nr < 12 or "http" in text or "<script" in text:
        sys.exit(f"FAILED: the report: {nr} charts")


def main(path, report):
    with open(path, encoding="utf-8") as f:
        ret = json.load(f)
    for key in ("kernel", "cpu", "cores", "commit"):
        if not ret["facts"].get(key):
            sys.exit(f"FAILED: facts: {key}")
    for name, check in CHECKS.items():
        if "error" in ret["cases"].get(name, {"error": "is not there"}):
            sys.exit(f"FAILED: case {name}: {ret['cases'].get(name)}")
        if "meaningless" not in ret["cases"][name] or ret["cases"][name]["disturbed"]["others_percent"] < 0:
            sys.exit(f"FAILED: case {name}: was the machine ours?")
        check(ret["cases"][name])
        if not any(g["case"] == name for g in ret["goals"]):
            sys.exit(f"FAILED: no goal of case {name}")
    check_report(report)
    print(f"ok: {len(CHECKS)} cases, {len(ret['goals'])} goals")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
