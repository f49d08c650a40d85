"""A copy of the project, with a small study beside it, started as a user starts it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


def copy_project(folder, study):
    """Copy the project's sources, link the environment of the tests, and write a study as small.yaml.

    Parameters
    ----------
    folder : pathlib.Path
        Where the copy goes.
    study : skin_tl.study.Study

    Returns
    -------
    pathlib.Path
        `folder`.
    """
    for name in ("skin_tl", "studies", "notebooks", "locks", "profiles", "report/template", "report/text"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run_all.sh", "Snakefile", "environment.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    if (ROOT / ".venv" / "installed.base").is_file():
        (folder / ".venv").symlink_to(ROOT / ".venv")
    elif "CONDA_PREFIX" not in os.environ:
        pytest.skip("needs the environment that ./run_all.sh makes")
    (folder / "small.yaml").write_text(yaml.safe_dump(study.model_dump(exclude={"overrides"})))
    return folder


def start(project, *arguments, study="small.yaml", before=(), **variables):
    """Run ./run_all.sh with a study of the copy; return the finished process with its output.

    Parameters
    ----------
    project : pathlib.Path
    *arguments : str
    study : str
    before : sequence of str
        A command that runs the command that follows it.
    **variables : str
        Of the environment.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    environment |= {"SKIN_TL_CACHE": str(project / "cache"), "SKIN_TL_CUDA": "0"}
    return subprocess.run(
        [*before, "./run_all.sh", study, *arguments],
        cwd=project,
        env=environment | variables,
        text=True,
        capture_output=True,
        timeout=900,
        stdin=subprocess.DEVNULL,
    )
