"""Files: atomic writes, locks, and fingerprints of contents.

Takes paths and content; gives files that another process sees either complete or absent.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import hashlib
import json
import math
import os
import pwd
import re
import shutil
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from skin_tl.errors import SkinTLError

if TYPE_CHECKING:
    import pandas as pd


ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends without an error.

    What a killed process left of an earlier attempt is removed, but not what may be the work of another machine or
    container that shares the folder.

    Parameters
    ----------
    path
        The file or folder to be written.  Its parent folder is made.  A folder that exists is replaced.

    Yields
    ------
    pathlib.Path
        Where to write.  Its name ends like `path`'s, so that writers that look at the ending behave the same.

    Raises
    ------
    SkinTLError
        If the disk is full or may not be written.
    """
    path = Path(path)
    part = path.with_name(f".part-{_here()}-{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".part-{_here()}-*-{glob.escape(path.name)}"):
            if not _alive(int(left.name.split("-")[2])):
                _remove(left)
        yield part
        if part.is_dir() and path.is_dir():  # which a reader misses between two renames alone
            old = part.with_name(f".part-{_here()}-{os.getpid()}-old-{path.name}")
            os.replace(path, old)
            os.replace(part, path)
            _remove(old)
        else:
            os.replace(part, path)
    except OSError as error:
        of_ours = is_disk_full(error) or str(error.filename) == str(part)
        if advice := disk_message(error, path if of_ours else None):
            raise SkinTLError(advice) from error
        raise
    finally:
        _remove(part)


@functools.cache
def _here():
    """Return the identity of the machine or container in which process ids are unique."""
    place = socket.gethostname()
    with contextlib.suppress(OSError):
        place += os.readlink("/proc/self/ns/pid")
    return fingerprint(place)[:8]


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock ``<path>.lock``, so that one process at a time works on `path`, on all machines that share it.

    The lock of a process that ends, however it ends, is free.  `filelock.FileLock` asks the file system (flock), which
    on Linux NFS hands on to its server.

    Parameters
    ----------
    path
        Its parent folder is made.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        yield


def existing(path: Path) -> Path:
    """Return a path, or the nearest of its parent folders that is there."""
    return next(place for place in (path, *path.parents) if os.path.lexists(place))


def _alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an OSError means that no space is left (on the device or in the quota)."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def disk_full_message(path: str | Path) -> str:
    """Say that `path` could not be written because the disk is full, and what to do."""
    return (
        f"{path}: no space left on the disk. What was finished before is kept. Free some space (`./run_all.sh clean "
        "STUDY` removes a study's runs and report), or name a folder on a larger disk for decoded images and features "
        "by SKIN_TL_CACHE, and start again."
    )


def disk_message(error: OSError, path: str | Path | None = None) -> str | None:
    """Return advice on an OSError that a user can correct (a full disk, a missing permission), else None.

    Parameters
    ----------
    path
        What is named; otherwise what the error names, or the full folder.
    """
    path = path or error.filename
    if is_disk_full(error):
        return disk_full_message(path or full_folder())
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not path:
        return None
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # one without a name
        user = str(os.geteuid())
    return (
        f"{path}: this user ({user}) has no permission ({error.strerror}). Have its owner give it, or, if it belongs "
        "to the project, copy the project to a folder of your own and start there."
    )


def is_full(folder: str | Path) -> bool:
    """Tell whether a folder's disk is full but for a few blocks, which no useful file fits."""
    try:
        return shutil.disk_usage(folder).free < 100_000
    except OSError:
        return False


def full_folder() -> str | Path:
    """Return the folder whose disk is full, where an error does not tell: the cache, the temporary one, the project."""
    candidates = (os.environ.get("SKIN_TL_CACHE"), os.environ.get("TMPDIR"), "/tmp")
    return next((folder for folder in candidates if folder and is_full(folder)), ROOT)


def exit_status(run: Callable[[], object], watch: Callable[[str], object] | None = None) -> int:
    """Call `run` and return the exit status of a process: 0, or 1 after one line on what the user can correct.

    Parameters
    ----------
    watch
        Called with the message too.
    """
    try:
        run()
        return 0
    except SkinTLError as error:
        message = str(error)
    except OSError as error:
        if not (advice := disk_message(error)):
            raise
        message = advice
    print(f"error: {message}", file=sys.stderr)
    if watch:
        watch(message)
    return 1


def claim_space(file: IO, n_bytes: int) -> None:
    """Claim bytes of an open file on the disk before a memory map writes them.

    A full disk is an error here; it would be a crash (SIGBUS) when the map is written.  Where the system cannot claim
    bytes (macOS), nothing is done.

    Raises
    ------
    OSError
        If the disk is full, see `is_disk_full`.
    """
    if hasattr(os, "posix_fallocate") and n_bytes:
        os.posix_fallocate(file.fileno(), 0, n_bytes)


def printable(text: str | Path) -> str:
    """Return a name as text for a terminal or JSON: what is no UTF-8 and control characters are escaped."""
    text = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    with write_atomically(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as sorted, indented JSON, whole or not at all."""
    content = without_nan(content)
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def without_nan(content: Any) -> Any:
    """Replace numbers that are not finite by null, since JSON has no word for them."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: str | Path, made_by: str = "./run_all.sh") -> Any:
    """Read a JSON file that an earlier step wrote.

    Raises
    ------
    SkinTLError
        If the file is absent or is not JSON; the message names `made_by`.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SkinTLError(f"{path} is missing. It is written by `{made_by}`: run that first.") from None
    except ValueError as error:
        raise SkinTLError(f"{path} is not valid JSON ({error}). Delete it and run `{made_by}` again.") from None


FORMULA = r"[=@\t\r]|[+-](?!(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$)"
"""How text begins that spreadsheets execute."""


def is_formula(cell: object) -> bool:
    """Tell whether a cell is text that a spreadsheet would execute, such as ``=1+1``."""
    return isinstance(cell, str) and re.match(FORMULA, cell, re.IGNORECASE) is not None


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table whole or not at all, with Unix line ends and floats that read back to the same value.

    A number that is not finite is an empty cell, and text that a spreadsheet would execute gets an apostrophe.

    Parameters
    ----------
    table
        Its index is not written.
    """
    numbers, texts = table.select_dtypes("floating"), table.select_dtypes(["object", "string"])
    harmless = {name: texts[name].map(lambda cell: f"'{cell}" if is_formula(cell) else cell) for name in texts}
    table = table.assign(**numbers.where(numbers.abs() != math.inf), **harmless)
    with write_atomically(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")


def fingerprint(*parts: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the parts (str, bytes, or anything JSON can hold)."""
    digest = hashlib.sha256()
    for part in parts:
        if not isinstance(part, bytes):
            part = (part if isinstance(part, str) else json.dumps(part, sort_keys=True)).encode()
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


def file_fingerprint(path: str | Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def content_hash(*paths: str | Path) -> str:
    """Return a fingerprint of the names and bytes of files, and of all files below folders, whatever their dates.

    Raises
    ------
    SkinTLError
        If one is missing.
    """
    files = []
    for path in map(Path, paths):
        files += sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    try:
        return fingerprint(*(part for file in files for part in (str(file), file.read_bytes())))
    except FileNotFoundError as error:
        raise SkinTLError(f"{error.filename} is missing. Restore it: git checkout {error.filename}") from None
