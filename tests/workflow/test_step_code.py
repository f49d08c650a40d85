"""What makes a step due: the content of its code, texts and input, and no date."""

import os
import re
import shutil

import pytest
from copies import copy_project, start
from hypothesis import given, settings
from hypothesis import strategies as st

from skin_tl import step_code
from skin_tl.files import content_hash
from skin_tl.step_code import code_hash
from skin_tl.study import load_study

SOURCE = '''
import numpy as np
from skin_tl.second import helped

FACTOR = 2
OTHER = 3

def used(x):
    """Double."""
    if x < 0:
        raise ValueError("below 0")
    return FACTOR * helped(x)

def not_used(x):
    return OTHER * x

def lazily(x):
    from skin_tl import third
    return third.far(x)
'''
SECOND = "def helped(x):\n    return x + 1\n"
THIRD = "def far(x):\n    return x - 1\n\ndef near(x):\n    return x\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of three modules; gives a function that edits one and returns the hash of some roots."""
    (tmp_path / "skin_tl").mkdir()
    monkeypatch.setattr(step_code, "ROOT", tmp_path)
    sources = {"first": SOURCE, "second": SECOND, "third": THIRD}

    def hashed(*roots, module="first", old="", new=""):
        assert old in sources[module]
        for name, text in sources.items():
            (tmp_path / "skin_tl" / f"{name}.py").write_text(text.replace(old, new, 1) if name == module else text)
        return code_hash(*roots)

    return hashed


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("first", "FACTOR * ", "FACTOR + "),
        ("first", "FACTOR = 2", "FACTOR = 4"),
        ("first", "OTHER = 3", "OTHER = 3\nFACTOR += 1"),
        ("second", "x + 1", "x + 2"),
        ("second", "def helped", "import logging\nlogging.disable()\ndef helped"),
    ],
)
def test_a_change_in_what_is_reached_counts(package, module, old, new):
    assert package("first.used") != package("first.used", module=module, old=old, new=new)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("first", "Double.", "Twice."),
        ("first", "below 0", "less than nothing"),
        ("first", "OTHER * x", "OTHER + x"),
        ("first", "def used", "# A comment.\n\n\ndef used"),
        ("first", "def used(x)", "def used(x: float) -> float"),
        ("first", "FACTOR = 2", "FACTOR: int = 2\nif TYPE_CHECKING:\n    from skin_tl.third import helper"),
        ("third", "x - 1", "x - 2"),
    ],
)
def test_comments_messages_and_what_is_not_reached_do_not_count(package, module, old, new):
    assert package("first.used") == package("first.used", module=module, old=old, new=new)


def test_imports_inside_of_functions_are_followed(package):
    assert package("first.lazily") != package("first.lazily", module="third", old="x - 1", new="x - 2")
    assert package("first.lazily") == package("first.lazily", module="third", old="return x\n", new="return -x\n")


def test_the_file_that_a_definition_stands_in_does_not_count(package):
    moved = package("first.used", module="first", old="from skin_tl.second import helped", new=SECOND)
    assert moved == package("first.used")


# --- A study that is finished -----------------------------------------------------------------------------------------

STEPS = {
    "report": "writing the report (notebook 3_report, {})",
    "html": "rendering report/small/report{}.html and .pdf",
    "slides": "rendering report/small/slides{}.html",
}
BY_LANGUAGE = {
    name: [STEPS["report"].format(name), STEPS["html"].format(end), STEPS["slides"].format(end)]
    for name, end in (("en", ""), ("fr", ".fr"))
}
RENDERED = [*BY_LANGUAGE["en"][1:], *BY_LANGUAGE["fr"][1:]]
REPORTED = [*BY_LANGUAGE["en"], *BY_LANGUAGE["fr"]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of the project in which each file of a small study is there, and the engine knows it as made."""
    study = load_study("demo", {"backbones": "MobileNetV2", "weights": "random"}).model_copy(update={"name": "small"})
    project = copy_project(tmp_path_factory.mktemp("finished") / "project", study)
    listed = start(project, "--summary").stdout.splitlines()[1:]
    for line in listed:
        file = project / line.split("\t")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{file}\n")
    (project / "runs/small/weights.json").write_text('{"source": "random"}')  # read at the end of each start
    done = start(project, "--touch", "--forceall")
    assert done.returncode == 0, done.stderr
    assert due(project) == []
    return project


def due(project):
    """List the steps that a start would run, sorted."""
    done = start(project, "--dry-run")
    assert done.returncode == 0, done.stderr
    return sorted(re.findall(r"^  (\S.*)$", done.stdout, re.MULTILINE))


@pytest.fixture
def project(finished, tmp_path):
    """A copy of the finished study, with other dates of files than it has."""
    return shutil.copytree(finished, tmp_path / "project", symlinks=True, copy_function=shutil.copy)


def edit(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert old in text
    with open(file, "r+", encoding="utf-8") as stream:  # in place: the date of its folder stays
        stream.write(text.replace(old, new, 1))
        stream.truncate()


def test_a_plain_copy_and_dates_make_nothing_due(project):
    assert due(project) == []
    for number, file in enumerate(sorted(project.rglob("*.*"))):
        if file.is_file() and ".venv" not in file.parts and ".snakemake" not in file.parts:
            os.utime(file, (2e9 + number % 7 * 1000,) * 2)  # in the year 2033
    assert due(project) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "steps"),
    [
        ("report/text/fr/conclusion.md", "#", "##", BY_LANGUAGE["fr"]),
        ("report/text/en/captions.yaml", ":", ": ", BY_LANGUAGE["en"]),
        ("report/text/literature.csv", "\n", "\n\n", REPORTED),
        ("report/text/published_results.csv", "\n", "\n\n", ["computing the metrics", *REPORTED]),
        ("report/template/report.css", "{", "{ ", RENDERED),
        ("skin_tl/reporting/figures/explaining.py", "def ", "X = 1\n\n\ndef ", []),
        ("skin_tl/reporting/rendering.py", "TEMPLATE =", "TEMPLATE = 1\nTEMPLATE =", RENDERED),
    ],
)
def test_an_edited_file_makes_due_what_depends_on_it(project, name, old, new, steps):
    edit(project / name, old, new)
    assert due(project) == sorted(steps)


def test_an_edited_scaling_makes_features_due_and_all_after_them(project):
    edit(project / "skin_tl" / "models" / "backbones.py", 'if transform == "none":', 'if transform in ("none",):')
    steps = due(project)
    assert "computing the features of MobileNetV2 (native)" in steps
    assert {"training MobileNetV2, feature_extraction (notebook 2_train)", "computing the metrics", *REPORTED} <= {
        *steps
    }
    assert not {step for step in steps if step.startswith(("checking", "drawing", "finding", "predicting"))}


@pytest.mark.parametrize("name", ["facts.json", "settings.csv", "ranking.csv"])
def test_a_deleted_table_of_the_report_is_written_again(project, name):
    (project / "report" / "small" / name).unlink()
    steps = due(project)
    assert {*BY_LANGUAGE["en"]} <= {*steps} <= {*REPORTED}


@settings(max_examples=20, deadline=None)
@given(texts=st.dictionaries(st.text("abc", min_size=1, max_size=3), st.binary(max_size=8), min_size=1, max_size=3))
def test_content_counts_with_names_and_without_dates(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("texts")
    for name, content in texts.items():
        (folder / name).write_bytes(content)
    before = content_hash(folder)
    for name in texts:
        os.utime(folder / name, (0, 0))
    assert content_hash(folder) == before
    (folder / "more").touch()
    assert content_hash(folder) != before
