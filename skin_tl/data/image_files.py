"""Image files: which file of a folder is the picture of an image id.

Takes a folder and image ids; gives one path for each id, and refuses what is missing, packed or in doubt.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from skin_tl.errors import SkinTLError
from skin_tl.progress import say

if TYPE_CHECKING:
    import pandas as pd


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
PACKED_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
SYSTEM_FOLDERS = (".", "@", "#", "$", "~", "__")
"""How names of folders begin that are hidden or the system's (.Trash-1000, @eaDir, __MACOSX): nothing is read there."""


def images_of(metadata: pd.DataFrame, folder: Path, table: Path) -> dict[str, str]:
    """Return the path of each image of a table, and say how many image files are not of it.

    Parameters
    ----------
    metadata
        Its column image_id is used.
    folder
        Holds the images, in any sub-folder.
    table
        What errors and notes call the table.

    Returns
    -------
    dict
        Path by image id.

    Raises
    ------
    SkinTLError
        If images are missing, or several files of different content bear the id of one.
    """
    found = find_images(folder)
    matched = match_images(metadata["image_id"], found, folder)
    files = choose_images(matched, folder)
    unused = sum(map(len, found.values())) - sum(map(len, matched.values()))
    if unused:
        say(f"  note: {unused} image files below {folder} have no row in {table.name} and are not used.")
    return files


def files_below(folder: str | Path) -> Iterator[str]:
    """Yield the path of every file below a folder, sorted.

    Links to folders are followed, each folder once and none that leads back up; `SYSTEM_FOLDERS` and hidden files are
    left out.
    """
    seen = {str(parent) for parent in Path(folder).resolve().parents}
    for root, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(root)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith(SYSTEM_FOLDERS))
        yield from (os.path.join(root, name) for name in sorted(names) if not name.startswith("."))


def packed_files(folder: str | Path) -> str:
    """Say which archives still lie packed below a folder, and to unpack them; else nothing."""
    names = [os.path.relpath(path, folder) for path in files_below(folder) if path.lower().endswith(PACKED_SUFFIXES)]
    more = " …" if len(names) > 5 else ""
    return f" Archives are still packed there: {', '.join(names[:5])}{more}. Unpack them." if names else ""


def find_images(folder: str | Path) -> dict[str, list[str]]:
    """Return the paths of all image files below a folder by image id (their name without ending), both sorted."""
    found: dict[str, list[str]] = {}
    for path in files_below(folder):
        stem, suffix = os.path.splitext(os.path.basename(path))
        if suffix.lower() in IMAGE_SUFFIXES:
            found.setdefault(stem, []).append(path)
    return dict(sorted(found.items()))


def match_images(image_ids: Iterable[str], found: dict[str, list[str]], folder: str | Path) -> dict[str, list[str]]:
    """Return the files that bear the id of each image of a table, whatever its case.

    Parameters
    ----------
    found
        From `find_images`.

    Returns
    -------
    dict
        List of paths by image id, see `choose_images`.

    Raises
    ------
    SkinTLError
        If images are missing; the message counts them and names the first.
    """
    by_lower: dict[str, list[str]] = {}
    for stem, paths in found.items():
        by_lower.setdefault(stem.lower(), []).extend(paths)
    files = {image_id: by_lower.get(image_id.lower(), []) for image_id in image_ids}
    missing = [image_id for image_id, paths in files.items() if not paths]
    if missing:
        advice = packed_files(folder) or (
            " Expected <image_id>.jpg in the folder or below it (hidden folders are left out). Check that all archives "
            "were unpacked, and add these files; or remove their rows from the metadata."
        )
        raise SkinTLError(
            f"{folder}: {len(missing)} of {len(files)} images of the table are missing: {', '.join(missing[:5])}"
            f"{' …' if len(missing) > 5 else ''}.{advice}"
        )
    return files


def choose_images(files: dict[str, list[str]], folder: str | Path) -> dict[str, str]:
    """Return the one picture of each image.

    Files of the same content are one.  Whatever else bears the same id is a doubt that nothing here can settle.

    Parameters
    ----------
    files
        From `match_images`.

    Returns
    -------
    dict
        Path by image id.

    Raises
    ------
    SkinTLError
        If an image has several pictures.
    """
    doubtful = {
        paths[0]: other
        for paths in files.values()
        for other in paths[1:]
        if _size_and_end(paths[0]) != _size_and_end(other)
    }
    if doubtful:
        first, other = next(iter(doubtful.items()))
        raise SkinTLError(
            f"{folder}: {len(doubtful)} of {len(files)} images have several files of different content, among them "
            f"{first} and {other}. Move those that are not the pictures out of this folder."
        )
    return {image_id: paths[0] for image_id, paths in files.items()}


def _size_and_end(path, tail=4096):
    """Return the size of an image file and its last bytes, which all pixels shape."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - tail, 0))
        return size, file.read()
