"""Metadata: the table of a release, read from several layouts and encodings and checked.

Takes a file; gives a table with the columns `skin_tl.schema.METADATA_COLUMNS`, and groups of lesions that are one.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from skin_tl.data.image_files import files_below, packed_files
from skin_tl.errors import SkinTLError
from skin_tl.files import is_formula
from skin_tl.schema import CLASSES, DX_TYPES, METADATA_COLUMNS

if TYPE_CHECKING:
    import pandera.pandas as pa

MISSING = ("", "na", "n/a", "nan", "<na>", "null", "none", "unknown")
"""What stands for a missing value in lower case, besides an empty cell."""
DOI = "doi:10.7910/DVN/DBW86T"
RESTORE = f"Restore the table from the release, {DOI}."
DX_TYPE_SPELLINGS = {
    "histopathology": "histo",
    "follow-up": "follow_up",
    "followup": "follow_up",
    "follow up": "follow_up",
}
"""Other spellings of `DX_TYPES` seen in copies of the table, and the release's own."""


def find_metadata(folder: str | Path, name: str = "HAM10000_metadata") -> Path:
    """Return the path of the metadata table below a folder.

    Parameters
    ----------
    name
        Of the table, without ending; its case does not matter.

    Raises
    ------
    SkinTLError
        If there is none, or several of different content.
    """
    pattern = re.compile(rf"{name}(\.(csv|tab|tsv|txt))?", re.IGNORECASE)
    tables = [path for path in map(Path, files_below(folder)) if pattern.fullmatch(path.name) and path.is_file()]
    if not tables:
        raise SkinTLError(
            f"{folder} holds no metadata table. Add the file {name}.csv of the release, {DOI} (also without "
            f"ending, or .tab, as Harvard Dataverse serves it).{packed_files(folder)}"
        )
    if len({path.read_bytes() for path in tables}) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in tables)
        raise SkinTLError(f"{folder} holds several metadata tables that differ: {names}. Keep one.")
    return tables[0]


def read_metadata(path: str | Path) -> pd.DataFrame:
    """Read and check a metadata table.

    Returns
    -------
    pandas.DataFrame
        Sorted by `image_id`, columns `METADATA_COLUMNS`, an age of 0 kept as it is given.

    Raises
    ------
    SkinTLError
        If it is empty, lacks a column, or a value is not allowed; the message names rows.
    """
    return check_metadata(read_table(path), path)


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table of separated values (comma, tab, semicolon or bar) as text.

    Every row must have as many fields as the header, but for a separator at the end of all of them.  Decimal commas of
    a table with semicolons become points.

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


def check_metadata(table: pd.DataFrame, path: str | Path, dx_types: Sequence[str] = DX_TYPES) -> pd.DataFrame:
    """Check a metadata table as `read_table` gave it, and give its values their types.

    Parameters
    ----------
    table
        Of str; further columns are left out.
    path
        What errors call the table.
    dx_types
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

    missing = [name for name in METADATA_COLUMNS if name not in table]
    if missing:
        raise SkinTLError(
            f"{path}: no column {', '.join(missing)}. Expected {', '.join(METADATA_COLUMNS)}; it has "
            f"{', '.join(table)[:200]}. {RESTORE}"
        )
    table = table[list(METADATA_COLUMNS)].copy()
    for name in ("dx", "dx_type", "sex", "localization"):
        table[name] = table[name].str.lower()
    table["dx_type"] = table["dx_type"].replace(DX_TYPE_SPELLINGS)
    table[["sex", "localization"]] = table[["sex", "localization"]].replace(list(MISSING), "unknown")
    ages = table["age"].where(~table["age"].str.lower().isin(MISSING))
    table["age"] = pd.to_numeric(ages, errors="coerce").astype(float)
    bad_ages = table.index[ages.notna() & table["age"].isna()]
    if len(bad_ages):
        raise SkinTLError(
            f"{path}, line {bad_ages[0]}: age {ages[bad_ages[0]]!r} is not a number of years. Correct it."
        )
    try:
        _table_schema(dx_types).validate(table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        raise SkinTLError(_explain(path, errors.failure_cases, dx_types)) from None
    several = table.groupby("lesion_id")["dx"].nunique()
    if (several > 1).any():
        lesion = several.index[several > 1][0]
        raise SkinTLError(
            f"{path}: lesion {lesion} has images with different diagnoses. A lesion has one `dx`: correct its rows."
        )
    return table.sort_values("image_id", ignore_index=True)


def _table_schema(dx_types: Sequence[str]) -> pa.DataFrameSchema:
    """Return what each column of a metadata table may hold."""
    import pandera.pandas as pa

    plain = pa.Check(lambda cell: not is_formula(cell), element_wise=True)
    return pa.DataFrameSchema(
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


def shared_pictures(
    metadata: pd.DataFrame, hashes: dict[str, str]
) -> tuple[list[tuple[str, str]], list[tuple[str, ...]]]:
    """Find lesions that share a picture, pixel by pixel.

    Lesions of different diagnoses are not linked: one of the two rows is wrong, and nothing here tells which.

    Parameters
    ----------
    metadata
        Columns image_id, lesion_id, dx; row order does not matter.
    hashes
        Of the pictures by image id, see `skin_tl.data.images.picture_hashes`.

    Returns
    -------
    links
        Pairs of lesion ids, for `merge_lesions`.
    contradictory
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


def merge_lesions(metadata: pd.DataFrame, links: Sequence[tuple[str, str]]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Make one lesion of linked lesions, so that no split separates them.

    Parameters
    ----------
    metadata
        Column lesion_id; row order does not matter.
    links
        Pairs of lesion ids; chains of them are one lesion.

    Returns
    -------
    metadata
        With the first lesion id, in alphabetical order, of each group.
    merged
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


def _text(path):
    """Return the text of a table with Unix line ends, from UTF-8, or from UTF-16 where a mark at its start says so."""
    content = path.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SkinTLError(f"{path}, line {line}: not a text table in UTF-8. Save it as UTF-8. {RESTORE}") from None
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


def class_table(metadata: pd.DataFrame) -> pd.DataFrame:
    """Count images and lesions per diagnosis.

    Returns
    -------
    pandas.DataFrame
        dx (the seven, then ``all``), n_images, n_lesions, share_images (0…1), images_per_lesion, n_lesions_seen_again
        (lesions with more than one image).
    """
    rows = []
    for dx in (*CLASSES, "all"):
        part = metadata if dx == "all" else metadata[metadata["dx"] == dx]
        per_lesion = part["lesion_id"].value_counts()
        rows.append(
            {
                "dx": dx,
                "n_images": len(part),
                "n_lesions": len(per_lesion),
                "share_images": len(part) / len(metadata),
                "images_per_lesion": len(part) / max(len(per_lesion), 1),
                "n_lesions_seen_again": int((per_lesion > 1).sum()),
            }
        )
    return pd.DataFrame(rows)
