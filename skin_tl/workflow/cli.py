"""Command line: what follows ``./run_all.sh``.

Takes the arguments of a command line; gives the exit status.  ``usage.txt`` beside this file is the overview, which
run_all.sh prints without any environment; each command explains itself by ``--help``.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from skin_tl.errors import INTERRUPTED, SkinTLError
from skin_tl.files import ROOT, exit_status

FOLDERS = ("SKIN_TL_HAM10000", "SKIN_TL_ISIC2018", "SKIN_TL_WEIGHTS", "SKIN_TL_CACHE")
"""Environment variables that name folders, as seen from where the person stands."""

VARIABLES = {*FOLDERS, *(f"SKIN_TL_{name}" for name in ("CUDA", "DATAVERSE", "FACTS", "PROGRESS", "WRITE_DOCS"))}
"""All environment variables of the program, and of its tests those that do not begin with ``SKIN_TL_TEST_``."""

PASSED_ON = {"ignore_unknown_options": True, "help_option_names": ["--help"]}

LAB_SETTINGS = {
    "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Markdown Preview"}},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}
"""The start page opens rendered, and nothing asks for news from elsewhere; what a person sets comes before this."""


class Commands(click.Group):
    """Commands; any other first word is a study, and without a word it is the demo."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``run`` before a study or an option of Snakemake."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["--help", "-h"]})
def commands() -> None:
    """Transfer learning for skin-cancer detection: run studies and use their models."""
    for name in os.environ:
        if name.startswith("SKIN_TL_") and not name.startswith("SKIN_TL_TEST_") and name not in VARIABLES:
            near = difflib.get_close_matches(name, [*FOLDERS, "SKIN_TL_CUDA"], n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(FOLDERS)} and SKIN_TL_CUDA."
            raise SkinTLError(f"The environment variable {name} has no meaning. {hint} Otherwise unset it.")
    for name in FOLDERS:
        if os.environ.get(name):
            os.environ[name] = os.path.abspath(os.path.expanduser(os.environ[name]))
    if os.environ.get("KERAS_BACKEND", "tensorflow") not in ("tensorflow", "jax"):
        raise SkinTLError(f"KERAS_BACKEND={os.environ['KERAS_BACKEND']} is not supported. Use tensorflow or jax.")


