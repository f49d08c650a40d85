"""What a person sees while a step works: bars and single lines.

A step of the workflow runs with its output going to a log file.  What is meant for the person goes through
the stream that the environment variable ``SKIN_TL_TERMINAL`` names (a FIFO that `skin_tl.workflow` reads),
or to standard error where there is none, as in a notebook or a shell.
"""

import os
import sys

from tqdm import tqdm

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
    """Show one line of text."""
    stream = terminal()
    try:
        print(f"\r{text}", file=stream, flush=True)
    except OSError:
        print(text, file=sys.stderr, flush=True)


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
