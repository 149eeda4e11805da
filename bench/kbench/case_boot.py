# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Case boot: reads that wait for the source while a workload begins on a clone 20 ms away, with and without a history and read-around."""
import os
import random
import sqlite3
import time

from . import rounds, stats
from .clone import Clone
from .context import GIB, MIB
from .link import Link, LinkSpec
from .targets import Ktarget

LINK = LinkSpec("200 Mbit/s, 20 ms", 200, 20, 0)
FILLER_PART, STREAM_PART = 0.6, 0.03


class Content:
    """How much there is of what in a volume of that size, and what of it a boot reads."""

    def __init__(self, size):
        self.size, self.nr_files, self.nr_rows = size, size >> 18, size >> 12
        self.used = random.Random(11).sample(range(self.nr_files), self.nr_files // 8)
        self.queries = random.Random(12).sample(range(self.nr_rows), self.nr_rows // 640)


def mount(bench, device, path):
    os.makedirs(path, exist_ok=True)
    bench.procs.run("mount", ["mount", "-t", "ext4", device, path], 60)


def umount(bench, path):
    bench.procs.run("umount", ["umount", path], 60)


def write_random(path, size, rng):
    with open(path, "wb") as f:
        for at in range(0, size, MIB):
            f.write(rng.randbytes(min(MIB, size - at)))


def make_volume(bench, content):
    """ext4: first what nobody will read, so that the sweep from start to end is long in coming; then small files, a database, a large file."""
    image, at, rng, size = bench.path("boot.src"), bench.path("boot.mnt"), random.Random(7), content.size
    with open(image, "wb") as f:
        f.truncate(size)
    bench.procs.run("mkfs", ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], 120)
    mount(bench, image, at)
    try:
        write_random(f"{at}/filler", int(size * FILLER_PART), rng)
        for i in range(content.nr_files):
            os.makedirs(f"{at}/usr/{i % 60}", exist_ok=True)
            write_random(f"{at}/usr/{i % 60}/{i}", rng.choice((1, 3, 8, 20, 60)) * 1024, rng)
        db = sqlite3.connect(f"{at}/data.db")
        db.execute("create table t (id integer primary key, name text, body blob)")
        db.executemany("insert into t values (?, ?, ?)", ((i, rng.randbytes(8).hex(), rng.randbytes(160)) for i in range(content.nr_rows)))
        db.execute("create index by_name on t (name)")
        db.commit()
        db.close()
        write_random(f"{at}/stream", int(size * STREAM_PART), rng)
    finally:
        umount(bench, at)
    return image


def boot(at, content):
    """What is read in which order is the same each time, and of no order on the volume."""
    names = []
    for i in content.used:
        with open(f"{at}/usr/{i % 60}/{i}", "rb") as f:
            f.read()
    db = sqlite3.connect(f"{at}/data.db")
    for i in content.queries:
        names += [row[0] for row in db.execute("select name from t where id = ?", (i,))]
    for name in names:
        db.execute("select body from t where name = ?", (name,)).fetchall()
    db.execute("insert into t values (?, 'booted', x'00')", (content.nr_rows + 1,))
    db.commit()
    db.close()
    with open(f"{at}/stream", "rb") as f:
        while f.read(MIB):
            pass


def round_of(bench, url, place, content, options, history=None):
    """One boot on a fresh clone. history: where to write what it touched."""
    dest, at = bench.path("boot.dst"), bench.path("boot.mnt")
    with open(dest, "wb") as f:
        f.truncate(content.size)
    options = [*options, "--top", "never", *(["--trace"] if history else [])]
    clone = Clone(bench, "boot", url, dest, options=options, block=True, place=place)
    try:
        clone.ask("hydrate")
        begin = time.monotonic()
        mount(bench, clone.status()["device"]["block"], at)
        try:
            boot(at, content)
            seconds = time.monotonic() - begin
            st = clone.status()
        finally:
            umount(bench, at)
        if history:
            bench.procs.run("trace", [bench.program("kclone"), "trace", "--control", clone.control_path, "--output", history], 60)
    finally:
        clone.stop()
    a = st["access"]
    return {"seconds": seconds, "reads": a["reads"], "waited": a["source_reads"], "joined": a["joined_reads"], "fetched_bytes": a["fetched_bytes"],
            "here_bytes": st["here_bytes"], "network_bytes": st["source"]["read_bytes"]}


def run(bench):
    size = bench.fit(bench.options.size or (GIB if bench.options.long else 64 * MIB), 2)
    content = Content(size)
    image, history = make_volume(bench, content), bench.path("boot.history")
    link, target = Link(bench, LINK), None
    off = ["--read-around", "0"]
    try:
        target = Ktarget(bench, image, place=link.a)
        first = round_of(bench, target.url, link.b, content, off, history)
        bench.say(f"   recorded: {os.path.getsize(history)} bytes, in a boot of {first['seconds']:.1f} s")
        variants = {"neither": off, "read-around": [], "history": [*off, "--prefetch", history], "both": ["--prefetch", history]}
        runs = rounds.take_turns(bench, {n: lambda o=o: round_of(bench, target.url, link.b, content, o) for n, o in variants.items()},
                                bench.options.rounds, warm_up=False, seldom=("read-around",))
    finally:
        if target:
            target.stop()
        link.close()
        bench.remove(image, bench.path("boot.dst"), history)
    ratios = {}
    for name, r in runs.items():
        waited, took = [x["waited"] for x in r], [x["seconds"] for x in r]
        ratios[name] = stats.ratio(waited, [x["waited"] for x in runs["neither"]])
        bench.say(f"   {name:12} {stats.median(waited):6.0f} of {stats.median([x['reads'] for x in r]):6.0f} reads waited for the source"
                  f" ({stats.median([x['joined'] for x in r]):.0f} for a fetch under way), {stats.median(took):6.2f} s,"
                  f" {stats.median([x['network_bytes'] for x in r]) / MIB:.0f} MiB over the link")
    return {"size_bytes": size, "runs": runs, "ratios": ratios, "spec": LINK._asdict()}


def goals(result):
    for name in ("history", "both"):
        yield f"boot: reads that wait for the source, {name} over neither", "<=", 0.25, result["ratios"].get(name)
