"""The external test set: the ISIC 2018 Task 3 test images, on which nothing is selected.

Takes the folder that ``SKIN_TL_ISIC2018`` names (or downloads it, from the release of HAM10000) and a study's trained
heads; gives ``external/`` below the study's runs, and in each run ``predictions_isic2018.csv``.

Its labels are published in two forms, and both are read: a table with HAM10000's columns, and the challenge's own with
one column of 0 and 1 for each diagnosis, which tells nothing of lesions or patients.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from skin_tl.data.dataset import Dataset
from skin_tl.data.image_files import find_images, images_of
from skin_tl.data.metadata import check_metadata, find_metadata, read_table
from skin_tl.data.releases import TABLES, find_release
from skin_tl.errors import SkinTLError
from skin_tl.progress import say
from skin_tl.schema import CLASSES, DX_TYPES, METADATA_COLUMNS

LABELS = TABLES["ISIC2018"]
FILES = (LABELS, "ISIC2018_Task3_Test_Images.zip")

NOT_RELEASED = "ISIC_0035068"
"""An image that tables of the release may list although its archive lacks it; it alone may be missing.

Source: the challenge's scoring code (ImageMarkup/isic-challenge-scoring), which leaves it out of its scores."""


# --- Reading --------------------------------------------------------------------------------------------------------


def open_isic2018() -> Dataset:
    """Find (or download) and check the ISIC 2018 test set.

    Raises
    ------
    SkinTLError
        If it cannot be had, or its table or images are not what they should be.
    """
    folder, source = find_release("ISIC2018", files=FILES, check=read_labels)
    table = find_metadata(folder, LABELS)
    labels = read_labels(table)
    if NOT_RELEASED in set(labels["image_id"]) and NOT_RELEASED not in find_images(folder):
        labels = labels[labels["image_id"] != NOT_RELEASED].reset_index(drop=True)
        say(f"  note: {NOT_RELEASED} is left out: the release has its label and not its picture.")
    return Dataset(labels, images_of(labels, folder, table), source, synthetic=False)


def read_labels(path: str | Path) -> pd.DataFrame:
    """Read and check the labels in either form.

    Returns
    -------
    pandas.DataFrame
        Columns `METADATA_COLUMNS`, sorted by image_id.  What the table does not tell is ``unknown``, an age missing;
        where it does not tell lesions, each image counts as one of its own, under its own id.

    Raises
    ------
    SkinTLError
        If it is empty, has the columns of neither form, or a value is not allowed; the message names rows.
    """
    table = read_table(path)
    classes = list(CLASSES)
    if {"image", *classes} <= set(table):
        table = table.assign(image_id=table["image"], dx=_decoded(table[classes], path))
        table = table.reindex(columns=METADATA_COLUMNS, fill_value="")
        table["lesion_id"] = table["lesion_id"].where(table["lesion_id"] != "", table["image_id"])
    elif "dx" not in table:
        raise SkinTLError(
            f"{path} has the columns {', '.join(table)}. Expected those of HAM10000 ({', '.join(METADATA_COLUMNS)}) or "
            f"of the challenge (image, {', '.join(classes).upper()}). Replace the table."
        )
    return check_metadata(table.replace({"dx_type": {"": "unknown"}}), path, (*DX_TYPES, "unknown"))


def _decoded(marks, path):
    """Return the diagnosis of each row of 0 and 1, str; refuse rows that do not have one."""
    values = marks.apply(pd.to_numeric, errors="coerce")
    n_marked = (values == 1).sum(axis=1)
    for wrong, what in (
        (~values.isin([0, 1]).all(axis=1), "values other than 0 and 1"),
        (n_marked == 0, "no diagnosis"),
        (n_marked > 1, "several diagnoses"),
    ):
        rows = marks.index[wrong]
        if len(rows):
            raise SkinTLError(
                f"{path}, line {rows[0]}: {what} ({len(rows)} rows in all). Expected a 1 for one diagnosis and 0 "
                "for the others. Correct these rows."
            )
    return values.idxmax(axis=1)


# --- Images that are in the training data too -------------------------------------------------------------------------


def refuse_known(image_ids: Iterable[str], known_ids: Iterable[str]) -> None:
    """Refuse images that are in the data set that heads are trained with, by their ids, whatever the case.

    Parameters
    ----------
    image_ids, known_ids
        Of the external test set and of the data set.

    Raises
    ------
    SkinTLError
        If there are any; the message counts them and names the first.
    """
    known = {name.lower() for name in known_ids}
    shared = sorted(name for name in image_ids if name.lower() in known)
    if shared:
        raise SkinTLError(
            f"{len(shared)} images of the external test set are in the data set too: {', '.join(shared[:5])}"
            f"{' …' if len(shared) > 5 else ''}. A test on training images overstates the scores. Remove "
            "them from one of the two."
        )
