"""Locks: one start at a time for each study, and what a killed start left locked.

Takes the name of a study; gives a context in which no other start works on it.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT


@contextlib.contextmanager
def only_start(name: str) -> Iterator[None]:
    """Hold the study's lock; where no other start works in this project, remove what a killed one left locked.

    Parameters
    ----------
    name
        The study's name.

    Raises
    ------
    SkinTLError
        If another start is working on the same study.
    """

    def is_free(path: Path) -> bool:
        try:
            with FileLock(path, timeout=0):
                return True
        except Timeout:
            return False

    folder = ROOT / ".state" / "running"
    folder.mkdir(parents=True, exist_ok=True)
    mine, owner = FileLock(folder / f"{name}.lock", timeout=0), folder / f"{name}.pid"
    with FileLock(folder / "gate"):
        try:
            mine.acquire()
        except Timeout:
            process = owner.read_text() if owner.is_file() else "unknown"
            raise SkinTLError(
                f"Another start (process {process}) is working on the study {name}. Wait until it has finished, or "
                "stop it."
            ) from None
        owner.write_text(str(os.getpid()))
        if all(is_free(path) for path in folder.glob("*.lock") if path.stem != name):
            shutil.rmtree(ROOT / ".snakemake" / "locks", ignore_errors=True)
    with mine:
        mine.release()  # the first hold; that of the context remains
        yield
