"""Starting a study: what ``./run_all.sh STUDY`` does once the environment is there.

Takes a study and Snakemake's options; checks sources, room and locks, and hands the study to the engine.
"""

import contextlib
import io
import logging
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

from skin_tl.errors import INTERRUPTED, SkinTLError
from skin_tl.files import ROOT, disk_message
from skin_tl.workflow.cleaning import clean
from skin_tl.workflow.console import QUESTIONS, Terminal, one_line, register_logger, relay
from skin_tl.workflow.estimates import check_room, estimate, has_gpu, needs_room
from skin_tl.workflow.locks import only_start


def main(arguments):
    """Run a command and return the exit status.

    Parameters
    ----------
    arguments : list of str
        ``["run", study, *options]`` or ``["clean"]`` or ``["clean", study]``.
    """
    try:
        if arguments[:1] == ["clean"]:
            return clean(arguments[1:])
        if arguments[:1] == ["run"] and len(arguments) > 1:
            return run(arguments[1], arguments[2:])
    except SkinTLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # of the disk, most often: it is full, or may not be written
        print(f"error: {disk_message(error) or one_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped before any step was started.", file=sys.stderr)
        return INTERRUPTED
    print("usage: python -m skin_tl.workflow.start run STUDY [OPTION...] | clean [STUDY]", file=sys.stderr)
    return 2


# --- Running a study ----------------------------------------------------------------------------------------------


def run(name_or_path, options):
    """Run what is due of a study and return the exit status.

    Parameters
    ----------
    name_or_path : str
        A study's name or its YAML file.
    options : list of str
        Handed to Snakemake as they are.

    Raises
    ------
    SkinTLError
        If the study or an option is wrong, the disk too small, or another start is working on the study.
    """
    from skin_tl.data.images import check_cache
    from skin_tl.registry import check_image_size
    from skin_tl.study import load_study, study_path

    os.chdir(ROOT)
    _keep_engine_below_project()
    logging.raiseExceptions = False  # where the engine cannot write its own log, as on a full disk
    terminal = Terminal(sys.stderr)
    handler_class = register_logger(terminal)
    parser, settings = _parse_options(options)
    if settings.configfile or settings.snakefile or settings.directory:
        raise SkinTLError(
            "--configfile, --snakefile and --directory are set by ./run_all.sh: name the study's file as the first "
            "argument, and leave out the others."
        )
    path = study_path(name_or_path)
    study = load_study(os.path.relpath(path, ROOT), _config(settings.config))
    _check_targets(settings.targets, name_or_path)

    settings.snakefile = Path("Snakefile")
    settings.rerun_incomplete = True
    settings.max_checksum_file_size = sys.maxsize  # content decides whether an input is another, and not its date
    local = settings.executor in (None, "local")
    if settings.cores is None and settings.jobs is None and local:
        from snakemake.cli import parse_cores

        settings.cores = parse_cores("all")

    if any(getattr(settings, name, None) for name in QUESTIONS):
        return 0 if _engine(settings, parser, study) else 1
    folder = Path("runs") / study.name
    check_image_size(study.backbones, study.image_size)
    check_cache()
    check_file(study, path, folder)
    if local:
        check_gpu(study, folder)
    check_sources(study, folder)
    settings.logger = ["skin-tl"]
    if settings.dryrun:
        succeeded = _engine(settings, parser, study)
        return handler_class.last.finish(succeeded, study, settings, log=None)

    _pass_on_library_folders()
    log = folder / "logs" / "snakemake.log"
    handler_class.log, handler_class.study = log, study
    with only_start(study.name), relay(terminal), _interruptible(terminal) as interrupted:
        if needs_room(study):
            check_room(estimate(study))
        check_changed_data(study, folder, bool(settings.forceall or settings.forcerun))
        remember_file(path, folder)
        succeeded = False
        try:
            succeeded = _engine(settings, parser, study)
        except KeyboardInterrupt:
            interrupted.set()
    terminal.clear()
    if interrupted.is_set():
        terminal.line("Stopped. What was finished is kept: the next start goes on from there.")
        return INTERRUPTED
    return handler_class.last.finish(succeeded, study, settings, log)


FILE_OF_STUDY = "file.json"
"""Beside the runs of a study, names the file that the last start took; no step depends on it."""


def check_file(study, path, folder):
    """Refuse a study's file that would take over the results of another file with the same name and other settings.

    Edited, moved, or copied as it is, a file goes on with its results.

    Parameters
    ----------
    study : skin_tl.study.Study
    path : pathlib.Path
        Its file.
    folder : pathlib.Path
        The study's folder below ``runs/``.

    Raises
    ------
    SkinTLError
        If the file of the last start is another, is still there and has this name, and its settings differ.
    """
    from skin_tl.files import read_json
    from skin_tl.study import load_study

    def plain(file):
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


def remember_file(path, folder):
    """Keep for `check_file` which file a start takes; a record of a start, ``study.json``, is none."""
    from skin_tl.files import write_json

    if path.suffix != ".json":
        file = path.resolve()  # below the project, which may be copied with its runs, as seen from there
        file = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
        write_json(folder / FILE_OF_STUDY, {"file": str(file)})


