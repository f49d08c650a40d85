"""Releases: where the files of HAM10000 and of the ISIC 2018 test set are, or are downloaded from.

Takes the name of a release; gives a folder, the state of its source, and records of what a study was made from.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from skin_tl.data.image_files import find_images, match_images
from skin_tl.data.images import cache_folder
from skin_tl.data.metadata import DOI, find_metadata, read_metadata
from skin_tl.errors import SkinTLError
from skin_tl.files import alone, fingerprint, read_json, write_atomically, write_json
from skin_tl.progress import bar
from skin_tl.step_code import code_hash

TABLES = {"HAM10000": "HAM10000_metadata", "ISIC2018": "ISIC2018_Task3_Test_GroundTruth"}
"""Name of the metadata table, without ending, by release."""
PARTS = {"HAM10000": "dataset", "ISIC2018": "external"}
"""Folder of a study's runs that holds what was decoded, by release."""
DOWNLOAD = "download"
"""State of a release that is not in a folder of the user's, see `source_state`."""
SYNTHETIC_SEED = 0
DATAVERSE = "https://dataverse.harvard.edu"
MASK_ENDING = "_segmentation"
"""What the name of a mask of the release has after its image's id (HAM10000_segmentations_lesion_tschandl)."""
HAM10000_FILES = ("HAM10000_metadata", "HAM10000_images_part_1.zip", "HAM10000_images_part_2.zip")


def find_release(name: str, **how: Any) -> tuple[Path, str]:
    """Return the folder that ``SKIN_TL_<name>`` names, or one that the release is downloaded to.

    Parameters
    ----------
    name : {'HAM10000', 'ISIC2018'}
    **how
        Arguments of `download`.

    Returns
    -------
    source
        Where it came from, for people.

    Raises
    ------
    SkinTLError
    """
    variable = f"SKIN_TL_{name}"
    if not os.environ.get(variable):
        return download(cache_folder() / "downloads" / name, name=name, **how), f"Harvard Dataverse, {DOI}"
    folder = Path(os.environ[variable])
    if not folder.is_dir():
        raise SkinTLError(f"{variable}={folder} is not a folder. Name the folder that holds {name}.")
    return folder, f"the folder named by {variable}"


def find_masks(name: str = "HAM10000") -> dict[str, str]:
    """Return the path of each segmentation mask that lies below the folder of a release, by image id in lower case."""
    found = find_images(os.environ.get(f"SKIN_TL_{name}") or cache_folder() / "downloads" / name)
    lower = {stem.lower(): paths[0] for stem, paths in found.items()}
    return {stem.removesuffix(MASK_ENDING): path for stem, path in lower.items() if stem.endswith(MASK_ENDING)}


def draw_synthetic() -> Path:
    from skin_tl.data import synthetic

    folder = cache_folder() / "synthetic" / code_hash("data.synthetic.draw_dataset")
    if not folder.is_dir():
        with alone(folder):
            if not folder.is_dir():
                with bar(total=synthetic.count_images(seed=SYNTHETIC_SEED), what="drawing images", unit="img") as shown:
                    synthetic.draw_dataset(folder, seed=SYNTHETIC_SEED, on_image=shown.update)
    return folder


def source_state(name: str, folder: str | Path | None = None) -> str:
    """Return a fingerprint of what is in the folder of a release, as far as it can be seen without opening an image.

    The workflow checks and decodes again where it differs from last time.

    Parameters
    ----------
    name : {'HAM10000', 'ISIC2018'}
        The variable ``SKIN_TL_<name>`` names the folder.
    folder
        Holds the source.json that was written when the data set was last decoded.

    Returns
    -------
    str
        Covers the content of the table and the ids and sizes of the images, wherever the release lies.  Where the
        variable is not set, nothing new is offered: what was decoded last stays, or else ``download``.  A place that
        is no folder, or without a table, has a fingerprint too: what is wrong is said when it is read.  What
        `remember_same` found to be the files of last time has the fingerprint of these.
    """
    place, last = os.environ.get(f"SKIN_TL_{name}"), last_source(folder)
    if not place:
        return last["state"]
    try:
        content = find_metadata(place, TABLES[name]).read_bytes()
    except (SkinTLError, OSError):
        content = b""
    images = find_images(place)
    sizes = [
        (image_id, sorted(os.path.isfile(path) and os.path.getsize(path) for path in paths))
        for image_id, paths in sorted(images.items())
    ]
    state = fingerprint(content, sizes)
    return last["state"] if state in last["same"] else state


