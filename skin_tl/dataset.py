"""The data set: HAM10000 from a folder or downloaded, or the synthetic one, checked before anything is computed.

Takes a study (and the environment variable ``SKIN_TL_HAM10000``); gives the checked metadata table and the path of
every image.  The rest of the package never asks where they came from.
"""

import codecs
import csv
import io
import os
import re
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import sparse

from skin_tl.errors import SkinTLError
from skin_tl.files import alone, fingerprint, is_formula, read_json, write_atomically, write_json
from skin_tl.images import cache_folder
from skin_tl.progress import bar, say
from skin_tl.study import CLASSES

COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
TABLES = {"HAM10000": "HAM10000_metadata", "ISIC2018": "ISIC2018_Task3_Test_GroundTruth"}
"""Name of the metadata table, without ending, by release."""
PARTS = {"HAM10000": "dataset", "ISIC2018": "external"}
"""Folder of a study's runs that holds what was decoded, by release."""
DOWNLOAD = "download"
"""State of a release that is not in a folder of the user's, see `source_state`."""
SYNTHETIC_SEED = 0
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
PACKED_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
SYSTEM_FOLDERS = (".", "@", "#", "$", "~", "__")
"""How names of folders begin that are hidden or the system's (.Trash-1000, @eaDir, __MACOSX): nothing is read there."""
MISSING = ("", "na", "n/a", "nan", "<na>", "null", "none", "unknown")
"""What stands for a missing value in lower case, besides an empty cell."""
DATAVERSE = "https://dataverse.harvard.edu"
DOI = "doi:10.7910/DVN/DBW86T"
HAM10000_FILES = ("HAM10000_metadata", "HAM10000_images_part_1.zip", "HAM10000_images_part_2.zip")
RESTORE = f"Restore the table from the release, {DOI}."
DX_TYPES = ("histo", "follow_up", "consensus", "confocal")
DX_TYPE_SPELLINGS = {
    "histopathology": "histo",
    "follow-up": "follow_up",
    "followup": "follow_up",
    "follow up": "follow_up",
}
"""Other spellings of `DX_TYPES` seen in copies of the table, and the release's own."""


@dataclass(frozen=True)
class Dataset:
    """A checked data set.

    Attributes
    ----------
    metadata : pandas.DataFrame
        One row per image, sorted by image id, with the columns `COLUMNS`; `age` in years or missing.
    files : dict
        Path of the image by image id, for exactly the ids of the table.
    source : str
        Where it came from, for people.
    synthetic : bool
    """

    metadata: pd.DataFrame
    files: dict
    source: str
    synthetic: bool

    @property
    def fingerprint(self):
        """Fingerprint of the table's content, whatever its row order was."""
        return fingerprint(self.metadata.to_csv(index=False))


def open_dataset(study):
    """Find (or draw, or download) and check the data set that a study names.

    Parameters
    ----------
    study : skin_tl.study.Study

    Returns
    -------
    Dataset

    Raises
    ------
    SkinTLError
        If it cannot be had, or its table or images are not what they should be.
    """
    if study.synthetic:
        folder, source = _drawn(), "drawn by skin_tl.synthetic: no photographs"
    else:
        folder, source = find_release("HAM10000")
    return read_folder(folder, source, study.synthetic)


def find_release(name, **how):
    """Return the folder that ``SKIN_TL_<name>`` names, or one that the release is downloaded to.

    Parameters
    ----------
    name : {'HAM10000', 'ISIC2018'}
    **how
        Arguments of `download`.

    Returns
    -------
    folder : pathlib.Path
    source : str
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


def _drawn():
    from skin_tl import synthetic

    drawing = fingerprint(Path(synthetic.__file__).read_bytes())
    folder = cache_folder() / "synthetic" / drawing
    if not folder.is_dir():
        with alone(folder):
            if not folder.is_dir():
                with bar(total=synthetic.count_images(seed=SYNTHETIC_SEED), what="drawing images", unit="img") as shown:
                    synthetic.draw_dataset(folder, seed=SYNTHETIC_SEED, on_image=shown.update)
    return folder


def read_folder(folder, source="a folder", synthetic=False):
    """Read a data set from a folder in the layout of Dataverse, of Kaggle, or flat.

    Parameters
    ----------
    folder : str or pathlib.Path
        Holds the metadata table (``HAM10000_metadata`` with .csv, .tab, .txt or no ending, comma- or tab-separated)
        and the images in any sub-folder, whatever the case of the names.
    source : str
    synthetic : bool

    Returns
    -------
    Dataset

    Raises
    ------
    SkinTLError
    """
    folder = Path(folder)
    table = find_metadata(folder)
    metadata = read_metadata(table)
    return Dataset(metadata, images_of(metadata, folder, table), source, synthetic)


def images_of(metadata, folder, table):
    """Return the path of each image of a table, and say how many image files are not of it.

    Parameters
    ----------
    metadata : pandas.DataFrame
        Its column image_id is used.
    folder : pathlib.Path
        Holds the images, in any sub-folder.
    table : pathlib.Path
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


