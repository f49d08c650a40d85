"""The packages import each other in one direction, as the contracts in pyproject.toml state."""

import subprocess
import sys

from skin_tl.files import ROOT


def test_the_import_contracts_hold():
    command = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
