"""Cleaning: remove the runs and reports of studies, and the cache.

Takes names of studies; removes their folders and says how much was freed.
"""

import contextlib
import os
import shutil
from pathlib import Path

from rich.filesize import decimal

from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, disk_message
from skin_tl.study import load_study
from skin_tl.workflow.locks import only_start

RESERVED = ("template", "text", "published")
"""Folders below ``report/`` that are sources."""


def clean(name: str | None = None) -> None:
    """Remove what runs made, never a source, and say what and how much.

    Parameters
    ----------
    name
        A study's name or file; without it all studies and ``cache/``.

    Raises
    ------
    SkinTLError
        If the study is unknown or being worked on, or something may not be removed.
    """
    reports = [path for path in sorted(ROOT.glob("report/*")) if path.is_dir() and path.name not in RESERVED]
    runs = [path for path in sorted(ROOT.glob("runs/*")) if path.is_dir()]
    if name:
        name = _name_of_study(name, runs + reports)
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
                print(f"removed {folder.relative_to(ROOT)} ({decimal(size)})")
    print(f"{decimal(freed)} freed." if freed else "Nothing to remove.")
    if not name and os.environ.get("SKIN_TL_CACHE"):
        print(f"Left alone: SKIN_TL_CACHE={os.environ['SKIN_TL_CACHE']}")


def _name_of_study(given: str, folders: list[Path]) -> str:
    """Return the name of a study given by its name or its file, if there is such a one or something it made."""
    file = Path(given)
    if file.suffix in (".yaml", ".yml") and file.is_file():
        return load_study(file).name
    known = {path.stem for path in ROOT.glob("studies/*.yaml")} | {path.name for path in folders}
    if given in known - set(RESERVED):
        return given
    raise SkinTLError(f"No study named {given!r} to clean. Name one of {', '.join(sorted(known))}.")


def size_of(path: Path) -> int:
    """Return the bytes that a file or folder takes, links not followed; 0 if there is none."""
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