def source_state(name, folder=None):
    """Return a fingerprint of what is in the folder of a release, as far as it can be seen without opening an image.

    The workflow checks and decodes again where it differs from last time.

    Parameters
    ----------
    name : {'HAM10000', 'ISIC2018'}
        The variable ``SKIN_TL_<name>`` names the folder.
    folder : str or pathlib.Path, optional
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


def check_source(name):
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


def last_source(folder):
    """Return what a release was last decoded from.

    Parameters
    ----------
    folder : str or pathlib.Path, optional
        Holds source.json, if the release was decoded before.

    Returns
    -------
    dict
        state, see `source_state`; same, list of further states that were found to be the same files; and place, the
        folder that was named, or an empty text.
    """
    file = Path(folder) / "source.json" if folder else None
    return read_json(file) if file and file.is_file() else {"state": DOWNLOAD, "same": [], "place": ""}


def remember_source(name, folder):
    """Write what a release is decoded from to source.json, see `last_source`."""
    place = os.environ.get(f"SKIN_TL_{name}") or ""
    last, state = last_source(folder), source_state(name, folder)
    about = {"state": state, "same": last["same"] if state == last["state"] else []}
    write_json(Path(folder) / "source.json", about | {"place": place and os.path.abspath(place)})


def remember_same(name, folder):
    """Write to source.json that the release as it is offered now is the one that was decoded last."""
    last = last_source(folder)
    states = [*last["same"], source_state(name)]
    write_json(Path(folder) / "source.json", last | {"same": sorted({*states} - {last["state"]})})


def refuse_download(name, folder):
    """Refuse to download a release for a study that was made from a folder.

    Parameters
    ----------
    name : {'HAM10000', 'ISIC2018'}
    folder : pathlib.Path
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


def find_metadata(folder, name="HAM10000_metadata"):
    """Return the path of the metadata table below a folder.

    Parameters
    ----------
    folder : str or pathlib.Path
    name : str
        Of the table, without ending; its case does not matter.

    Raises
    ------
    SkinTLError
        If there is none, or several of different content.
    """
    pattern = re.compile(rf"{name}(\.(csv|tab|tsv|txt))?", re.IGNORECASE)
    tables = [path for path in map(Path, _files(folder)) if pattern.fullmatch(path.name) and path.is_file()]
    if not tables:
        raise SkinTLError(
            f"{folder} holds no metadata table. Expected a file {name}.csv (also without ending, or .tab, as Harvard "
            f"Dataverse serves it); it belongs to the release, {DOI}.{_packed(folder)}"
        )
    if len({path.read_bytes() for path in tables}) > 1 and len({_content(path) for path in tables}) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in tables)
        raise SkinTLError(f"{folder} holds several metadata tables that differ: {names}. Keep one.")
    return tables[0]


def read_metadata(path):
    """Read and check a metadata table.

    Parameters
    ----------
    path : str or pathlib.Path

    Returns
    -------
    pandas.DataFrame
        Sorted by `image_id`, columns `COLUMNS`, an age of 0 kept as it is given.

    Raises
    ------
    SkinTLError
        If it is empty, lacks a column, or a value is not allowed; the message names rows.
    """
    return check_metadata(read_table(path), path)


