# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. One HTML file with everything that was measured, readable without a network: charts as inline SVG, no script. Pure but for write()."""
import html
import os

from . import stats, svg

STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222;background:#fff}
svg{width:100%;height:auto;font:11.5px system-ui,sans-serif}svg text{fill:#222}h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ddd}
table{border-collapse:collapse;font-size:13px}td,th{padding:2px 10px 2px 0;text-align:left;vertical-align:top}.no{color:#a33d00}.yes{color:#00684c}
p.note{color:#555;font-size:13px}"""
RATE_BIN_S = 0.05
PERCENTILES = [("p50_us", 1, "50 %"), ("p90_us", 2, "90 %"), ("p99_us", 3, "99 %"), ("p999_us", 4, "99.9 %")]


def table(rows, head=()):
    out = ["<table>"]
    if head:
        out.append("<tr>" + "".join(f"<th>{html.escape(str(h))}</th>" for h in head) + "</tr>")
    for row in rows:
        out.append("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>")
    return "".join(out) + "</table>"


def note(what):
    return f'<p class="note">{html.escape(what)}</p>'


def mark(verdict):
    """Of svg.MARKS."""
    if verdict.startswith("meaningless"):
        return "–"
    if "," in verdict: # within the noise, or too few rounds
        return "≈"
    return "✓" if verdict == "reached" else "✗"


def goals_section(judged):
    rows = []
    for j in judged:
        if j["got"] and j["got"]["low"] > 0:
            k = j["limit"] if j["sense"] == ">=" else None
            # so that more is better for each: a goal "at most" is turned round
            values = [v / k if k else j["limit"] / v for v in (j["got"]["ratio"], j["got"]["low"], j["got"]["high"])]
            rows.append((f"{j['goal']} {j['sense']} {j['limit']:g}", values[0], min(values), max(values), mark(j["verdict"])))
    chart = svg.intervals(rows) if rows else ""
    cells = [(j["goal"], f"{j['sense']} {j['limit']:g}", f"{j['got']['ratio']:.3g}" if j["got"] else "",
              f"{j['got']['low']:.3g} … {j['got']['high']:.3g}" if j["got"] else "", j["verdict"]) for j in judged]
    return ("<h2>Goals</h2>" + note("Measured over wanted, 1 is the goal and right of it is better; with the 95 % interval. ✓ reached, ✗ not reached, ≈ not decided, – meaningless.") + chart +
            table(cells, ("goal", "wanted", "measured", "95 % interval", "")))


def rate_of(samples):
    """Bytes here by time to steps of MiB/s: of each bin what came in it. A last bin that is too short to tell belongs to the one before."""
    edges = [(0.0, 0)]
    for t, here in samples:
        if t - edges[-1][0] >= RATE_BIN_S:
            edges.append((t, here))
    if len(edges) == 1:
        edges.append(samples[-1])
    edges[-1] = samples[-1]
    out = []
    for (begin, before), (end, here) in zip(edges, edges[1:]):
        rate = (here - before) / max(end - begin, 1e-9) / (1 << 20)
        out += [(begin, rate), (end, rate)]
    return out


def hydrate_section(case):
    out = ["<h2>Hydration of a mixed image</h2>",
           svg.bars([(n, s["median"], s["min"], s["max"]) for n, s in case["rate"].items()], "MiB/s of volume"),
           note("Bars to the median of all rounds, lines from the least to the most."),
           svg.bars([(n, s["median"], s["min"], s["max"]) for n, s in case["cpu_s_gib"].items()], "CPU seconds a GiB, both ends")]
    for name, curves in case["curves"].items():
        out += [f"<h2>{html.escape(name)}: throughput over time</h2>",
                svg.lines([(f"round {i}" if i else "warming up", rate_of([(t, here) for t, _, here in c])) for i, c in enumerate(curves)],
                          "seconds since hydration began", "MiB/s of volume")]
    for name, r in case["ratios"].items():
        base = name.partition("/")[2]
        rows = [(f"{n} / {base}", v["ratio"], v["low"], v["high"], "") for n, v in r.items()]
        if rows:
            out += [f"<h2>Rates over that of {html.escape(base)}</h2>", svg.intervals(rows)]
    if case.get("map"):
        out += ["<h2>Order of hydration</h2>", svg.cells(case["map"]["times_s"]),
                note("The volume from its first byte (upper left) to its last, each cell an equal part; the colour says when all of it was here. "
                     "A run of its own, slowed down so that the map can be asked often enough.")]
    return "".join(out)


def links_section(case):
    out = ["<h2>Hydration over a link</h2>", note("Data over what TCP can carry on the link at most, which is 1; holes are not counted. \"Link busy\" counts "
                                                 "every byte that was sent, headers and what was lost included.")]
    for name, of in case["links"].items():
        out += [f"<h2>{html.escape(name)}</h2>", svg.bars([(n, s["median"], s["min"], s["max"]) for n, s in of["of_capacity"].items()], "of capacity", at_least=1),
                table([(n, f"{stats.median([r['mib_s'] for r in runs]):.1f}", f"{stats.median([r['busy_percent'] for r in runs]):.0f}",
                        f"{stats.median([r['carried_bytes'] for r in runs]) / (1 << 20):.1f}") for n, runs in of["runs"].items()],
                      ("", "MiB/s of volume", "link busy, %", "sent, MiB"))]
    return "".join(out)


def readthrough_section(case):
    out = []
    for depth, by_rig in case["runs"].items():
        series = []
        for name, runs in by_rig.items():
            series.append((name, [(x, stats.median([r[k] for r in runs])) for k, x, _ in PERCENTILES if k in runs[0]]))
        rows = [(n, stats.median(v), min(v), max(v)) for n, v in ((n, [r["iops"] for r in runs]) for n, runs in by_rig.items())]
        out += [f"<h2>Read-through, 4 KiB, {depth} at a time</h2>", svg.bars(rows, "IOPS"),
                svg.lines(series, "percentile", "µs", is_log=True, x_names=[(x, what) for _, x, what in PERCENTILES])]
    return "".join(out)


def foreground_section(case):
    out = ["<h2>Foreground reads while hydration runs</h2>"]
    if case["timeline"]:
        times, end = [t for t, *_ in case["timeline"]], case["curve"][-1][0]
        x_label, both = "seconds since hydration went on (last round)", (min(times), max(times + [end]))
        # of the few reads of 20 ms the nearest rank of 99 % is the last
        out += [svg.lines([("median", [(t, p) for t, _, p, _ in case["timeline"]]), ("slowest", [(t, p) for t, _, _, p in case["timeline"]])],
                          x_label, "µs, of each 20 ms", is_log=True, marks=[(0.0, "hydration"), (end, "done")], x_range=both),
                svg.lines([("hydration", rate_of([(t, here - case["curve"][0][2]) for t, _, here in case["curve"]]))],
                          x_label, "MiB/s of volume", x_range=both)]
    rows = [(name, x["idle"].get("p50_us"), x["busy"].get("p50_us"), x["idle"].get("p99_us"), x["busy"].get("p99_us"), round(x["hydration_mib_s"]))
            for name, runs in case["runs"].items() for x in runs]
    return "".join(out) + table(rows, ("", "p50 idle, µs", "p50 busy", "p99 idle", "p99 busy", "copying at MiB/s"))


def downtime_section(case):
    rows = [(size, [(p, stats.median([m["parts_ms"].get(p, 0) for m in moves])) for p in moves[0]["parts_ms"]])
            for size, moves in case["moves"].items()]
    return ("<h2>Downtime</h2>" + svg.stacked(rows, "ms") +
            note(f"Medians of each step. The workload's bare stop and start: {stats.median(case['bare_ms']):.1f} ms."))


def bars_section(title, case, key, unit):
    rows = [(n, stats.median(v), min(v), max(v)) for n, v in ((n, [r[key] for r in runs]) for n, runs in case["runs"].items())]
    return f"<h2>{html.escape(title)}</h2>" + svg.bars(rows, unit)


def after_section(case):
    out = ["<h2>After completion</h2>"]
    for load, by_rig in case["runs"].items():
        out.append(bars_section(load, {"runs": by_rig}, "mib_s", "MiB/s"))
    return "".join(out)


def boot_section(case):
    return bars_section("A boot on a clone, 20 ms away", case, "waited", "reads that waited for the source") + bars_section("The same", case, "seconds", "seconds")


SECTIONS = {"hydrate": hydrate_section, "links": links_section, "readthrough": readthrough_section, "foreground": foreground_section, "downtime": downtime_section,
            "sparse": lambda c: bars_section("1 GiB of data, full and in 1 TiB", c, "wall_s", "seconds"), "after": after_section,
            "many": lambda c: bars_section("Volumes at once", {"runs": {f"kclone, {n} at once": r for n, r in c["runs"].items()}}, "mib_s",
                                              "MiB/s, all together"),
            "boot": boot_section}


def make(result):
    def said(v):
        return f"{v:.3g}" if isinstance(v, float) else ", ".join(map(said, v)) if isinstance(v, list) else str(v)
    facts = [(k, ", ".join(f"{a}: {said(b)}" for a, b in v.items()) if isinstance(v, dict) else said(v)) for k, v in result["facts"].items()]
    body = [f"<h1>kedge, measured</h1>{note('Ratios within this run mean something; figures of different machines do not compare. docs/benchmarking.md')}",
            goals_section(result["goals"])]
    for name, case in result["cases"].items():
        if case.get("meaningless"):
            body.append(f"<h2>{name}: meaningless</h2>{note(case['meaningless'])}")
        body.append(f"<h2>{name}: failed</h2>{note(case['error'])}" if "error" in case else SECTIONS[name](case))
    body.append("<h2>The machine</h2>" + table(facts))
    return (f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>kedge, measured</title><style>{STYLE}</style></head><body>'
            + "".join(body) + "</body></html>\n")


def write(result, directory):
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, "report.html")
    with open(path, "w", encoding="utf-8") as f:
        f.write(make(result))
    return path