def _parts(ctx: click.Context, option: click.Parameter, text: str | None) -> list[str]:
    """Return the parts of ``A,B`` without the empty ones."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def of_finished_runs(command: Callable) -> Callable:
    """Add the options that name finished runs."""
    study = click.option("--study", help="A study's name, or its file; by default the one that finished last.")
    return study(click.option("--backbone", metavar="A,B", callback=_parts, help="By default all.")(command))


@commands.command(context_settings=PASSED_ON)
@click.argument("words", metavar="[STUDY] [OPTION]...", nargs=-1, type=click.UNPROCESSED)
def run(words: tuple[str, ...]) -> int:
    """Run STUDY (demo, if none is given) and write its report.

    Options go to Snakemake: --dry-run, --cores N, --config key=value other=A,B, --forceall, --unlock and others.
    """
    from skin_tl.workflow.start import run as run_study

    named = bool(words) and not words[0].startswith("-")
    return run_study(words[0] if named else "demo", list(words[named:]))


@commands.command(context_settings=PASSED_ON)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def test(options: tuple[str, ...]) -> None:
    """Run the tests. OPTIONS go to pytest."""
    from skin_tl.workflow.start import check_pango

    check_pango()
    _become("pytest", *options)


@commands.command(context_settings=PASSED_ON, add_help_option=False)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def bench(options: tuple[str, ...]) -> None:
    """Measure speed and growth as ratios to other methods; write report/performance.csv."""
    _become(str(ROOT / "tests" / "benchmarks" / "bench.py"), *options)


@commands.command(context_settings=PASSED_ON)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def lab(options: tuple[str, ...]) -> None:
    """Open the notebooks in JupyterLab. OPTIONS go to it."""
    from skin_tl.files import write_text

    settings = Path(os.environ["JUPYTER_CONFIG_DIR"], "labconfig", "default_setting_overrides.json")
    write_text(settings, json.dumps(LAB_SETTINGS))
    where = (f"--ServerApp.root_dir={ROOT / 'notebooks'}", "--LabApp.default_url=/lab/tree/README.md")
    _become("jupyterlab", *where, *options)


@commands.command(context_settings=PASSED_ON)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def tensorboard(options: tuple[str, ...]) -> None:
    """Show curves of networks that are trained as a whole, in a browser. OPTIONS go to TensorBoard."""
    if not any(ROOT.glob("runs/*/*/*/tensorboard/**/events*")):
        click.echo(
            "note: the page is empty, because no study with fine_tuning or from_scratch has run. Run one first: "
            "./run_all.sh fine_tuning",
            err=True,
        )
    _become("tensorboard.main", "--logdir", str(ROOT / "runs"), *options)


@commands.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@of_finished_runs
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON.")
def predict(images: tuple[str, ...], study: str | None, backbone: list[str], json_wanted: bool) -> None:
    """Predict images by the models of a finished study. This is no diagnosis."""
    from skin_tl.apps.predict import predict as predict_images

    predict_images(images, study, backbone, json_wanted, ROOT)


@commands.command()
@of_finished_runs
@click.option("--format", "formats", metavar="A,B", callback=_parts, default="onnx,litert", show_default=True)
def export(study: str | None, backbone: list[str], formats: list[str]) -> None:
    """Write the models of a finished study as ONNX and LiteRT files."""
    from skin_tl.apps.export import export as export_models

    export_models(study, backbone, formats, ROOT)


@commands.command()
@click.argument("study")
def report(study: str) -> None:
    """Write STUDY's report again from its finished runs, with this version's measures and texts: no TensorFlow."""
    from skin_tl.workflow.steps import rebuild_report

    for line in rebuild_report(ROOT / "runs" / study):
        click.echo(line)


@commands.command()
@click.argument("study", required=False)
def publish(study: str | None) -> None:
    """Copy STUDY's report to report/published/; without STUDY, write all published reports again from their tables.

    Both write the index page of report/published/ and the findings of README.md.
    """
    from skin_tl.reporting.publishing import publish as copy
    from skin_tl.workflow.steps import rebuild_published

    if study:
        click.echo(f"Published in {copy(study).relative_to(ROOT)}")
    else:
        rebuild_published()


@commands.command()
@click.argument("study", required=False)
def clean(study: str | None) -> None:
    """Remove runs/STUDY and report/STUDY; without STUDY those of all studies, and cache/."""
    from skin_tl.workflow.cleaning import clean as remove

    remove(study)


@commands.command(hidden=True)
@click.argument("name")
@click.option("--study", required=True)
@click.option("--backbone")
@click.option("--preprocessing")
@click.option("--strategy")
@click.option("--language")
def step(name: str, study: str, **options: str | None) -> int:
    """Run one step of the workflow, for the Snakefile."""
    from skin_tl.workflow.steps import run_step

    return run_step(name, study, argparse.Namespace(**options))


def _become(program: str, *arguments: str) -> None:
    """Go on as another program, a module of the environment or a file, which then gets the signals."""
    os.chdir(ROOT)
    how = [program] if program.endswith(".py") else ["-m", program]
    os.execv(sys.executable, [sys.executable, *how, *arguments])


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; return the exit status.

    Parameters
    ----------
    arguments
        What follows ``./run_all.sh``; by default what the process was given.
    """
    status = 0

    def call() -> None:
        nonlocal status
        try:
            status = commands.main(arguments, prog_name="./run_all.sh", standalone_mode=False) or 0
        except click.ClickException as error:
            raise SkinTLError(
                f"{error.format_message().rstrip('.')}. Run `./run_all.sh --help`, which lists the commands."
            ) from None

    try:
        return exit_status(call) or status
    except (KeyboardInterrupt, click.Abort):
        print("\nStopped.", file=sys.stderr)
        return INTERRUPTED
