"""A step that executes a notebook says in one line why it failed."""

import errno
import os
import re

import nbformat
import pytest

from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT
from skin_tl.study import load_study, save_study
from skin_tl.workflow import cli, console, steps


@pytest.fixture
def fails(tmp_path, monkeypatch):
    """Return a function that executes a notebook of one cell as a step does and returns its error's message."""
    study = load_study("demo")
    monkeypatch.setattr(steps, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(code):
        cell = nbformat.v4.new_code_cell(code)
        (tmp_path / "notebooks").mkdir()
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebooks" / "x.ipynb")
        with pytest.raises(SkinTLError) as error:
            steps.execute("x", tmp_path / "runs" / "x.ipynb", study, tmp_path / "runs")
        assert not (tmp_path / "runs" / "x.ipynb").exists()
        return str(error.value)

    return run


def test_an_error_of_the_package_is_told_as_it_is(fails):
    code = "from skin_tl.errors import SkinTLError\nraise SkinTLError('metadata.csv: no column dx. Add it.')"
    assert fails(code) == "metadata.csv: no column dx. Add it."


def test_another_error_names_the_notebook_and_keeps_it_as_far_as_it_got(fails, tmp_path):
    said = fails("1 / 0")
    assert said.startswith("notebooks/x.ipynb failed with ZeroDivisionError: division by zero")
    kept = tmp_path / "runs" / "logs" / "failed_x.ipynb"
    assert str(kept) in said and nbformat.read(kept, as_version=4).cells


def test_a_killed_kernel_is_told(fails):
    said = fails("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert said.startswith("notebooks/x.ipynb: its process was killed or crashed")


def test_a_full_disk_is_told(fails):
    code = f"import os; raise OSError({errno.ENOSPC}, os.strerror({errno.ENOSPC}))"
    assert "no space left on the disk" in fails(code)


def test_a_full_disk_outside_of_notebooks_is_told(tmp_path, monkeypatch, capsys):
    def step(study, folder, options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "HAM10000_images_part_1.zip")

    monkeypatch.setitem(steps.STEPS, "images", step)
    assert cli.main(["step", "images", "--study", "studies/demo.yaml"]) == 1
    assert capsys.readouterr().err.startswith("error: HAM10000_images_part_1.zip: no space left on the disk")


def test_a_gpu_that_is_not_used_although_a_driver_is_there_is_said_with_the_reason(tmp_path, monkeypatch, capsys):
    from skin_tl.models import devices

    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setattr(devices, "gpus", lambda: [])
    study = load_study("demo", {"weights": "random"})
    steps.weights(study, tmp_path, None)
    shown = capsys.readouterr().err
    assert re.search(r"an NVIDIA driver is here, but networks are computed on the processor: .*(GPU|CUDA)", shown)
    with pytest.raises(SkinTLError, match=r"finds no GPU on this machine: .*(GPU|CUDA)"):
        steps.weights(study.model_copy(update={"device": "gpu"}), tmp_path, None)


def test_a_report_that_is_written_again_names_its_files_and_keeps_the_words_of_jupyter_in_its_log(
    tmp_path, monkeypatch, capfd
):
    made = tmp_path / "report" / "demo"
    made.mkdir(parents=True)

    def report(study, folder, options):
        os.system("echo a word of the kernel >&2")

    def written(kind):
        return lambda study, folder, options: (made / f"{options.language}.{kind}").touch()

    for name, step in {"report": report, "render": written("pdf"), "slides": written("html")}.items():
        monkeypatch.setattr(steps, name, step)
    monkeypatch.setattr(steps, "evaluate", lambda *_: None)
    monkeypatch.setattr(console, "ROOT", tmp_path)
    save_study(load_study("demo"), tmp_path / "runs" / "demo" / "study.json")
    lines = steps.rebuild_report(tmp_path / "runs" / "demo")
    assert lines[:4] == [f"  report/demo/{name}" for name in ("en.html", "fr.html", "en.pdf", "fr.pdf")]
    assert lines[4:] == [
        "Its numbers are those of synthetic images. Reports on real images: report/published/index.html"
    ]
    assert "a word of the kernel" not in capfd.readouterr().err
    for language in ("en", "fr"):
        log = tmp_path / "runs" / "demo" / "logs" / f"report_{language}.log"
        assert log.read_text() == "a word of the kernel\n"
    os.system("echo afterwards >&2")
    assert capfd.readouterr().err == "afterwards\n"


def test_a_report_without_runs_says_where_they_belong(tmp_path):
    with pytest.raises(SkinTLError, match=r"runs/demo/study\.json is missing\. Copy .*, or run the study"):
        steps.rebuild_report(tmp_path / "runs" / "demo")
