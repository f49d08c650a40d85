"""Files land whole or not at all."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skin_tl.errors import SkinTLError
from skin_tl.files import exit_status, fingerprint, read_json, write_atomically, write_csv, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_beside(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), write_atomically(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]
    assert path.read_text() == "old"


def test_a_folder_replaces_a_folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "old").write_text("")
    with write_atomically(tmp_path / "images") as part:
        part.mkdir()
        (part / "new").write_text("")
    assert [file.name for file in (tmp_path / "images").iterdir()] == ["new"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    path = tmp_path / "big.npy"
    code = (
        "import os, sys, signal; from skin_tl.files import write_atomically\n"
        "with write_atomically(sys.argv[1]) as part:\n"
        "    part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, path], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    assert not path.exists()
    with write_atomically(path) as part:
        part.write_text("whole")
    assert [file.name for file in tmp_path.iterdir()] == ["big.npy"]


def test_what_another_machine_or_container_writes_is_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "shared.npy"
    with write_atomically(path) as theirs:
        theirs.touch()
    name = theirs.name
    monkeypatch.setattr("skin_tl.files._here", lambda: "elsewhere")
    foreign = tmp_path / name.replace(f"-{os.getpid()}-", "-99999999-")  # of a process that is not one of ours
    foreign.write_text("half")
    with write_atomically(path) as part:
        part.write_text("whole")
    assert foreign.read_text() == "half"


def test_a_replaced_folder_is_there_at_any_time_but_between_two_renames(tmp_path, monkeypatch):
    path = tmp_path / "images"
    with write_atomically(path) as part:
        part.mkdir()
    seen, remove = [], shutil.rmtree

    def watched(folder, **how):
        seen.append(path.is_dir())
        remove(folder, **how)

    monkeypatch.setattr(shutil, "rmtree", watched)
    with write_atomically(path) as part:
        part.mkdir()
    assert seen == [True]  # the old state goes once the new one is in its place


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_keeps_what_was_there(tmp_path, number):
    path = tmp_path / "features.npy"
    path.write_text("old")
    with pytest.raises(SkinTLError, match="no space left"), write_atomically(path):
        raise OSError(number, os.strerror(number))
    assert path.read_text() == "old"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_what_may_not_be_written_or_read_is_named(tmp_path, number, capsys):
    path, other = tmp_path / "features.npy", tmp_path / "image.png"
    path.write_text("old")
    for denied, named in ((None, path), (other, other)):
        with pytest.raises(SkinTLError, match="has no permission") as told, write_atomically(path) as part:
            raise OSError(number, os.strerror(number), denied or part)
        assert str(told.value).startswith(f"{named}: ") and os.strerror(number) in str(told.value)
    assert path.read_text() == "old"

    def run():
        raise OSError(number, os.strerror(number), path)

    assert exit_status(run) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"error: {path}: this user (") and line.count("\n") == 1


def test_a_really_full_disk_is_said(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    with (
        pytest.raises(SkinTLError, match="no space left"),
        write_atomically(tmp_path / "x"),
        open("/dev/full", "w") as out,
    ):
        out.write("x")
        out.flush()


def test_json_that_is_absent_or_broken_names_what_writes_it(tmp_path):
    with pytest.raises(SkinTLError, match=r"\./run_all\.sh demo"):
        read_json(tmp_path / "run.json", "./run_all.sh demo")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(SkinTLError, match="not valid JSON"):
        read_json(tmp_path / "run.json")


def test_json_and_text_replace_what_was_there(tmp_path):
    write_json(tmp_path / "study.json", {"b": 1, "a": ["é"]})
    assert read_json(tmp_path / "study.json") == {"a": ["é"], "b": 1}
    write_text(tmp_path / "study.json", "other")
    assert (tmp_path / "study.json").read_text() == "other"


@given(st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=20))
def test_floats_of_a_table_read_back_as_they_were(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    table = pd.DataFrame({"p": pd.Series(values, dtype="float32")})
    write_csv(path, table)
    expected = table["p"].replace([float("inf"), float("-inf")], float("nan"))
    pd.testing.assert_series_equal(pd.read_csv(path)["p"].astype("float32"), expected)


def test_a_table_holds_no_infinity_and_no_cell_that_a_spreadsheet_executes(tmp_path):
    texts = ["=1+1", "@SUM(A1)", "+A1", "-2+3", "\t=1", "-0.5", "+1e-05", "back", None]
    numbers = [float("inf"), float("-inf"), float("nan"), 1.5, -2.0, 0.0, 1.0, 2.0, 3.0]
    write_csv(tmp_path / "t.csv", pd.DataFrame({"text": texts, "number": numbers}))
    with open(tmp_path / "t.csv", newline="") as file:
        written = list(csv.reader(file))[1:]
    assert [row[0] for row in written] == [f"'{cell}" for cell in texts[:5]] + [*texts[5:8], ""]
    assert [row[1] for row in written] == ["", "", "", "1.5", "-2.0", "0.0", "1.0", "2.0", "3.0"]


def test_json_that_is_written_is_strict(tmp_path):
    content = {"a": [float("nan"), (1.5, float("inf"))], "b": {"c": float("-inf")}, "d": "NaN"}
    write_json(tmp_path / "a.json", content)

    def refuse(word):
        raise AssertionError(word)

    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert read == {"a": [None, [1.5, None]], "b": {"c": None}, "d": "NaN"}


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_fingerprints_differ_where_the_parts_do(first, second):
    assert (fingerprint(*first) == fingerprint(*second)) == (first == second)
