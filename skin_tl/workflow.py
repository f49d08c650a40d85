"""The start of a study: what ``./run_all.sh`` calls once the environment is there.

Takes a study and Snakemake's own options (``run STUDY [OPTION...]``), or ``clean [STUDY]``; gives the study's report,
or free disk space.  Snakemake decides which steps are due and runs them; this module shows their progress to the
person, keeps the engine's own chatter in ``runs/<study>/logs/snakemake.log``, and turns every failure into one clear
line.
"""

import codecs
import contextlib
import io
import logging
import os
import re
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from skin_tl.errors import SkinTLError
from skin_tl.files import disk_full_message, disk_message, existing, full_folder, is_full

ROOT = Path(__file__).resolve().parent.parent
RESERVED = ("template", "text", "published")
"""Folders below ``report/`` that are sources."""

INTERRUPTED = 130

GIGA = 1e9
N_HAM10000 = 10015
N_ISIC2018 = 1512
DOWNLOAD_BYTES = {"HAM10000": 4.1 * GIGA, "ISIC2018": 0.8 * GIGA}
"""Unpacked, with the largest archive beside it for a moment."""

MODEL_BYTES = 150e6
CHECKPOINT = 6
"""Of a network that is being trained, in models: its weights, their average and best, two moments, a new one beside."""

# Floating-point operations (billions) of one forward pass at 224 px without the classifier, and the number of features:
# from the papers, counting a multiplication and an addition as two.
COST = {
    "VGG16": (31.0, 512),
    "Xception": (9.2, 2048),
    "ResNet50": (7.7, 2048),
    "EfficientNetB7": (10.3, 2560),
    "MobileNetV2": (0.6, 1280),
    "ConvNeXtTiny": (8.9, 768),
}
COST_OF_OTHERS = (10.0, 2048)

# The share of a matrix product's speed that each network reaches on a CPU; depthwise convolutions wait for memory.
EFFICIENCY = {"VGG16": 0.75, "ResNet50": 0.75, "Xception": 0.6}
EFFICIENCY_OF_OTHERS = 0.3