def check_gpu(study, folder):
    """Refuse to start where networks would be trained on a GPU that this machine clearly lacks.

    Raises
    ------
    SkinTLError
        If the study says ``device: gpu``, there is no NVIDIA driver, and a network is still to be trained.
    """
    if study.device != "gpu" or has_gpu() or sys.platform == "darwin":
        return
    from skin_tl.schema import TUNED

    runs = [folder / strategy / name for strategy in study.strategies if strategy in TUNED for name in study.backbones]
    if not all((run / "run.json").is_file() for run in runs):
        raise SkinTLError(
            "`device: gpu`, but no NVIDIA driver is found on this machine (`nvidia-smi` shows it). Set "
            "`device: auto` to train on whatever there is."
        )


def check_sources(study, folder):
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


def check_changed_data(study, folder, forced=False):
    """Check and decode a release that has to be decoded again before Snakemake removes what was made from it.

    Where it turns out to be the same files at another place or beside others, that is remembered, and nothing is due.

    Parameters
    ----------
    study : skin_tl.study.Study
    folder : pathlib.Path
        The study's folder below ``runs/``.
    forced : bool
        Whether the decoding is asked for, whatever has changed.

    Raises
    ------
    SkinTLError
        If it cannot be used: then nothing has been removed.
    """
    from skin_tl.data.images import decode
    from skin_tl.data.preparation import open_part, step_of
    from skin_tl.data.releases import PARTS, last_source, remember_same, source_state
    from skin_tl.files import read_json

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
            print(f"{name} is not what was decoded last: it is checked before anything is made again.", file=sys.stderr)
        data = open_part(study, PARTS[name], folder)
        if (decode(data.files, study.image_size).key, data.fingerprint) == (known["key"], known["fingerprint"]):
            remember_same(name, part)


def _keep_engine_below_project():
    """Let Snakemake's cache of source files lie in ``.state/``, not in the home folder."""
    from snakemake import common

    common.get_appdirs().__class__ = type(
        "AppDirs", (type(common.get_appdirs()),), {"user_cache_dir": str(ROOT / ".state" / "cache")}
    )


def _engine(settings, parser, study):
    """Let Snakemake work on a study as it was checked; return whether it succeeded.

    The study goes to the Snakefile as JSON: Snakemake reads YAML, and values of ``--config``, by other rules than ours.
    """
    from snakemake.cli import args_to_api

    from skin_tl.study import save_study

    state = ROOT / ".state"
    state.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="start-", dir=state) as folder:
            settings.config, settings.configfile = None, [Path(folder, f"{study.name}.json")]
            save_study(study, settings.configfile[0])
            return bool(args_to_api(settings, parser))
    except SystemExit as stop:
        return not stop.code
    except ValueError as error:
        raise SkinTLError(one_line(str(error))) from error
    except Exception as error:
        from snakemake.exceptions import ApiError, CliException, WorkflowError

        if isinstance(error, (ApiError, CliException, WorkflowError)):
            raise SkinTLError(one_line(str(error))) from error
        raise


def _parse_options(options):
    """Let Snakemake read its options; a wrong one raises a SkinTLError without the pages of usage."""
    from snakemake.cli import parse_args

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser, settings = parse_args(list(options))
    except SystemExit as stop:
        if not stop.code:  # such as --version
            raise
        words = one_line(said.getvalue().rsplit("error:", 1)[-1])
        raise SkinTLError(
            f"Snakemake does not take these options: {words}. `./run_all.sh --help` lists the useful ones."
        ) from None
    except Exception as error:
        raise SkinTLError(f"Snakemake does not take these options: {one_line(str(error))}") from None
    if sum(option in ("--config", "-C") for option in options) > 1:
        raise SkinTLError(
            "--config is given twice, and only the last would count: write --config key=value other_key=A,B."
        )
    sys.stderr.write(said.getvalue())
    return parser, settings


def _config(entries):
    """Return ``--config`` entries (["key=value"]) as a dict of values as they were typed."""
    typed = {}
    for entry in entries or ():
        key, equals, value = entry.partition("=")
        if not equals:
            raise SkinTLError(f"--config {entry}: write it as --config key=value other_key=A,B.")
        if key in typed:
            raise SkinTLError(f"--config {key}=…: the key is given twice. Leave one of them out.")
        typed[key] = value
    return typed


def _check_targets(targets, study):
    """Refuse a second study's name, which Snakemake would take for a file to be made."""
    for target in targets or ():
        if (ROOT / "studies" / f"{target}.yaml").is_file() or str(target).endswith((".yaml", ".yml")):
            raise SkinTLError(f"One study at a time: {study} and {target} were given. Start them one after the other.")


def _pass_on_library_folders():
    """Give the steps the folders of system libraries on macOS, which removes them from what /bin/bash starts."""
    folders = os.environ.get("DYLD_FALLBACK_LIBRARY_PATH")
    if sys.platform == "darwin" and folders:
        import shlex

        from snakemake.shell import shell

        quoted = shlex.quote(folders).replace("{", "{{").replace("}", "}}")
        shell.prefix(f"set -euo pipefail; export DYLD_FALLBACK_LIBRARY_PATH={quoted}; ")


@contextlib.contextmanager
def _interruptible(terminal):
    """Let an interrupt end the running steps too, whoever sent it; give the event that tells of it."""
    import psutil

    interrupted = threading.Event()

    def stop(number, frame):
        again = interrupted.is_set()
        interrupted.set()
        terminal.stopping = True
        if not again:
            terminal.line("Stopping …")
        children = psutil.Process().children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill() if again else child.terminate()
        if not again:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
