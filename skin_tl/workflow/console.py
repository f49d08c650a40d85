"""Console: the steps, bars, reasons and failures that a terminal shows while a study runs.

Takes records of Snakemake's log, through the logger plugin ``skin-tl`` that this module is, and the events of the steps
(`skin_tl.progress`); gives lines on standard error.  The engine's own words stay in its log below ``.snakemake/log/``.
"""

from __future__ import annotations

import contextlib
import json
import sys
import textwrap
import threading
import time
from dataclasses import dataclass
from logging import ERROR, LogRecord
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from skin_tl.files import ROOT, disk_full_message, is_full, read_json
from skin_tl.schema import TUNED

if TYPE_CHECKING:
    from skin_tl.study import Study

N_LINES = 15
"""Of the log of a step that crashed, which are shown."""

PUBLISHED = "report/published/index.html"
"""Where reports on real images are."""

IMPLIED = ("Missing output files", "Input files updated by another job")
"""The engine's reasons for a step that was not done yet, and for one after others that are listed."""

LONG = {"images", "features", "random_features", "external_images", "external_features"}
"""Rules that take long; `train` does where whole networks are trained."""


class Terminal:
    """Lines and one moving bar below them, from several threads.

    Parameters
    ----------
    stream
        Where it is not a terminal, a bar becomes one line each `every` seconds.
    every
        Seconds.
    """

    def __init__(self, stream: TextIO, every: float = 60.0) -> None:
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, transient=True, refresh_per_second=4, redirect_stdout=False)
        self._every, self._last = every, time.monotonic()

    def __enter__(self) -> Terminal:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, ValueError):  # of a terminal that is gone
            self._live.stop()

    def line(self, text: str) -> None:
        """Show a line above the bar."""
        with contextlib.suppress(OSError, ValueError):
            self._console.print(Text(text))

    def bar(self, text: str) -> None:
        """Show `text` as the bar; an empty one takes it away."""
        if self._console.is_terminal:
            self._live.update(Text(text.rstrip(), no_wrap=True, overflow="ellipsis"), refresh=not text.strip())
        elif text.strip() and time.monotonic() - self._last > self._every:
            self.line(text.rstrip())
            self._last = time.monotonic()