# Options of Snakemake that print something instead of running steps: its own words are what the person asked for.
QUESTIONS = (
    *(
        "dag",
        "rulegraph",
        "filegraph",
        "d3dag",
        "summary",
        "detailed_summary",
        "lint",
        "list_target_rules",
        "list_rules",
    ),
    *("print_compilation", "list_changes", "list_input_changes", "list_params_changes", "list_untracked", "unlock"),
    *("cleanup_metadata", "cleanup_shadow", "report", "archive", "delete_all_output", "delete_temp_output", "verbose"),
    *("containerize", "generate_unit_tests", "edit_notebook", "conda_cleanup_envs", "list_conda_envs", "debug_dag"),
)


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
        print(f"error: {disk_message(error) or _one_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped before any step was started.", file=sys.stderr)
        return INTERRUPTED
    print("usage: python -m skin_tl.workflow run STUDY [OPTION...] | clean [STUDY]", file=sys.stderr)
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
    from skin_tl.backbones import check_image_size
    from skin_tl.images import check_cache
    from skin_tl.study import load_study, study_path

    os.chdir(ROOT)
    _keep_engine_below_project()
    logging.raiseExceptions = False  # where the engine cannot write its own log, as on a full disk
    terminal = Terminal(sys.stderr)
    handler_class = _register_logger(terminal)
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
    with only_start(study.name), _relay(terminal), _interruptible(terminal) as interrupted:
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
        If the study says ``device: gpu`` or asks for several GPUs, there is no NVIDIA driver, and a network is still to
        be trained.
    """
    several = study.gpus != "all" and study.gpus > 1
    if not (study.device == "gpu" or several) or has_gpu() or sys.platform == "darwin":
        return
    from skin_tl.study import TUNED

    runs = [folder / strategy / name for strategy in study.strategies if strategy in TUNED for name in study.backbones]
    if not all((run / "run.json").is_file() for run in runs):
        raise SkinTLError(
            f"`{f'gpus: {study.gpus}' if several else 'device: gpu'}`, but no NVIDIA driver is found on this machine "
            f"(`nvidia-smi` shows it). Set `{'gpus: 1' if several else 'device: auto'}` to train on whatever there is."
        )


def check_sources(study, folder):
    """Refuse folders that cannot be the releases that a study needs, see `skin_tl.dataset.check_source`."""
    from skin_tl.dataset import PARTS, check_source

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
    from skin_tl.dataset import PARTS, last_source, remember_same, source_state
    from skin_tl.files import read_json
    from skin_tl.images import decode
    from skin_tl.runs import open_part, step_of

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
        raise SkinTLError(_one_line(str(error))) from error
    except Exception as error:
        from snakemake.exceptions import ApiError, CliException, WorkflowError

        if isinstance(error, (ApiError, CliException, WorkflowError)):
            raise SkinTLError(_one_line(str(error))) from error
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
        words = _one_line(said.getvalue().rsplit("error:", 1)[-1])
        raise SkinTLError(
            f"Snakemake does not take these options: {words}. `./run_all.sh --help` lists the useful ones."
        ) from None
    except Exception as error:
        raise SkinTLError(f"Snakemake does not take these options: {_one_line(str(error))}") from None
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
def only_start(name):
    """Hold the study's lock; where no other start works in this project, remove what a killed one left locked.

    Parameters
    ----------
    name : str
        The study's name.

    Raises
    ------
    SkinTLError
        If another start is working on the same study.
    """
    import fcntl

    folder = ROOT / ".state" / "running"
    folder.mkdir(parents=True, exist_ok=True)

    def is_free(path):
        with open(path) as other:
            try:
                fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return False
        return True

    with open(folder / f"{name}.lock", "a+") as mine:
        with open(folder / "gate", "w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            try:
                fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                mine.seek(0)
                raise SkinTLError(
                    f"Another start (process {mine.read().strip() or 'unknown'}) is working on the study {name}. "
                    "Wait until it has finished, or stop it."
                ) from None
            mine.truncate(0)
            mine.write(str(os.getpid()))
            mine.flush()
            if all(is_free(path) for path in folder.glob("*.lock") if path.stem != name):
                shutil.rmtree(ROOT / ".snakemake" / "locks", ignore_errors=True)
        yield


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


# --- What the person sees -----------------------------------------------------------------------------------------


class Terminal:
    """Lines and one moving bar below them, on a stream that several threads share.

    Parameters
    ----------
    stream : text stream
        Where it is not a terminal, a bar becomes one line each `every` seconds.
    every : float
    """

    def __init__(self, stream, every=60.0):
        self.stream = stream
        self.live = stream.isatty()
        self.stopping = False
        self.every = every
        self.shown = ""
        self.last_bar_line = time.monotonic()
        self.partial, self.is_bar = "", False
        self.lock = threading.RLock()

    def line(self, text):
        """Show a line above the bar."""
        with self.lock:
            self._write(f"{self._eraser()}{text}\n{self.shown}")

    def bar(self, text):
        """Show `text` as the bar."""
        text = text.rstrip()
        with self.lock:
            if self.live:
                text = text[: shutil.get_terminal_size().columns - 3]
                self._write(f"{self._eraser()}{text}")
                self.shown = text
            elif text and time.monotonic() - self.last_bar_line > self.every:
                self._write(f"{text}\n")
                self.last_bar_line = time.monotonic()

    def clear(self):
        """Take the bar away."""
        with self.lock:
            self._write(self._eraser())
            self.shown = ""

    def feed(self, text):
        """Show what steps wrote: a bar from a carriage return to whatever end comes next, all else are lines.

        `skin_tl.progress.say` writes a line with a line feed before it and one behind it, at once.
        """
        for part in re.split(r"([\r\n])", text):
            if part in ("\r", "\n"):
                if self.partial.strip() and not self.is_bar:
                    self.line(self.partial.rstrip())
                self.partial, self.is_bar = "", part == "\r"
            else:
                self.partial += part
        if self.is_bar:
            self.bar(self.partial)  # blank where a bar has been closed

    def _eraser(self):
        return "\r\033[K" if self.shown else ""

    def _write(self, text):
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(text)
            self.stream.flush()


@contextlib.contextmanager
def _relay(terminal):
    """Make the FIFO that steps write bars and lines to (SKIN_TL_TERMINAL), and show what comes through it."""
    folder = tempfile.mkdtemp(prefix="skin-tl-")
    path = os.path.join(folder, "terminal")
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY)  # keeps the FIFO open between steps
    over = threading.Event()

    decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def copy():
        while True:
            last = over.is_set()  # what was written before is still read
            if select.select([reader], [], [], 0 if last else 0.2)[0]:
                with contextlib.suppress(BlockingIOError):
                    terminal.feed(decode(os.read(reader, 65536)))
            elif last:
                return

    thread = threading.Thread(target=copy, name="terminal", daemon=True)
    thread.start()
    os.environ["SKIN_TL_TERMINAL"] = path
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=2)
        os.environ.pop("SKIN_TL_TERMINAL", None)
        os.close(writer)
        os.close(reader)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Job:
    """A step as the engine reports it: its number in this start, what it does, why, its log files, when it began."""

    number: int
    text: str
    reason: str
    logs: list
    began: float


def _register_logger(terminal):
    """Make our log handler known to Snakemake as the logger plugin ``skin-tl``; return its class.

    Snakemake makes the instance; the class keeps it as `last`, and hands it what is set on the class before: `log`, the
    file for the engine's own words (None for none), and `study`.
    """
    import types

    from snakemake.logging import DefaultFormatter
    from snakemake_interface_logger_plugins.base import LogHandlerBase
    from snakemake_interface_logger_plugins.common import LogEvent
    from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

    class LogHandler(LogHandlerBase):
        log = study = last = None
        writes_to_stream = True  # so that Snakemake adds no handler of its own for the terminal
        writes_to_file = False
        has_filter = True
        has_formatter = True
        needs_rulegraph = False

        def __post_init__(self):
            type(self).last = self
            self.jobs, self.total, self.failures, self.troubles, self.killed_by = {}, 0, 0, [], 0
            self.nothing_to_do = self.estimated = False
            self.file = None
            self.setFormatter(DefaultFormatter())

        def emit(self, record):
            try:
                self.show(record)
                self.keep(record)
            except Exception:
                traceback.print_exc()

        def keep(self, record):
            """Write the engine's own words to its log file, which is opened with the first of them.

            A log that cannot be written, as on a full disk, is given up: the steps tell what is wrong.
            """
            text = self.format(record)
            if self.log is None or not text or text == "None":
                return
            try:
                if self.file is None:
                    self.log.parent.mkdir(parents=True, exist_ok=True)
                    self.file = open(self.log, "a", encoding="utf-8")
                    self.file.write(f"\n===== {time.strftime('%Y-%m-%d %H:%M:%S')} =====\n")
                self.file.write(text + "\n")
                self.file.flush()
            except OSError:
                self.log = None

        def close_log(self):
            """Close the log file; what a full disk does not take is lost."""
            if self.file:
                with contextlib.suppress(OSError):
                    self.file.close()

        def show(self, record):
            event, fields = getattr(record, "event", None), record.__dict__
            if event == LogEvent.RUN_INFO:
                self.total = sum(n for rule, n in fields["stats"].items() if rule not in ("total", "all"))
                self.before_long_work(fields["stats"])
            elif event == LogEvent.JOB_INFO and fields["shellcmd"]:
                text = _one_line(fields["rule_msg"] or "") or _rule_in_words(fields)
                job = Job(len(self.jobs) + 1, text, fields["reason"], list(fields["log"]), time.monotonic())
                self.jobs[fields["jobid"]] = job
                if not self.common_settings.dryrun:
                    terminal.line(f"{self.place(job)} {job.text}")
            elif event == LogEvent.JOB_FINISHED and fields["job_id"] in self.jobs:
                job = self.jobs[fields["job_id"]]
                terminal.clear()
                terminal.line(f"{self.place(job)} {job.text}: done in {duration(time.monotonic() - job.began)}")
            elif event == LogEvent.JOB_ERROR:
                self.failures += 1
                job = self.jobs.get(fields["jobid"]) or Job(0, fields["rule_name"], "", list(fields["log"]), 0)
                if not terminal.stopping:
                    for line in explain_failure(job.text, job.logs, self.troubles, self.killed_by):
                        terminal.line(line)
                self.troubles, self.killed_by = [], 0
            elif record.levelno >= logging.ERROR:
                text = record.getMessage()
                if match := re.search(r"CalledProcessError.*exit status (\d+)", text, re.DOTALL):
                    self.killed_by = int(match[1]) - 128  # the step's failure itself is told by JOB_ERROR
                elif not re.search("because a job execution failed|At least one job did not complete", text):
                    self.troubles.append(text)
            elif event is None and record.getMessage().startswith("Nothing to be done"):
                self.nothing_to_do = True

        def place(self, job):
            total = max(self.total, len(self.jobs))
            return f"[{job.number:{len(str(total))}} of {total}]"

        def before_long_work(self, steps):
            """Say once what the study may take, if its long steps are due."""
            if self.estimated or self.common_settings.dryrun or not needs_room(self.study):
                return
            self.estimated = True
            from skin_tl.study import TUNED

            long = ["images", "features", "random_features", "external_images", "external_features"]
            if any(strategy in TUNED for strategy in self.study.strategies):
                long.append("train")
            if any(steps.get(name) for name in long):
                terminal.line(estimate(self.study).in_words())

        def finish(self, succeeded, study, settings, log):
            """Say how it ended; return the exit status."""
            self.close_log()
            where = f"report/{study.name}"
            for trouble in dict.fromkeys(explain_trouble(trouble) for trouble in self.troubles):
                terminal.line(f"error: {trouble}")
            failed = self.failures or self.troubles or not succeeded
            if settings.dryrun and not failed:
                self.list_steps(where)
                return 0
            if failed:
                if self.jobs:
                    terminal.line("What was finished is kept: the next start goes on from there.")
            elif self.nothing_to_do or not self.jobs:
                what = "what was asked for" if settings.targets or settings.until else where
                terminal.line(f"Nothing to do: {what} is up to date.")
            else:
                terminal.line(f"Done: {len(self.jobs)} step{'s' * (len(self.jobs) != 1)}.")
            if not failed and not settings.targets and not settings.until:
                reports = sorted(ROOT.glob(f"{where}/*.html")) + sorted(ROOT.glob(f"{where}/*.pdf"))
                for file in reports:
                    terminal.line(f"  {file.relative_to(ROOT)}")
            if log and log.is_file() and not self.nothing_to_do:
                terminal.line(f"The engine's own log: {log}")
            return 1 if failed else 0

        def list_steps(self, where):
            if self.nothing_to_do:
                print(f"Nothing to do: {where} is up to date.")
                return
            print(f"{len(self.jobs)} step{'s' * (len(self.jobs) != 1)} would run:")
            for job in self.jobs.values():
                print(f"  {job.text}\n      {_reason_in_words(_one_line(job.reason))}")
            print("Nothing was done (--dry-run).")

    plugin = types.ModuleType("snakemake_logger_plugin_skin_tl")
    plugin.LogHandler = LogHandler
    registry = LoggerPluginRegistry()
    registry.plugins.pop("skin-tl", None)
    registry.register_plugin(plugin.__name__, plugin)
    return LogHandler


def explain_failure(text, logs, troubles=(), killed_by=0):
    """Return the lines that tell of a failed step: its last ``error: …``, or the end of its log; where the log is.

    Parameters
    ----------
    text : str
        What the step did.
    logs : list of str
        Its log files.
    troubles : list of str
        What the engine said of it.
    killed_by : int
        The number of the signal that ended it, if it is positive.
    """
    lines = []
    for log in logs:
        with contextlib.suppress(OSError):
            lines += [line.rstrip() for line in Path(log).read_text(encoding="utf-8", errors="replace").splitlines()]
    lines = [line for line in lines if line.strip()]
    told = [line for line in lines if line.startswith("error: ")]
    if killed_by == signal.SIGKILL:
        result = [f"error: {text} was killed from outside; most often the machine had no memory left."]
    elif told:
        result = [f"error: {text}: {told[-1].removeprefix('error: ')}"]
    elif troubles:
        result = [f"error: {text}: {explain_trouble(troubles[-1])}"]
    elif full := next((log for log in logs if is_full(Path(log).resolve().parent)), None):  # it wrote no log
        result = [f"error: {text}: {disk_full_message(full)}"]
    elif lines:
        result = [f"error: {text} failed. The end of its log:", *(f"  | {line}" for line in lines[-15:])]
    else:
        result = [f"error: {text} failed and wrote nothing to its log."]
    return [*result, *(f"  log: {log}" for log in logs)]


def explain_trouble(text):
    """Return in one line what the engine said in many, without its traceback."""
    if "Directory cannot be locked" in text:
        return (
            "another start works on the same files, or one on another machine was killed. If none is running: "
            "./run_all.sh STUDY --unlock, then start again."
        )
    if re.search(r"No space left on device|Dis[ck] quota exceeded", text):
        return disk_full_message(full_folder())
    if match := re.search(r"No rule to produce (\S+)", text):
        return f"no step of this study makes {match[1]}."
    if match := re.search(r"some output files are missing\..*--latency-wait:?\s(.*)", text, re.DOTALL):
        return f"a step ended well but did not write all of its files: {_one_line(match[1])}"
    head, _, rest = text.partition("\n")
    if match := re.match(r"(\w+)(?: in .*)?:$", head):  # Exception in file …, line …: message and traceback
        told = _one_line(" ".join(line for line in rest.splitlines() if not line.startswith("  File ")))
        return told if match[1] == "SkinTLError" or match[1].endswith("Exception") else f"{match[1]}: {told}"
    return _one_line(text)


def duration(seconds):
    """Return a duration for people, such as ``3 min 5 s``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def _rule_in_words(fields):
    values = ", ".join(str(value) for value in dict(fields["wildcards"] or {}).values())
    return f"{fields['rule_name']} ({values})" if values else fields["rule_name"]


