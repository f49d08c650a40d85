"""Terminal: what a person sees while the engine works: steps, bars, reasons and failures.

Takes records of Snakemake's log and lines of the steps; gives lines on standard error and a log file.
"""

import codecs
import contextlib
import logging
import os
import re
import select
import shutil
import signal
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from skin_tl.files import ROOT, disk_full_message, full_folder, is_full
from skin_tl.workflow.estimates import (
    estimate,
    needs_room,
)

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
def relay(terminal):
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
class EngineJob:
    """A step as the engine reports it: its number in this start, what it does, why, its log files, when it began."""

    number: int
    text: str
    reason: str
    logs: list
    began: float


def register_logger(terminal):
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
                text = one_line(fields["rule_msg"] or "") or _rule_in_words(fields)
                job = EngineJob(len(self.jobs) + 1, text, fields["reason"], list(fields["log"]), time.monotonic())
                self.jobs[fields["jobid"]] = job
                if not self.common_settings.dryrun:
                    terminal.line(f"{self.place(job)} {job.text}")
            elif event == LogEvent.JOB_FINISHED and fields["job_id"] in self.jobs:
                job = self.jobs[fields["job_id"]]
                terminal.clear()
                terminal.line(f"{self.place(job)} {job.text}: done in {duration(time.monotonic() - job.began)}")
            elif event == LogEvent.JOB_ERROR:
                self.failures += 1
                job = self.jobs.get(fields["jobid"]) or EngineJob(0, fields["rule_name"], "", list(fields["log"]), 0)
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
            from skin_tl.schema import TUNED

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
                print(f"  {job.text}\n      {_reason_in_words(one_line(job.reason))}")
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
        return f"a step ended well but did not write all of its files: {one_line(match[1])}"
    head, _, rest = text.partition("\n")
    if match := re.match(r"(\w+)(?: in .*)?:$", head):  # Exception in file …, line …: message and traceback
        told = one_line(" ".join(line for line in rest.splitlines() if not line.startswith("  File ")))
        return told if match[1] == "SkinTLError" or match[1].endswith("Exception") else f"{match[1]}: {told}"
    return one_line(text)


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


def one_line(text):
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