@dataclass
class Step:
    """A step as the engine reports it, and what it has told so far."""

    number: int
    rule: str
    text: str
    reason: str
    log: Path
    began: float
    n_read: int = 0
    error: str | None = None
    status: int | None = None

    @property
    def events(self) -> Path:
        """File of its events, see `skin_tl.progress`."""
        return self.log.with_name(f"{self.log.name}.progress")

    def read(self, terminal: Terminal) -> None:
        """Show the events that have come since the last time."""
        with contextlib.suppress(OSError), self.events.open("rb") as file:
            file.seek(self.n_read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.n_read += len(line)
                told = json.loads(line)
                if "line" in told:
                    terminal.line(told["line"])
                if "bar" in told:
                    terminal.bar(told["bar"])
                self.error = told.get("error", self.error)
                self.status = told.get("status", self.status)

    def failure(self, note: str = "") -> list[str]:
        """Return the lines that say why it failed and where its log is.

        Parameters
        ----------
        note
            What the engine says of a cluster's job.
        """
        lines = []
        with contextlib.suppress(OSError):
            lines = [
                line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
            ]
        if self.error:
            result = [f"error: {self.text}: {self.error}"]
        elif is_full(self.log.resolve().parent):
            result = [f"error: {self.text}: {disk_full_message(self.log)}"]
        elif self.status is None and note:
            more = f"--set-resources {self.rule}:mem_mb=… {self.rule}:runtime=…"
            unborn = "" if lines else ". It wrote no log: its node may lack this folder, or .venv in it"
            result = [f"error: {self.text}: {note} If it lacked memory or time: {more}{unborn}"]
        else:
            killed = "was killed, most often for lack of memory"
            end = "The end of its log:" if lines else "It wrote no log: what the engine says is below .snakemake/log/"
            result = [f"error: {self.text} {killed if self.status is None else 'failed'}. {end}"]
            result += [f"  | {line.rstrip()}" for line in lines[-N_LINES:]]
        return [*result, f"  log: {self.log}"]


class Progress:
    """What a start shows, as long as it is entered.

    Parameters
    ----------
    terminal
        Gets the lines and bars.
    study
        The study that is run.
    dry
        Whether steps are only listed.

    Attributes
    ----------
    estimate
        What the study may take, said before its long steps; empty for nothing.
    notes
        What a dry run says of steps besides, by rule.
    """

    def __init__(self, terminal: Terminal, study: Study, dry: bool = False) -> None:
        self.terminal, self.study, self.dry, self.estimate = terminal, study, dry, ""
        self.notes: dict[str, str] = {}
        self.steps: dict[int, Step] = {}
        self.running: set[int] = set()
        self.total = self.n_failed = 0
        self.troubles: list[str] = []
        self.stopping = False
        self._over, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        LogHandler.progress = self
        self.terminal.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=5)
        self.terminal.__exit__()

    def _watch(self) -> None:
        while not self._over.wait(0.3):
            with self._lock:
                for number in self.running:
                    self.steps[number].read(self.terminal)

    def _ended(self, number: int) -> Step:
        with self._lock:
            step = self.steps[number]
            step.read(self.terminal)
            step.events.unlink(missing_ok=True)
            self.running.discard(number)
            self.terminal.bar("")
        return step

    def heed(self, fields: dict[str, Any], level: int, message: str) -> None:
        """Show what a record of the engine's log means to a person."""
        event = fields.get("event")
        if event == LogEvent.RUN_INFO:
            self.total = sum(n for rule, n in fields["stats"].items() if rule not in ("total", "all"))
            tuned = {"train"} if set(TUNED).intersection(self.study.strategies) else set()
            if self.estimate and (LONG | tuned).intersection(fields["stats"]):
                self.terminal.line(self.estimate)
                self.estimate = ""
        elif event == LogEvent.JOB_INFO and fields["shellcmd"]:
            text = one_line(fields["rule_msg"] or fields["rule_name"])
            again = self.steps.get(fields["jobid"])  # a job that failed is tried again, where the profile says so
            number, log = again.number if again else len(self.steps) + 1, Path(*fields["log"][:1])
            step = Step(number, fields["rule_name"], text, fields["reason"], log, time.monotonic())
            with self._lock:
                self.steps[fields["jobid"]] = step
                if not self.dry:
                    step.events.unlink(missing_ok=True)
                    self.running.add(fields["jobid"])
            if not self.dry:
                self.terminal.line(f"{self._place(step)} {step.text}")
        elif event == LogEvent.JOB_FINISHED and fields["job_id"] in self.running:
            step = self._ended(fields["job_id"])
            self.terminal.line(f"{self._place(step)} {step.text}: done in {duration(time.monotonic() - step.began)}")
        elif event == LogEvent.JOB_ERROR and fields["jobid"] in self.running:
            step = self._ended(fields["jobid"])
            if step.status == 0:  # such as a file that it did not write, of which the engine speaks
                return
            self.n_failed += 1
            for line in (
                [] if self.stopping else step.failure(textwrap.shorten(fields["rule_msg"] or "", 240, placeholder=" …"))
            ):
                self.terminal.line(line)
        elif level >= ERROR:
            lines = [line for line in message.splitlines() if not line.startswith("  File ")]
            self.troubles.append(one_line(" ".join(lines[fields.get("exception") == "SkinTLError" :])))

    def stop(self) -> None:
        """Say that the steps are being stopped, and no more of how they end."""
        self.stopping = True
        self.terminal.line("Stopping …")

    def _place(self, step: Step) -> str:
        total = max(self.total, len(self.steps))
        return f"[{step.number:{len(str(total))}} of {total}]"

    def finish(self, succeeded: bool, partly: bool) -> int:
        """Say how the start ended; return its exit status.

        Parameters
        ----------
        succeeded
            Whether the engine reached its targets.
        partly
            Whether less than the whole study was asked for.
        """
        where = f"report/{self.study.name}"
        if not succeeded:
            if self.troubles and not self.n_failed:  # the first is the cause
                self.terminal.line(f"error: {self.troubles[0]}")
            if self.steps and not self.dry:
                self.terminal.line("What was finished is kept: the next start continues from there.")
            return 1
        if self.dry and self.steps:
            print(f"{_n_steps(len(self.steps))} would run:")
            for step in self.steps.values():
                print(f"  {step.text}")
                for line in filter(None, (_why_again(one_line(step.reason)), self.notes.get(step.rule))):
                    print(f"      {line}")
            print("Nothing was done (--dry-run).")
            return 0
        if not self.steps:
            what = "what was asked for" if partly else where
            (print if self.dry else self.terminal.line)(f"Nothing to do: {what} is up to date.")
        else:
            self.terminal.line(f"Done: {_n_steps(len(self.steps))}.")
        if not partly:
            for line in results(self.study):
                self.terminal.line(line)
        return 0


