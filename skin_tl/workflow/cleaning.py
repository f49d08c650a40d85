"""Cleaning: remove the runs and reports of studies, and the cache.

Takes names of studies; removes their folders and says how much was freed.
"""

import contextlib
import os
import re
import shutil
from pathlib import Path

from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, disk_message
from skin_tl.workflow.locks import only_start

RESERVED = ("template", "text", "published")
"""Folders below ``report/`` that are sources."""


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
