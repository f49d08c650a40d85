"""The contracts of imports and the linters: what they refuse, the tests refuse."""

import subprocess
import sys
from pathlib import Path

import pytest

from skin_tl.files import ROOT


def test_the_import_contracts_hold():
    command = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_grammar_is_built_where_notebooks_are_read():
    import nbformat  # noqa: F401

    assert sys.modules["rfc3987_syntax"] is None and "jsonschema" in sys.modules


@pytest.mark.parametrize(
    "command",
    ["ruff check .", "ruff format --check .", "mypy", "shellcheck run_all.sh .ci/run"],
)
def test_linters_find_nothing(command):
    program, *arguments = command.split()
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