def check_source(name: str) -> None:
    """Refuse a folder that cannot be the release, without opening an image.

    Parameters
    ----------
    name : {'HAM10000', 'ISIC2018'}

    Raises
    ------
    SkinTLError
        If ``SKIN_TL_<name>`` names a folder without the table; and, for HAM10000, if the table or the list of images is
        not as it should be.  Where the variable is not set there is nothing to check.
    """
    if not os.environ.get(f"SKIN_TL_{name}"):
        return
    folder, _ = find_release(name)
    table = find_metadata(folder, TABLES[name])
    if name == "HAM10000":
        match_images(read_metadata(table)["image_id"], find_images(folder), folder)


def last_source(folder: str | Path | None) -> dict[str, Any]:
    """Return what a release was last decoded from.

    Parameters
    ----------
    folder
        Holds source.json, if the release was decoded before.

    Returns
    -------
    dict
        state, see `source_state`; same, list of further states that were found to be the same files; and place, the
        folder that was named, or an empty text.
    """
    file = Path(folder) / "source.json" if folder else None
    return read_json(file) if file and file.is_file() else {"state": DOWNLOAD, "same": [], "place": ""}


def remember_source(name: str, folder: str | Path) -> None:
    """Write what a release is decoded from to source.json, see `last_source`."""
    place = os.environ.get(f"SKIN_TL_{name}") or ""
    last, state = last_source(folder), source_state(name, folder)
    about = {"state": state, "same": last["same"] if state == last["state"] else []}
    write_json(Path(folder) / "source.json", about | {"place": place and os.path.abspath(place)})


def remember_same(name: str, folder: str | Path) -> None:
    """Write to source.json that the release as it is offered now is the one that was decoded last."""
    last = last_source(folder)
    states = [*last["same"], source_state(name)]
    write_json(Path(folder) / "source.json", last | {"same": sorted({*states} - {last["state"]})})


def refuse_download(name: str, folder: Path) -> None:
    """Refuse to download a release for a study that was made from a folder.

    Parameters
    ----------
    name : {'HAM10000', 'ISIC2018'}
    folder
        See `last_source`.

    Raises
    ------
    SkinTLError
        If that was from a folder, and ``SKIN_TL_<name>`` is not set now.
    """
    variable, last = f"SKIN_TL_{name}", last_source(folder)
    if not os.environ.get(variable) and last["state"] != DOWNLOAD:
        raise SkinTLError(
            f"{variable} is not set, and {folder} was made from {last['place']}. Set it to that folder again, or "
            f"delete {folder / 'source.json'} to download the release, which may be other files."
        )


