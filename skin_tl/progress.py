"""Progress: what a person sees while a step works: bars and single lines.

Takes texts and counts; gives them to the person.  A step of the workflow writes them as events, one JSON object a line,
to the file that the environment variable ``SKIN_TL_PROGRESS`` names, on whatever machine it runs;
`skin_tl.workflow.console` reads and shows them.  Without the variable, as in a notebook, they go to standard error.
"""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import IO

from tqdm import tqdm

PROGRESS = "SKIN_TL_PROGRESS"
"""Names the file of events of the step that runs."""


def event(**fields: str | int) -> bool:
    """Append an event to the step's file; return whether there is one.

    Parameters
    ----------
    **fields
        ``line`` is shown and stays; ``bar`` is shown until the next, empty for none; ``error`` says why the step
        failed; ``status`` is the exit status, the last event of a step that was not killed.
    """
    path = os.environ.get(PROGRESS)
    if not path:
        return False
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(fields) + "\n")  # one write: several processes of a step may append
    except OSError:
        return False
    return True


def say(text: str) -> None:
    """Show a line of text."""
    if not event(line=text):
        tqdm.write(text, file=sys.stderr)


class _EventBar(tqdm):
    """A bar whose text becomes events."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        return event(bar=str(self) if msg is None else msg)


def bar(iterable: Iterable | None = None, total: int | None = None, what: str = "", unit: str = "it") -> tqdm:
    """Return a progress bar over `iterable`, or one to be moved by its ``update(n)`` and closed.

    Parameters
    ----------
    iterable
        What the bar counts while it is iterated.
    total
        How many steps there are, where `iterable` has no length.
    what
        What is being done, in two or three words.
    unit
        What one step is; ``B`` counts bytes.
    """
    shown = os.environ.get(PROGRESS)
    return (_EventBar if shown else tqdm)(
        iterable,
        total=total,
        desc=f"  {what}",
        unit=unit,
        unit_scale=unit == "B",
        unit_divisor=1024,
        file=io.StringIO() if shown else sys.stderr,
        mininterval=1 if shown else 0.5,
        leave=False,
        dynamic_ncols=False,
        ncols=76,
    )


@contextlib.contextmanager
def standard_error_to(file: IO) -> Iterator[None]:
    """Send what this process and those that it starts write to standard error meanwhile to an open file."""
    sys.stderr.flush()
    terminal = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)