def results(study: Study) -> list[str]:
    """Return the lines that a finished study ends with: its pages, and what its numbers do not say."""
    files = [file for kind in ("html", "pdf") for file in sorted(ROOT.glob(f"report/{study.name}/*.{kind}"))]
    lines = [f"  {file.relative_to(ROOT)}" for file in files]
    if what := _not_real(study):
        lines.append(f"Its numbers are those of {what}. Reports on real images: {PUBLISHED}")
    return lines


def _not_real(study: Study) -> str:
    """Return why the numbers of a finished study say nothing of skin lesions; empty where they do."""
    weights = ROOT / "runs" / study.name / "weights.json"
    random = weights.is_file() and read_json(weights)["source"] == "random"
    return " and ".join(["synthetic images"] * study.synthetic + ["backbones with random weights"] * random)


class LogHandler(LogHandlerBase):
    """Snakemake's logger plugin ``skin-tl``: hands each record to the `progress` of the start."""

    progress: Progress | None = None
    writes_to_stream = True  # so that Snakemake adds no handler of its own for the terminal
    writes_to_file = has_filter = needs_rulegraph = False
    has_formatter = True

    def emit(self, record: LogRecord) -> None:
        """Show what a record means to a person."""
        try:
            if self.progress:
                self.progress.heed(vars(record), record.levelno, record.getMessage())
        except Exception:
            self.handleError(record)


def register_logger() -> None:
    """Make this module known to Snakemake as the logger plugin ``skin-tl``."""
    registry = LoggerPluginRegistry()
    if "skin-tl" not in registry.get_registered_plugins():
        registry.register_plugin("snakemake_logger_plugin_skin_tl", sys.modules[__name__])


def duration(seconds: float) -> str:
    """Return a duration for people, such as ``3 min 5 s``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def one_line(text: object) -> str:
    """Return a text with each run of spaces and line ends as one space."""
    return " ".join(str(text).split())


def _n_steps(number: int) -> str:
    return f"{number} step{'s' * (number != 1)}"


def _why_again(reason: str) -> str:
    """Return in words why a step that was done runs again, apart from steps above it; empty for no such reason.

    Each part of the engine's reason names its first two things, and counts the others.
    """
    parts = []
    for part in reason.split("; "):
        what, colon, things = part.partition(": ")
        if what in IMPLIED:
            continue
        if what.startswith("Params have changed"):  # hashes follow, which tell a person nothing
            what, colon, things = "Its settings, its code or its texts have changed", "", ""
        names = things.split(", ")
        more = len(names) - 2
        parts.append(what + colon + (f"{', '.join(names[:2])} and {more} more" if more > 0 else things))
    return "; ".join(parts)