def download(
    folder: Path,
    server: str | None = None,
    files: Sequence[str] = HAM10000_FILES,
    name: str = "HAM10000",
    check: Callable[[Path], object] = read_metadata,
) -> Path:
    """Download files of the release from Harvard Dataverse, check them, and unpack the archives.

    What is there already is not fetched again.  The list of files, their ids and hashes come from the DOI at run
    time.  Archives are checked by MD5; the table is asked for in its original form, to which the listed hash does not
    belong, and is checked by `check` instead.

    Parameters
    ----------
    folder
        Where the files go.
    server
        Address of the Dataverse; the environment variable ``SKIN_TL_DATAVERSE`` or Harvard's where it is not given.
    files
        Names in the release; one without ending stands for whatever form the server keeps.
    name : {'HAM10000', 'ISIC2018'}
        What errors call it, and of the variable that they tell to set.
    check
        Takes the path of the table, and raises a SkinTLError if it is not as it should be.

    Returns
    -------
    pathlib.Path
        `folder`.

    Raises
    ------
    SkinTLError
        If the server cannot be reached, the release lacks a file, or a hash differs.
    """
    server = (server or os.environ.get("SKIN_TL_DATAVERSE") or DATAVERSE).rstrip("/")
    folder = Path(folder)
    by_hand = (
        f"Without access, download {name} elsewhere (https://doi.org/{DOI.removeprefix('doi:')}) and name its "
        f"folder: SKIN_TL_{name}=/path/to/{name} ./run_all.sh …"
    )
    if all(_present(folder, file) for file in files):
        return folder
    with alone(folder):
        wanted = [file for file in files if not _present(folder, file)]
        listing = _listing(server, name, by_hand) if wanted else {}
        for file in wanted:
            entry = listing.get(file) or listing.get(file.lower())
            if entry is None:
                raise SkinTLError(f"The release {DOI} at {server} lists no file {file}. {by_hand}")
            _fetch(server, entry, folder, file, check, by_hand)
    return folder


def _present(folder, name):
    return (folder / Path(name).stem).is_dir() if name.endswith(".zip") else (folder / f"{name}.csv").is_file()


def _listing(server, what, by_hand):
    """Return the release's files by name, and by lower-case name without a table's ending."""
    import requests

    address = f"{server}/api/datasets/:persistentId/?persistentId={DOI}"
    try:
        reply = requests.get(address, timeout=30)
        reply.raise_for_status()
        entries = [file["dataFile"] for file in reply.json()["data"]["latestVersion"]["files"]]
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise SkinTLError(f"{server} cannot be asked for {what} ({_short(error)}). {by_hand}") from None
    listing = {}
    for entry in entries:
        for name in {entry.get("filename"), entry.get("originalFileName")} - {None}:
            listing[name] = entry
            if not name.endswith(".zip"):
                listing.setdefault(name.rsplit(".", 1)[0], entry)
                listing.setdefault(name.rsplit(".", 1)[0].lower(), entry)
    return listing


def _short(error):
    """Return in few words what was wrong; a library's account of a failed connection is a paragraph."""
    import requests

    known = {
        requests.exceptions.SSLError: "its certificate is not trusted",
        requests.exceptions.ProxyError: "the proxy does not let it through",
        requests.Timeout: "no answer in time",
        requests.ConnectionError: "no connection",
    }
    for error_type, words in known.items():
        if isinstance(error, error_type):
            return words
    return " ".join(str(error).split())[:200] or type(error).__name__


def _fetch(server, entry, folder, name, check, by_hand):
    """Fetch one file and put it (unpacked, if an archive) into `folder`, whole or not at all."""
    import pooch
    import requests

    archive = name.endswith(".zip")
    downloads = folder / "archives"
    with bar(total=entry.get("filesize", 0), what=f"downloading {name}", unit="B") as shown:
        try:
            file = pooch.retrieve(
                f"{server}/api/access/datafile/{entry['id']}{'' if archive else '?format=original'}",
                known_hash=f"md5:{entry['md5']}" if archive else None,
                fname=name if archive else f"{name}.csv",
                path=downloads,
                downloader=pooch.HTTPDownloader(progressbar=shown, timeout=60),
            )
        except requests.RequestException as error:
            raise SkinTLError(f"Downloading {name} from {server} failed ({_short(error)}). {by_hand}") from None
        except ValueError as error:
            if "hash" not in str(error):
                raise
            raise SkinTLError(
                f"{name} from {server} is not the file that was published (its MD5 differs): the download was damaged, "
                f"or the file was changed. It was not kept. Start again. {by_hand}"
            ) from None
    if archive:
        with write_atomically(folder / Path(name).stem) as part:
            shutil.unpack_archive(file, part)
    else:
        check(file)
        os.replace(file, folder / f"{name}.csv")
    Path(file).unlink(missing_ok=True)
