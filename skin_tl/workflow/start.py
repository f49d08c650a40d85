"""Starting a study: what ``./run_all.sh STUDY`` does once the environment is there.

Takes a study and Snakemake's options; checks sources, room and locks, and hands the study to the engine.
"""

import argparse
import contextlib
import importlib
import io
import logging
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from skin_tl.data.images import check_cache, damaged_refused
from skin_tl.errors import INTERRUPTED, SkinTLError
from skin_tl.files import ROOT, read_json, write_json
from skin_tl.registry import check_backbones
from skin_tl.study import Study, load_study, save_study, study_path
from skin_tl.workflow.console import Progress, Terminal, one_line, register_logger
from skin_tl.workflow.estimates import check_room, estimate, what_to_download
from skin_tl.workflow.locks import only_start

# Options of Snakemake that print something or tidy up: its own words are what the person asked for.
QUESTIONS = (
    *("dag", "rulegraph", "filegraph", "d3dag", "summary", "detailed_summary", "lint", "list_rules"),
    *("list_target_rules", "list_changes", "list_input_changes", "list_params_changes", "list_untracked"),
    *("print_compilation", "verbose", "unlock", "cleanup_metadata", "report", "archive", "delete_all_output"),
    *("delete_temp_output", "debug_dag"),
)


def run(name_or_path: str, options: list[str]) -> int:
    """Run what is due of a study and return the exit status.

    Parameters
    ----------
    name_or_path
        A study's name or its YAML file.
    options
        Handed to Snakemake as they are.

    Raises
    ------
    SkinTLError
        If the study or an option is wrong, the disk too small, or another start is working on the study.
    """
    path = study_path(name_or_path).absolute()
    os.chdir(ROOT)
    logging.raiseExceptions = False  # where the engine cannot write its own log, as on a full disk
    register_logger()
    parser, settings = _parse_options(options)
    study = load_study(os.path.relpath(path, ROOT), _config(settings.config))
    _check_targets(settings.targets, name_or_path)
    if any(getattr(settings, name, None) for name in QUESTIONS):
        settings.logger = []
        return 0 if _engine(settings, parser, study) else 1

    folder = Path("runs") / study.name
    check_backbones(study.backbones, study.image_size, study.features)
    check_cache()
    check_file(study, path, folder)
    check_sources(study, folder)
    progress = Progress(Terminal(sys.stderr), study, bool(settings.dryrun))
    if settings.dryrun:
        if not study.synthetic:
            progress.estimate = estimate(study).in_words()
        progress.notes = what_to_download(study)
        with progress:
            succeeded = _engine(settings, parser, study)
    else:
        _pass_on_library_folders()
        if settings.executor == "kubernetes":
            from skin_tl.workflow.kubernetes import share_project

            share_project()
        with only_start(study.name), progress, _interruptible(progress) as interrupted:
            check_pango()
            if not study.synthetic:
                need = estimate(study)
                check_room(need)
                progress.estimate = need.in_words()
            check_changed_data(study, folder, bool(settings.forceall or settings.forcerun))
            remember_file(path, folder)
            save_study(study, folder / "study.json")
            succeeded = False
            try:
                succeeded = _engine(settings, parser, study)
            except KeyboardInterrupt:
                interrupted.set()
        if interrupted.is_set():
            print("Stopped. What was finished is kept: the next start continues from there.", file=sys.stderr)
            return INTERRUPTED
    return progress.finish(succeeded, bool(settings.targets or settings.until))


FILE_OF_STUDY = "file.json"
"""Beside the runs of a study, names the file that the last start took; no step depends on it."""