def _one_line(text):
    return " ".join(str(text).split())


def _reason_in_words(reason):
    """Let each part of the engine's reason for a step name its first two things, and count the others."""
    parts = []
    for part in reason.split("; "):
        what, colon, things = part.partition(": ")
        if what.startswith("Params have changed"):  # hashes follow, which tell a person nothing
            what, colon, things = "Its settings, its code or its texts have changed", "", ""
        names = things.split(", ")
        more = len(names) - 2
        parts.append(what + colon + (f"{', '.join(names[:2])} and {more} more" if more > 0 else things))
    return "; ".join(parts)


# --- What it takes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What a study takes at most, if nothing of it is cached.

    Attributes
    ----------
    download, images, features, models : float
        Bytes on the disk.
    seconds : float
        Of the forward passes on this machine's processor, very roughly.
    gpu : bool
        Whether an NVIDIA driver is there; a GPU that is used is many times faster.
    """

    download: float
    images: float
    features: float
    models: float
    seconds: float
    gpu: bool

    @property
    def disk(self):
        """All bytes together."""
        return self.download + self.images + self.features + self.models

    def in_words(self):
        """Return two lines for the person."""
        parts = (
            ("download", self.download),
            ("images", self.images),
            ("features", self.features),
            ("models", self.models),
        )
        held = ", ".join(f"{name} {size / GIGA:.1f}" for name, size in parts if size > 0)
        speed = "far less if the GPU is used" if self.gpu else "roughly, from this processor's speed"
        return (
            f"This study takes at most {self.disk / GIGA:.1f} GB of disk ({held}).\n"
            f"Its networks compute for about {roughly(self.seconds)} ({speed}); less where parts are cached."
        )


def roughly(seconds):
    """Return a rough duration: whole 5 minutes below two hours, half hours above."""
    if seconds < 7200:
        return f"{max(5, 5 * round(seconds / 300))} min"
    return f"{round(seconds / 1800) / 2:g} h"


def needs_room(study):
    """Tell whether a study is long enough to say beforehand what it takes."""
    return study is not None and study.dataset != "synthetic"


def estimate(study):
    """Estimate what a study takes, measuring this machine's speed for an instant.

    Parameters
    ----------
    study : skin_tl.study.Study

    Returns
    -------
    Estimate
    """
    from skin_tl.backbones import transform_of
    from skin_tl.dataset import PARTS
    from skin_tl.study import SHARES, TUNED, passes_of

    n_images = N_HAM10000 + N_ISIC2018 * bool(study.external)
    download = 0
    for name in study.releases:
        decoded = (ROOT / "runs" / study.name / PARTS[name] / "images.json").is_file()
        if not os.environ.get(f"SKIN_TL_{name}") and not decoded:
            download += DOWNLOAD_BYTES[name]
    passes = {(name, transform_of(name, how)) for name in study.backbones for how in study.preprocessings}
    work, control, features = 0.0, 0.0, 0
    for name, transform in [*passes, *((name, "control") for name in study.backbones if study.control)]:
        operations, n_features = COST.get(name, COST_OF_OTHERS)
        cost = operations * (study.image_size / 224) ** 2 / EFFICIENCY.get(name, EFFICIENCY_OF_OTHERS)
        if transform == "control":  # sees the study's own images alone
            control += cost
            features += N_HAM10000 * n_features * 4
        else:
            work += cost
            features += n_images * n_features * 4
    # Whole networks: in each epoch, every training image costs a forward and a backward pass, as much as two more.
    tuned = [strategy for strategy in study.strategies if strategy in TUNED]
    n_splits, fractions = len(study.split_policies) * len(study.seeds), study.train_fractions
    rates = {strategy: len(study.rates(strategy)) for strategy in tuned}
    epochs = sum(getattr(study, f"{strategy}_epochs") * rates[strategy] for strategy in tuned)
    shown = sum(fraction * passes_of(fraction) for fraction in fractions)
    rounds = n_splits * epochs * (3 * SHARES["train"] * shown + SHARES["val"] * len(fractions))
    n_networks = n_splits * len(fractions) * len(study.preprocessings)
    n_checkpoints = n_networks * max(rates.values(), default=0)  # of one run, which removes them at its end
    n_models = len(study.strategies) + len(tuned) * n_networks + CHECKPOINT * n_checkpoints
    return Estimate(
        download=download,
        images=n_images * study.image_size**2 * 3,
        features=features,
        models=MODEL_BYTES * len(study.backbones) * n_models,
        seconds=((n_images + N_HAM10000 * rounds) * work + N_HAM10000 * control) / measure_speed(),
        gpu=has_gpu(),
    )


def has_gpu():
    """Tell whether an NVIDIA driver is there."""
    return os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi") is not None


def measure_speed(seconds=0.2):
    """Return how many billions of floating-point operations a second the processor's cores could do together.

    One core is timed, on a matrix product that fits its cache, and the best time counts: what else the machine does at
    the moment matters little.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    n = 256
    matrix = np.ones((n, n), np.float32)
    began, best = time.perf_counter(), float("inf")
    with threadpool_limits(1):
        while best == float("inf") or time.perf_counter() - began < seconds:
            start = time.perf_counter()
            matrix @ matrix
            best = min(best, time.perf_counter() - start)
    one_core = 2 * n**3 / best / 1e9
    if sys.platform == "darwin":  # its matrix unit, which networks do not use, would be timed
        one_core = min(one_core, 100.0)
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return one_core * n_cores