def _content(path):
    """Return what a table says, whatever its form: one text for a .csv and a .tab of the same rows."""
    table = read_table(path)
    table = table[list(COLUMNS) if set(COLUMNS) <= set(table) else sorted(table)]
    table = table.map(lambda cell: "" if cell.lower() in MISSING else cell)
    for name in table:
        if name not in ("lesion_id", "image_id", "image"):
            numbers = pd.to_numeric(table[name], errors="coerce")
            table[name] = table[name].where(numbers.isna(), numbers.map(repr))
    return table.sort_values(list(table)).to_csv(index=False)


def read_table(path):
    """Read a table of separated values (comma, tab, semicolon or bar) as text.

    Every row must have as many fields as the header, but for a separator at the end of all of them.  Decimal commas of
    a table with semicolons become points.

    Parameters
    ----------
    path : str or pathlib.Path

    Returns
    -------
    pandas.DataFrame
        Of str, stripped, nothing missing; names of columns in lower case; its index is the line in the file.

    Raises
    ------
    SkinTLError
        If it is no table, or has no rows.
    """
    path = Path(path)
    text = _text(path)
    said = re.match(r'\s*"?sep=(.)"?[^\S\n]*\n', text, re.IGNORECASE)  # as spreadsheets write it
    header = text[said.end() if said else 0 :].lstrip("\n").split("\n", 1)[0]
    separator = said[1] if said else max(",\t;|", key=header.count)
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True, skipinitialspace=True)
    try:
        rows = [(reader.line_num, [field.strip() for field in fields]) for fields in reader]
    except csv.Error as error:
        raise SkinTLError(
            f"{path}, line {reader.line_num}: not a table that can be read ({error}). {RESTORE}"
        ) from None
    rows = [(line, fields) for line, fields in rows if any(fields)][1 if said else 0 :]
    if len(rows) < 2:
        raise SkinTLError(f"{path} has a header but no rows. Expected one row per image. {RESTORE}")
    names = [name.lower() for name in rows.pop(0)[1]]
    if all(len(fields) == len(names) + 1 and not fields[-1] for _, fields in rows):
        names.append("")
    odd = [(line, len(fields)) for line, fields in rows if len(fields) != len(names)]
    if odd:
        raise SkinTLError(
            f"{path}, line {odd[0][0]}: {odd[0][1]} fields where the header has {len(names)} ({_rows(len(odd))} in "
            f"all). A separator is missing or too many, or the file was cut off. Correct the row. {RESTORE}"
        )
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise SkinTLError(f"{path} has several columns {twice[0]!r}, whatever the case of their names. Keep one.")
    lines = [line for line, _ in rows]
    table = pd.DataFrame([fields for _, fields in rows], index=lines, columns=names, dtype=str)
    table = table.loc[:, [bool(name) for name in names]]
    return table.replace(r"^(-?\d+),(\d+)$", r"\1.\2", regex=True) if separator == ";" else table