def check_file(study: Study, path: Path, folder: Path) -> None:
    """Refuse a study's file that would take over the results of another file with the same name and other settings.

    Edited, moved, or copied as it is, a file goes on with its results.

    Parameters
    ----------
    study
        Its name and settings are compared.
    path
        Its file.
    folder
        The study's folder below ``runs/``.

    Raises
    ------
    SkinTLError
        If the file of the last start is another, is still there and has this name, and its settings differ.
    """

    def plain(file: Path) -> Study | None:
        try:
            return load_study(file)
        except (SkinTLError, OSError):  # no study by itself, or not any more
            return None

    if path.suffix == ".json" or not (folder / FILE_OF_STUDY).is_file():
        return
    last = ROOT / read_json(folder / FILE_OF_STUDY)["file"]
    if not last.is_file() or last.samefile(path):
        return
    other = plain(last)
    if other is not None and other.name == study.name and other != plain(path):
        raise SkinTLError(
            f"{path}: key `name`: {study.name!r} is also the name in {last}, which has other settings, and whose "
            f"results are in {folder}. Give this one another name, or remove those: ./run_all.sh clean {study.name}"
        )


def remember_file(path: Path, folder: Path) -> None:
    """Keep for `check_file` which file a start takes; a record of a start, ``study.json``, is none."""
    if path.suffix != ".json":
        file = path.resolve()  # below the project, which may be copied with its runs, as seen from there
        file = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
        write_json(folder / FILE_OF_STUDY, {"file": str(file)})


def check_pango() -> None:
    """Refuse to start where the PDF could not be printed at the end."""
    try:
        with damaged_refused():
            importlib.import_module("weasyprint")
    except OSError as error:
        raise SkinTLError(
            f"Pango, the system library that prints the PDF of the report, cannot be loaded "
            f"({str(error).splitlines()[0]}). Install it and start again. Debian, Ubuntu, WSL2: sudo apt install "
            "libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0; macOS: brew install pango; conda: conda install -c "
            "conda-forge pango."
        ) from None


def check_sources(study: Study, folder: Path) -> None:
    """Refuse folders that cannot be the releases that a study needs, see `skin_tl.data.releases.check_source`."""
    from skin_tl.data.releases import PARTS, check_source

    for name in study.releases:
        try:
            check_source(name)
        except SkinTLError as error:
            if not (folder / PARTS[name] / "images.json").is_file():
                raise
            hint = f"(What was decoded before is used where SKIN_TL_{name} is not set.)"
            raise SkinTLError(f"{error} {hint}") from None


def check_changed_data(study: Study, folder: Path, forced: bool = False) -> None:
    """Check and decode a release that has to be decoded again before Snakemake removes what was made from it.

    Where it turns out to be the same files at another place or beside others, that is remembered, and nothing is due.

    Parameters
    ----------
    study
        The study that is started.
    folder
        The study's folder below ``runs/``.
    forced
        Whether the decoding is asked for, whatever has changed.

    Raises
    ------
    SkinTLError
        If it cannot be used: then nothing has been removed.
    """
    from skin_tl.data.images import decode
    from skin_tl.data.preparation import open_part, step_of
    from skin_tl.data.releases import PARTS, last_source, remember_same, source_state

    for name in study.releases:
        part = folder / PARTS[name]
        about = part / "images.json"
        if not about.is_file():
            continue
        known = read_json(about)
        same = known["image_size"] == study.image_size and (part / "source.json").is_file()
        same = same and source_state(name, part) == last_source(part)["state"]
        if same and not forced and known.get("code") == step_of(PARTS[name]):
            continue
        if not same:
            print(
                f"note: {name} differs from the data that were decoded last. It is checked before any step runs.",
                file=sys.stderr,
            )
        data = open_part(study, PARTS[name], folder)
        if (decode(data.files, study.image_size).key, data.fingerprint) == (known["key"], known["fingerprint"]):
            remember_same(name, part)


def _engine(settings: argparse.Namespace, parser: argparse.ArgumentParser, study: Study) -> bool:
    """Let Snakemake work on a study as it was checked; return whether it succeeded.

    The study goes to the Snakefile as JSON: Snakemake reads YAML, and values of ``--config``, by other rules than ours.
    """
    from snakemake.cli import args_to_api
    from snakemake.exceptions import ApiError, CliException, WorkflowError

    state = ROOT / ".state"
    state.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="start-", dir=state) as folder:
            settings.config, settings.configfile = None, [Path(folder, f"{study.name}.json")]
            save_study(study, settings.configfile[0])
            return bool(args_to_api(settings, parser))
    except SystemExit as stop:
        return not stop.code
    except (ApiError, CliException, WorkflowError, ValueError) as error:
        raise SkinTLError(one_line(error)) from error


