"""The benchmarks' own arithmetic, their table, and the page that holds it."""

import importlib
import sys

import pandas as pd
import pytest

from skin_tl.files import ROOT

sys.path.append(str(ROOT / "tests" / "benchmarks"))

import bench
import measured


def test_a_ratio_is_the_median_of_its_turns_with_the_extremes():
    row = measured.ratio_row("x", "", [1.0, 2.0, 4.0], [2.0, 2.0, 2.0], aim=">= 1.0")
    assert (row.ratio, row.lowest, row.highest, row.turns) == (1.0, 0.5, 2.0, 3)
    longer = measured.ratio_row("x", "", [1.0, 2.0, 4.0], [2.0, 2.0, 2.0], faster=False)
    assert (longer.ratio, longer.lowest, longer.highest) == (1.0, 0.5, 2.0)


@pytest.mark.parametrize(
    ("ratio", "aim", "expected"),
    [(1.0, ">= 1.0", "met"), (0.99, ">= 1.0", "missed"), (1.06, "<= 1.05", "missed"), (1.0, "<= 1.05", "met")],
)
def test_an_aim_is_met_or_missed(ratio, aim, expected):
    assert measured.outcome(ratio, aim) == expected and measured.outcome(ratio, "") == ""


def test_sides_alternate_and_the_first_turn_is_not_counted():
    called = []
    sides = {name: lambda name=name: called.append(name) for name in "ab"}
    took = measured.alternate(sides, 3)
    assert "".join(called) == "baabbaab" and {name: len(turns) for name, turns in took.items()} == {"a": 3, "b": 3}


def test_what_is_skipped_says_so_and_is_never_met(tmp_path, monkeypatch):
    monkeypatch.delenv("SKIN_TL_HAM10000", raising=False)
    monkeypatch.delenv("SKIN_TL_WEIGHTS", raising=False)
    bench.measure_here("study", False, tmp_path / "rows.csv")
    table = pd.read_csv(tmp_path / "rows.csv")
    assert table["note"].tolist() == ["needs SKIN_TL_HAM10000"] and table["ratio"].isna().all()
    about = measured.machine() | {"load_average": 0.1, "commit": "x"}
    (line,) = [line for line in measured.markdown(table.assign(**about)).splitlines() if line.startswith("| study")]
    assert "skipped" in line and "met" not in line


def test_the_machine_is_described():
    about = measured.machine()
    assert about["processor"] and about["cores"] >= 1 and about["memory_gb"] > 0
    assert about["keras"] and about["python"].startswith("3.")


@pytest.mark.parametrize("name", bench.BENCHMARKS)
def test_each_benchmark_is_there(name):
    assert callable(importlib.import_module(bench.BENCHMARKS[name]).measure)


def test_the_page_shows_the_table_of_its_file():
    page = bench.PAGE.read_text()
    assert bench.with_table(page, pd.read_csv(bench.PUBLISHED) if bench.PUBLISHED.is_file() else None) == page