def check_metadata(table, path, dx_types=DX_TYPES):
    """Check a metadata table as `read_table` gave it, and give its values their types.

    Parameters
    ----------
    table : pandas.DataFrame
        Of str; further columns are left out.
    path : str or pathlib.Path
        What errors call the table.
    dx_types : sequence of str
        Values that `dx_type` may have.

    Returns
    -------
    pandas.DataFrame
        As from `read_metadata`.

    Raises
    ------
    SkinTLError
        If it lacks a column, or a value is not allowed; the message names rows.
    """
    import pandera.pandas as pa

    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise SkinTLError(
            f"{path}: no column {', '.join(missing)}. Expected the columns {', '.join(COLUMNS)}.{origin(table)} "
            f"{RESTORE}"
        )
    table = table[list(COLUMNS)].copy()
    for name in ("dx", "dx_type", "sex", "localization"):
        table[name] = table[name].str.lower()
    table["dx_type"] = table["dx_type"].replace(DX_TYPE_SPELLINGS)
    table[["sex", "localization"]] = table[["sex", "localization"]].replace(list(MISSING), "unknown")
    ages = table["age"].where(~table["age"].str.lower().isin(MISSING))
    table["age"] = pd.to_numeric(ages, errors="coerce").astype(float)
    bad_ages = table.index[ages.notna() & table["age"].isna()]
    if len(bad_ages):
        raise SkinTLError(f"{path}, line {bad_ages[0]}: age {ages[bad_ages[0]]!r} is not a number of years.")
    plain = pa.Check(lambda cell: not is_formula(cell), element_wise=True)
    schema = pa.DataFrameSchema(
        {
            "lesion_id": pa.Column(str, [pa.Check.str_length(min_value=1), plain]),
            "image_id": pa.Column(str, [pa.Check.str_matches(r"^[\w.-]+$"), plain], unique=True),
            "dx": pa.Column(str, pa.Check.isin(CLASSES)),
            "dx_type": pa.Column(str, pa.Check.isin(dx_types)),
            "age": pa.Column(float, pa.Check.in_range(0, 120), nullable=True),
            "sex": pa.Column(str, pa.Check.isin(["female", "male", "unknown"])),
            "localization": pa.Column(str, plain),
        }
    )
    try:
        schema.validate(table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        raise SkinTLError(_explain(path, errors.failure_cases, dx_types)) from None
    several = table.groupby("lesion_id")["dx"].nunique()
    if (several > 1).any():
        lesion = several.index[several > 1][0]
        raise SkinTLError(
            f"{path}: lesion {lesion} has images with different diagnoses. A lesion has one `dx`: correct its rows."
        )
    return table.sort_values("image_id", ignore_index=True)


def shared_pictures(metadata, hashes):
    """Find lesions that share a picture, pixel by pixel.

    Lesions of different diagnoses are not linked: one of the two rows is wrong, and nothing here tells which.

    Parameters
    ----------
    metadata : pandas.DataFrame
        Columns image_id, lesion_id, dx; row order does not matter.
    hashes : dict
        Of the pictures by image id, see `skin_tl.images.picture_hashes`.

    Returns
    -------
    links : list of tuple
        Pairs of lesion ids, for `merge_lesions`.
    contradictory : list of tuple
        Image ids of one picture with several diagnoses.
    """
    pictures = metadata["image_id"].map(hashes)
    links, contradictory = [], []
    for _, part in metadata[pictures.duplicated(keep=False)].groupby(pictures):
        if part["dx"].nunique() > 1:
            contradictory.append(tuple(sorted(part["image_id"])))
        else:
            links += [(part["lesion_id"].iloc[0], other) for other in part["lesion_id"]]
    return links, contradictory


def merge_lesions(metadata, links):
    """Make one lesion of linked lesions, so that no split separates them.

    Parameters
    ----------
    metadata : pandas.DataFrame
        Column lesion_id; row order does not matter.
    links : list of tuple
        Pairs of lesion ids; chains of them are one lesion.

    Returns
    -------
    metadata : pandas.DataFrame
        With the first lesion id, in alphabetical order, of each group.
    merged : dict
        The new lesion id by the old one, of lesions that have another now.
    """
    lesions = sorted(metadata["lesion_id"].unique())
    code = {name: place for place, name in enumerate(lesions)}
    rows, columns = np.array([[code[one], code[other]] for one, other in links], int).reshape(-1, 2).T
    graph = sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(lesions), len(lesions)))
    _, group = sparse.csgraph.connected_components(graph, directed=False)
    first = pd.Series(lesions).groupby(group).transform("first")
    merged = {old: new for old, new in zip(lesions, first, strict=True) if old != new}
    return metadata.assign(lesion_id=metadata["lesion_id"].replace(merged)), merged


def origin(table):
    """Say where a table comes from that stands in the place of HAM10000's, as far as its columns tell, else nothing."""
    if {"mel", "nv"} <= set(table):
        return " This is a table of labels of an ISIC challenge, with one column for each diagnosis."
    if {"isic_id", "image_name", "age_approx", "anatom_site_general"} & set(table):
        return " This is a table of the ISIC archive, which has other columns."
    return f" It has the columns {', '.join(table)[:200]}."


def _text(path):
    """Return the text of a table with Unix line ends, from UTF-8, or from UTF-16 where a mark at its start says so."""
    content = path.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        old = (
            ""
            if wide or b"\0" in content
            else " It may be in Windows-1252, as older programs write it: save it as UTF-8."
        )
        raise SkinTLError(f"{path}, line {line}: not a text table in UTF-8.{old} {RESTORE}") from None
    if "\0" in text:
        raise SkinTLError(f"{path} is not a text table in UTF-8. Expected comma- or tab-separated values. {RESTORE}")
    if not text.strip():
        raise SkinTLError(f"{path} is empty. Expected a table with a header and one row per image. {RESTORE}")
    return io.StringIO(text, newline=None).read()