def check_room(need):
    """Refuse to start where the disk is clearly too small for what is not there yet.

    Parameters
    ----------
    need : Estimate

    Raises
    ------
    SkinTLError
        If less than nine tenths of what is missing is free.
    """
    from skin_tl.images import cache_folder

    cache = cache_folder()
    missing = sum(
        max(0, wanted - size_of(cache / folder))
        for folder, wanted in (("downloads", need.download), ("images", need.images), ("features", need.features))
    )
    place = existing(cache)
    free = shutil.disk_usage(place).free
    if free < 0.9 * missing:
        raise SkinTLError(
            f"{place} has {free / GIGA:.1f} GB free and this study needs about {missing / GIGA:.1f} GB more. "
            "Free some space, or set SKIN_TL_CACHE to a folder on a larger disk, and start again."
        )


# --- Cleaning up ----------------------------------------------------------------------------------------------------


def clean(names):
    """Remove what runs made, never a source, and say what and how much.

    Parameters
    ----------
    names : list of str
        One study's name (or file); if empty, all studies and ``cache/``.

    Raises
    ------
    SkinTLError
        If the study is unknown or being worked on, or something may not be removed.
    """
    if len(names) > 1:
        raise SkinTLError(f"clean takes one study, not {len(names)}: {' '.join(names)}.")
    if any(name.startswith("-") for name in names):
        raise SkinTLError(f"clean takes no option: {names[0]}.")
    reports = [path for path in sorted(ROOT.glob("report/*")) if path.is_dir() and path.name not in RESERVED]
    runs = [path for path in sorted(ROOT.glob("runs/*")) if path.is_dir()]
    if names:
        name = _name_of_study(names[0], runs + reports)
        folders = [path for path in (*runs, *reports) if path.name == name]
        studies = [name]
    else:
        folders = [*runs, *reports, ROOT / "cache", ROOT / ".snakemake"]
        studies = [path.stem for path in ROOT.glob(".state/running/*.lock")]
    freed = 0
    with contextlib.ExitStack() as held:
        for study in studies:
            held.enter_context(only_start(study))
        for folder in folders:
            if folder.is_dir() or folder.is_symlink() or folder.is_file():
                size = size_of(folder)
                try:
                    if folder.is_dir() and not folder.is_symlink():
                        shutil.rmtree(folder)
                    else:
                        folder.unlink()
                except OSError as error:  # which names a file without its folder
                    told = disk_message(error, folder) or f"{folder} cannot be removed: {error}."
                    raise SkinTLError(told) from None
                freed += size
                print(f"removed {folder.relative_to(ROOT)} ({_in_words(size)})")
    print(f"{_in_words(freed)} freed." if freed else "Nothing to remove.")
    if not names and os.environ.get("SKIN_TL_CACHE"):
        print(f"Left alone: SKIN_TL_CACHE={os.environ['SKIN_TL_CACHE']}")
    return 0


def _name_of_study(given, folders):
    """Return the name of a study given by its name or its file, if there is such a one or something it made."""
    file = Path(given)
    if file.suffix in (".yaml", ".yml") and file.is_file():
        match = re.search(r"^name:\s*['\"]?([\w-]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        if not match:
            raise SkinTLError(f"{given} has no line `name: …`: which study is to be removed?")
        return match[1]
    known = {path.stem for path in ROOT.glob("studies/*.yaml")} | {path.name for path in folders}
    if given in known - set(RESERVED):
        return given
    raise SkinTLError(f"No study named {given!r} to clean. There are: {', '.join(sorted(known))}.")


def size_of(path):
    """Return the bytes that a file or folder takes, links not followed; 0 if there is none."""
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _in_words(size):
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
