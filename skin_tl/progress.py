"""What a person sees while a step works: bars and single lines.

A step of the workflow runs with its output going to a log file.  What is meant for the person goes through
the stream that the environment variable ``SKIN_TL_TERMINAL`` names (a FIFO that `skin_tl.workflow.start` reads),
or to standard error where there is none, as in a notebook or a shell.
"""

import os
import select
import sys
import textwrap

from tqdm import tqdm

LONGEST = (select.PIPE_BUF - 2) // 4
"""Characters, of four bytes at most, that reach a FIFO in one piece, with two line ends."""

_stream = None


def terminal():
    """Return the text stream that reaches the person.  It never fails: without a reader it is standard error."""
    global _stream
    path = os.environ.get("SKIN_TL_TERMINAL")
    if not path:
        return sys.stderr
    if _stream is None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND)
            os.set_blocking(descriptor, True)
            _stream = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", errors="replace")
        except OSError:
            return sys.stderr
    return _stream


def say(text):
    """Show one line of text, or several if it is very long.

    Several steps share the FIFO: a line is one write, which nothing of another step's comes into, and the line end
    before it parts it from their bars, which have none.
    """
    stream = terminal()
    before = "\r" if stream is sys.stderr else "\n"
    for line in textwrap.wrap(text, LONGEST, subsequent_indent="    ", break_on_hyphens=False):
        try:
            stream.write(f"{before}{line}\n")
            stream.flush()
        except OSError:
            print(line, file=sys.stderr, flush=True)


def bar(iterable=None, total=None, what="", unit="it"):
    """Return a progress bar over `iterable`, or one to be moved by its ``update(n)`` and closed.

    Parameters
    ----------
    iterable : iterable, optional
    total : int, optional
        How many steps there are, where `iterable` cannot tell.
    what : str
        What is being done, in two or three words.
    unit : str
        What one step is; ``B`` counts bytes.
    """
    return tqdm(
        iterable,
        total=total,
        desc=f"  {what}",
        unit=unit,
        unit_scale=unit == "B",
        unit_divisor=1024,
        file=terminal(),
        mininterval=0.5,
        leave=False,
        dynamic_ncols=False,
        ncols=76,
    )