def _explain(path, cases, dx_types):
    """Turn pandera's failure cases into one message: per column what is wrong, how often, and where first."""
    allowed = {
        "lesion_id": "a lesion's id, which a spreadsheet does not execute",
        "image_id": "an id of letters, digits, '.', '_' or '-', once per table",
        "dx": f"one of {', '.join(CLASSES)}",
        "dx_type": f"one of {', '.join(dx_types)}",
        "age": "0 to 120 years, or empty",
        "sex": "female, male or unknown",
        "localization": "a body site, which a spreadsheet does not execute",
    }
    lines = []
    for column, group in cases.groupby("column", sort=False):
        first = group.iloc[0]
        repeated = column == "image_id" and "unique" in str(first["check"])
        what = "a repeated value" if repeated else "the value"
        where = f"line {int(first['index'])}" if pd.notna(first["index"]) else "the table"
        lines.append(
            f"column {column}, {where}: {what} {first['failure_case']!r} ({_rows(len(group))} in all); "
            f"expected {allowed.get(column, 'text')}"
        )
    return f"{path}: " + "; ".join(lines) + ". Correct these rows."


def _rows(n):
    return f"{n} row{'s' * (n != 1)}"


def _files(folder):
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


def _packed(folder):
    """Say which archives still lie packed below a folder, and to unpack them; else nothing."""
    names = [os.path.relpath(path, folder) for path in _files(folder) if path.lower().endswith(PACKED_SUFFIXES)]
    more = " …" if len(names) > 5 else ""
    return f" Archives are still packed there: {', '.join(names[:5])}{more}. Unpack them." if names else ""


def find_images(folder):
    """Return the paths of all image files below a folder by image id (their name without ending), both sorted."""
    found = {}
    for path in _files(folder):
        stem, suffix = os.path.splitext(os.path.basename(path))
        if suffix.lower() in IMAGE_SUFFIXES:
            found.setdefault(stem, []).append(path)
    return dict(sorted(found.items()))


def match_images(image_ids, found, folder):
    """Return the files that bear the id of each image of a table, whatever its case where one id alone claims them.

    Parameters
    ----------
    image_ids : iterable of str
    found : dict
        From `find_images`.
    folder : str or pathlib.Path

    Returns
    -------
    dict
        List of paths by image id, see `choose_images`.

    Raises
    ------
    SkinTLError
        If images are missing; the message counts them and names the first.
    """
    image_ids, by_lower = list(image_ids), {}
    for stem, paths in found.items():
        by_lower.setdefault(stem.lower(), []).extend(paths)
    claims = Counter(image_id.lower() for image_id in image_ids)
    files = {
        image_id: found.get(image_id, []) if claims[image_id.lower()] > 1 else by_lower.get(image_id.lower(), [])
        for image_id in image_ids
    }
    missing = [image_id for image_id, paths in files.items() if not paths]
    if missing:
        advice = _packed(folder) or (
            " Expected <image_id>.jpg in the folder or below it (hidden folders are left out): add these files, or, "
            "where they are left out on purpose, remove their rows from the metadata."
        )
        raise SkinTLError(
            f"{folder}: {len(missing)} of {len(files)} images of the table are missing: {', '.join(missing[:5])}"
            f"{' …' if len(missing) > 5 else ''}.{advice}"
        )
    return files