def _parse_options(options: Sequence[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Let Snakemake read its options; a wrong one raises a SkinTLError without the pages of usage."""
    from snakemake.cli import parse_args

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            own = ["--workflow-profile", "none"] if "--profile" in options else []  # in place of profiles/default
            parser, settings = parse_args([*own, *options])
    except SystemExit as stop:
        if not stop.code:  # such as --version
            raise
        words = one_line(said.getvalue().rsplit("error:", 1)[-1])
        if unknown := re.search(r"argument --executor/-e: invalid choice: '?([\w-]+)", words):
            raise SkinTLError(
                f"The executor {unknown[1]!r} is not installed. Start with --profile profiles/slurm or --profile "
                "profiles/kubernetes, which install theirs; or "
                f"install another one: .venv/bin/python -m pip install snakemake-executor-plugin-{unknown[1]}"
            ) from None
        raise SkinTLError(
            f"Snakemake does not take these options: {words}. Run `./run_all.sh --help`, which lists the useful ones."
        ) from None
    except Exception as error:
        raise SkinTLError(
            f"Snakemake does not take these options: {one_line(str(error))}. Run `./run_all.sh --help`."
        ) from None
    if sum(option in ("--config", "-C") for option in options) > 1:
        raise SkinTLError(
            "--config is given twice, and only the last would count: write --config key=value other_key=A,B."
        )
    if settings.configfile or settings.snakefile or settings.directory:
        raise SkinTLError(
            "--configfile, --snakefile and --directory are set by ./run_all.sh: name the study's file as the first "
            "argument, and leave out the others."
        )
    settings.snakefile, settings.logger = Path("Snakefile"), ["skin-tl"]
    return parser, settings


def _config(entries: Sequence[str] | None) -> dict[str, str]:
    """Return ``--config`` entries (["key=value"]) as a dict of values as they were typed."""
    typed: dict[str, str] = {}
    for entry in entries or ():
        key, equals, value = entry.partition("=")
        if not equals:
            raise SkinTLError(f"--config {entry}: write it as --config key=value other_key=A,B.")
        if key in typed:
            raise SkinTLError(f"--config {key}=…: the key is given twice. Leave one of them out.")
        typed[key] = value
    return typed


def _check_targets(targets: Sequence[str] | None, study: str) -> None:
    """Refuse a second study's name and settings, which Snakemake would take for files to be made."""
    settings = " ".join(target for target in targets or () if "=" in target)
    if settings:
        raise SkinTLError(f"{settings} is no option. Write settings behind --config: `--config {settings}`.")
    for target in targets or ():
        if (ROOT / "studies" / f"{target}.yaml").is_file() or str(target).endswith((".yaml", ".yml")):
            raise SkinTLError(f"One study at a time: {study} and {target} were given. Start them one after the other.")


def _pass_on_library_folders() -> None:
    """Give the steps the folders of system libraries on macOS, which removes them from what /bin/bash starts."""
    folders = os.environ.get("DYLD_FALLBACK_LIBRARY_PATH")
    if sys.platform == "darwin" and folders:
        import shlex

        from snakemake.shell import shell

        quoted = shlex.quote(folders).replace("{", "{{").replace("}", "}}")
        shell.prefix(f"set -euo pipefail; export DYLD_FALLBACK_LIBRARY_PATH={quoted}; ")


@contextlib.contextmanager
def _interruptible(progress: Progress) -> Iterator[threading.Event]:
    """Let an interrupt end the running steps too, whoever sent it; give the event that it sets."""
    import psutil

    interrupted = threading.Event()

    def stop(number: int, frame: object) -> None:
        again = interrupted.is_set()
        interrupted.set()
        if not again:
            progress.stop()
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill() if again else child.terminate()
        if not again:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
