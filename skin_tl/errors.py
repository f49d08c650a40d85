"""Errors: the exception type for everything that a user can correct."""

INTERRUPTED = 130
"""Exit status of a program that was interrupted (128 + SIGINT)."""


class SkinTLError(Exception):
    """Something in the input or the machine's state is wrong, and the user can correct it.

    The message says what is wrong, where (file or setting), what was expected and what to do.  It is shown
    without a traceback.
    """