def choose_images(files, folder):
    """Return the one picture of each image.

    Black-and-white masks are no pictures; files of the same content are one.  Whatever else bears the same id is a
    doubt that nothing here can settle.

    Parameters
    ----------
    files : dict
        From `match_images`.
    folder : str or pathlib.Path

    Returns
    -------
    dict
        Path by image id.

    Raises
    ------
    SkinTLError
        If an image has no picture or several.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pictures = dict(zip(files, pool.map(_pictures, files.values()), strict=True))
    masked = [image_id for image_id, paths in pictures.items() if not paths]
    if masked:
        raise SkinTLError(
            f"{folder}: {len(masked)} of {len(files)} images have a black-and-white mask and no picture, among them "
            f"{files[masked[0]][0]}. Add their pictures.{_packed(folder)}"
        )
    doubtful = [paths for paths in pictures.values() if len(paths) > 1]
    if doubtful:
        raise SkinTLError(
            f"{folder}: {len(doubtful)} of {len(files)} images have several files of different content, among them "
            f"{doubtful[0][0]} and {doubtful[0][1]}. Move those that are not the pictures out of this folder."
        )
    return {image_id: paths[0] for image_id, paths in pictures.items()}


def _pictures(paths):
    distinct = []
    for path in paths:
        if not _is_mask(path) and not any(_same(path, other) for other in distinct):
            distinct.append(path)
    return distinct


def _is_mask(path):
    """Tell whether an image has two colours at most, as segmentations have and no photograph has."""
    try:
        with Image.open(path) as image:
            return image.getcolors(2) is not None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False  # which decoding tells


def _same(path, other, tail=4096):
    """Tell whether two image files are the same by size and last bytes, which all pixels shape."""
    try:
        with open(path, "rb") as one, open(other, "rb") as two:
            size = os.fstat(one.fileno()).st_size
            if size != os.fstat(two.fileno()).st_size:
                return False
            for file in (one, two):
                file.seek(max(size - tail, 0))
            return one.read() == two.read()
    except OSError:
        return False


def download(folder, server=None, files=HAM10000_FILES, name="HAM10000", check=read_metadata):
    """Download files of the release from Harvard Dataverse, check them, and unpack the archives.

    What is there already is not fetched again.  The list of files, their ids and hashes come from the DOI at run
    time.  Archives are checked by MD5; the table is asked for in its original form, to which the listed hash does not
    belong, and is checked by `check` instead.

    Parameters
    ----------
    folder : pathlib.Path
        Where the files go.
    server : str, optional
        Address of the Dataverse; the environment variable ``SKIN_TL_DATAVERSE`` or Harvard's where it is not given.
    files : sequence of str
        Names in the release; one without ending stands for whatever form the server keeps.
    name : {'HAM10000', 'ISIC2018'}
        What errors call it, and of the variable that they tell to set.
    check : callable
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
    for kind, words in known.items():
        if isinstance(error, kind):
            return words
    return " ".join(str(error).split())[:200] or type(error).__name__


def _fetch(server, entry, folder, name, check, by_hand):
    """Fetch one file and put it (unpacked, if an archive) into `folder`, whole or not at all."""
    import pooch
    import requests

    archive = name.endswith(".zip")
    downloads = folder / "archives"
    with bar(total=entry.get("filesize"), what=f"downloading {name}", unit="B") as shown:
        try:
            file = pooch.retrieve(
                f"{server}/api/access/datafile/{entry['id']}{'' if archive else '?format=original'}",
                known_hash=f"md5:{entry['md5']}" if archive else None,
                fname=name if archive else f"{name}.csv",
                path=downloads,
                downloader=pooch.HTTPDownloader(progressbar=_Bar(shown), timeout=60),
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
        unpack_images(file, folder / Path(name).stem)
    else:
        check(file)
        os.replace(file, folder / f"{name}.csv")
    Path(file).unlink(missing_ok=True)


class _Bar:
    """What pooch asks of a progress bar, moving one of ours."""

    def __init__(self, shown):
        self._shown = shown
        self.total = None

    def update(self, n_bytes):
        self._shown.update(n_bytes)

    def reset(self):
        pass

    def close(self):
        pass


def unpack_images(archive, folder):
    """Unpack the images of a zip archive into one flat folder, whole or not at all.

    Only a member's last name counts, so that no archive can write outside of `folder`.

    Raises
    ------
    SkinTLError
        If the file is no intact zip archive.
    """
    try:
        with zipfile.ZipFile(archive) as opened, write_atomically(folder) as part:
            part.mkdir()
            members = [item for item in opened.infolist() if item.filename.lower().endswith(IMAGE_SUFFIXES)]
            for item in bar(members, what=f"unpacking {Path(archive).name}", unit="img"):
                name = Path(item.filename.replace("\\", "/")).name
                if not name.startswith("."):
                    (part / name).write_bytes(opened.read(item))
    except zipfile.BadZipFile:
        raise SkinTLError(f"{archive} is not an intact zip archive. Delete it and start again.") from None
