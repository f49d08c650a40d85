"""All benchmarks of speed and growth, one after the other: what ``./run_all.sh bench`` runs.

    ./run_all.sh bench [NAME...] [--full] [--csv report/performance.csv] [--publish]

Each benchmark runs in a process of its own and alternates the two sides that it compares; the table has the median of
the ratios and their spread.  The default sizes take about a quarter of an hour on two idle cores; ``--full`` takes
hours.  What lacks its data, weights or library is skipped and says so.  ``--publish`` writes docs/performance.csv and
the table in docs/performance.md.  The other files of this folder are simulations that show
whether methods are right; `speed.py` times the tables of an evaluation one by one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measured import COLUMNS, ROOT, Row, Skipped, frame, load_average, machine, markdown

BENCHMARKS = {
    "decoding": "bench_decoding",
    "heads": "bench_heads",
    "extraction": "bench_extraction",
    "training": "bench_training",
    "growth": "bench_growth",
    "evaluation": "bench_evaluation",
    "recipe": "bench_recipe",
    "study": "bench_study",
}
"""Module of each benchmark; its function ``measure(full)`` gives rows."""

PUBLISHED, PAGE = ROOT / "docs" / "performance.csv", ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- table: ./run_all.sh bench --publish -->\n", "<!-- end of table -->\n"


def measure_here(name, full, file):
    """Run one benchmark in this process and write its rows."""
    rows = []
    try:
        for row in __import__(BENCHMARKS[name]).measure(full):
            rows.append(row)
    except Skipped as reason:
        rows.append(Row(name, "", note=str(reason)))
    frame(rows).to_csv(file, index=False)


def measure(name, full):
    """Run one benchmark in a process of its own; return its table, or a row that says that it failed."""
    load = load_average()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.csv")
        command = [sys.executable, __file__, name, "--here", str(file), *(["--full"] if full else [])]
        bars = {"SKIN_TL_PROGRESS": str(Path(folder, "progress"))}  # in place of the terminal
        failed = subprocess.run(command, cwd=ROOT, env=os.environ | bars).returncode
        if failed:
            frame([Row(name, "", note=f"failed with status {failed}")]).to_csv(file, index=False)
        return pd.read_csv(file, keep_default_na=True).assign(load_average=load)


def with_table(page, table):
    """Return the text of a page with its table replaced; without a table, with a note that there is none."""
    before, rest = page.split(BEGIN)
    shown = "It has not been measured on an idle machine yet.\n" if table is None else markdown(table)
    return before + BEGIN + shown + END + rest.split(END)[1]


def main():
    parser = argparse.ArgumentParser(
        prog="./run_all.sh bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--full", action="store_true", help="the sizes of HAM10000, and 100,000 images for growth")
    parser.add_argument("--csv", type=Path, default=ROOT / "report" / "performance.csv")
    parser.add_argument("--publish", action="store_true", help="write docs/performance.csv and docs/performance.md too")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    if options.here:
        return measure_here(options.names[0], options.full, options.here)
    if options.publish and options.names:
        parser.error("--publish takes all benchmarks: leave out their names")
    tables = []
    for name in options.names or BENCHMARKS:
        print(f"[{name}] …", file=sys.stderr, flush=True)
        tables.append(measure(name, options.full))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    table = pd.concat(tables)[[*COLUMNS, "load_average"]].assign(full=options.full, **machine())
    table["commit"] = commit.strip() or "unknown"
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.csv, index=False, lineterminator="\n", float_format="%.4g")
    written = pd.read_csv(options.csv)
    print(markdown(written))
    print(f"Written: {options.csv}", file=sys.stderr)
    failed = ", ".join(written.loc[written["note"].str.startswith("failed", na=False), "benchmark"])
    if failed:
        raise SystemExit(f"error: the benchmark {failed} failed; its last lines are above. Nothing was published.")
    if options.publish:
        PUBLISHED.write_bytes(options.csv.read_bytes())
        PAGE.write_text(with_table(PAGE.read_text(), written))


if __name__ == "__main__":
    main()
