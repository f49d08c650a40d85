"""Preparation: the files of ``dataset/`` and ``external/`` below a study's runs, written and read back.

Takes a study and its folder ``runs/<study>``; gives checked metadata, decoded images and splits.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from skin_tl.data.dataset import open_dataset
from skin_tl.data.duplicates import RATIO, descriptors, near_duplicates, nearest_of_other_lesions
from skin_tl.data.external import open_isic2018, refuse_known
from skin_tl.data.images import ImageSet, decode, file_sizes, picture_hashes
from skin_tl.data.metadata import merge_lesions, shared_pictures
from skin_tl.data.releases import PARTS, refuse_download, remember_source
from skin_tl.data.splits import draw_experiments, draw_splits
from skin_tl.errors import SkinTLError
from skin_tl.files import read_json, write_csv, write_json
from skin_tl.progress import say
from skin_tl.schema import DUPLICATE_COLUMNS
from skin_tl.step_code import step_code
from skin_tl.study import load_study

if TYPE_CHECKING:
    from skin_tl.data.dataset import Dataset
    from skin_tl.study import Study


def open_part(study: Study, part: str, folder: Path) -> Dataset:
    """Open what a part of a study's runs is made from; nothing is downloaded for what was made from a folder.

    Parameters
    ----------
    part : {'dataset', 'external'}
    folder
        The study's folder below ``runs/``.

    Raises
    ------
    SkinTLError
        If it cannot be had, or is not what it should be.
    """
    for name in study.releases:
        if PARTS[name] == part:
            refuse_download(name, folder / part)
    return open_isic2018() if part == "external" else open_dataset(study)


def prepare_images(study: Study, folder: Path) -> tuple[pd.DataFrame, ImageSet]:
    """Open the data set, decode its images, group lesions that are one, and write the tables of dataset/.

    Lesions that share a picture are one lesion from here on (see `skin_tl.data.metadata.merge_lesions`), and with the
    key `group_near_duplicates` those of one diagnosis that have near-duplicate images too (see
    `skin_tl.data.duplicates`). metadata.csv has the lesion ids that result; near_duplicates.csv lists what was found.

    Returns
    -------
    metadata
        As written.
    """
    data = open_part(study, "dataset", folder)
    images = decode(data.files, study.image_size)
    links, contradictory = shared_pictures(data.metadata, picture_hashes(images))
    metadata, merged = merge_lesions(data.metadata, links)
    pairs = near_duplicates(images.pixels, metadata.set_index("image_id").loc[images.ids].reset_index())
    pairs["grouped"] = (pairs["dx"] == pairs["nearest_dx"]) & study.group_near_duplicates
    lesions = pairs.loc[pairs["grouped"], ["lesion_id", "nearest_lesion_id"]]
    metadata, _ = merge_lesions(metadata, list(lesions.itertuples(index=False)))
    write_csv(folder / "dataset" / "near_duplicates.csv", pairs)
    if merged:
        say(
            f"  note: {len(merged)} lesions share a picture with another one, and count as one lesion with it, such as "
            f"{next(iter(merged))}. {folder / 'dataset' / 'images.json'} lists them."
        )
    if contradictory:
        say(
            f"  WARNING: {len(contradictory)} pictures stand in the table with several diagnoses, such as "
            f"{' and '.join(contradictory[0][:2])}. Correct their rows: a score on them tells nothing."
        )
    found = {
        "merged_lesions": merged,
        "contradictory_images": contradictory,
        "near_duplicates": {"n_pairs": len(pairs), "n_grouped": len(lesions)},
    }
    write_images(data, metadata, images, study.dataset, folder / "dataset", **found)
    return metadata, images


def write_images(data: Dataset, metadata: pd.DataFrame, images: ImageSet, name: str, folder: Path, **more: Any) -> None:
    """Write metadata.csv, and images.json, which says what was decoded from where and how large the files are.

    Parameters
    ----------
    metadata
        Its metadata, with the lesion ids to use.
    name
        Of the data set, as a study calls it.
    folder
        Where the two files go.
    **more
        Further entries of images.json.
    """
    write_csv(folder / "metadata.csv", metadata)
    about = {
        "key": images.key,
        "folder": os.path.relpath(images.folder),
        "n_images": len(data.files),
        "image_size": images.size,
        "dataset": name,
        "synthetic": data.synthetic,
        "fingerprint": data.fingerprint,
        "source": data.source,
        "file_sizes": file_sizes(data.files.values()),
        "code": step_of(folder.name),
    }
    write_json(folder / "images.json", about | more)
    if not data.synthetic:
        remember_source(name.upper(), folder)


def step_of(part: str) -> str:
    """Return the hash of the code that decodes a part of a study's runs, ``dataset`` or ``external``."""
    return step_code("images" if part == "dataset" else "external_images")


def prepare_splits(study: Study, metadata: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw the study's splits and those of its experiments; write dataset/splits.csv and dataset/experiments.csv.

    Returns
    -------
    splits, experiments
        From `skin_tl.data.splits.draw_splits` and `skin_tl.data.splits.draw_experiments`.
    """
    splits = draw_splits(metadata, study.split_policies, study.seeds)
    experiments = draw_experiments(study, metadata)
    write_csv(folder / "dataset" / "splits.csv", splits)
    write_csv(folder / "dataset" / "experiments.csv", experiments)
    return splits, experiments


def read_metadata_table(folder: Path, part: str = "dataset") -> pd.DataFrame:
    """Read dataset/metadata.csv (or external/metadata.csv) back as `write_images` wrote it."""
    return _read_csv(folder / part / "metadata.csv", dtype={"age": float})


def read_splits(folder: Path) -> pd.DataFrame:
    """Read dataset/splits.csv back as `prepare_splits` wrote it."""
    return _read_csv(folder / "dataset" / "splits.csv")


def read_experiments(folder: Path) -> pd.DataFrame:
    """Read dataset/experiments.csv back as `prepare_splits` wrote it."""
    return _read_csv(folder / "dataset" / "experiments.csv")


def read_images(folder: Path, part: str = "dataset") -> ImageSet:
    """Return the decoded images that dataset/images.json (or external/images.json) names.

    Where the cache no longer holds them, they are decoded again.

    Raises
    ------
    SkinTLError
        If they have to be decoded again, and the data set cannot be had or is another by now.
    """
    about = read_json(folder / part / "images.json")
    images = ImageSet(about["key"], about["image_size"])
    if not images.folder.is_dir():
        again = decode(open_part(load_study(folder / "study.json"), part, folder).files, images.size)
        if again != images:
            raise SkinTLError(
                f"{images.folder} is gone (was the cache deleted?), and the data set is not the one that "
                f"{folder / part / 'images.json'} names. Bring that one back, or delete this file and start again."
            )
    return images


def _read_csv(path, dtype=None):
    text = {name: str for name in ("image_id", "lesion_id", "dx", "dx_type", "sex", "localization", "subset")}
    try:
        return pd.read_csv(path, dtype=text | (dtype or {}), keep_default_na=False, na_values={"age": [""]})
    except FileNotFoundError:
        raise SkinTLError(f"{path} is missing. It is written by `./run_all.sh`: run that first.") from None


# --- The steps --------------------------------------------------------------------------------------------------------


def prepare_external(study: Study, folder: Path) -> tuple[pd.DataFrame, ImageSet]:
    """Open the external test set, decode its images and write external/metadata.csv and external/images.json.

    Parameters
    ----------
    folder
        The study's folder below ``runs/``, with its data set prepared.

    Raises
    ------
    SkinTLError
        If it cannot be had, is not as it should be, or holds images of the data set.
    """
    data = open_part(study, "external", folder)
    refuse_known(data.metadata["image_id"], read_metadata_table(folder)["image_id"])
    images = decode(data.files, study.image_size)
    write_images(data, data.metadata, images, str(study.external), folder / "external")
    return data.metadata, images


def find_duplicates(study: Study, folder: Path) -> pd.DataFrame:
    """List external images that are near-duplicates of one of the data set in external/duplicates.csv, and say so.

    Patient data are not compared: the challenge's labels have none.

    Parameters
    ----------
    folder
        The study's folder below ``runs/``.

    Returns
    -------
    pandas.DataFrame
        Columns `DUPLICATE_COLUMNS`, sorted by image_id.
    """
    images, known = read_images(folder, "external"), read_images(folder)
    lesions = read_metadata_table(folder).set_index("image_id")["lesion_id"].loc[known.ids]
    values, reference = descriptors(images.pixels), descriptors(known.pixels)
    rows, ratio = nearest_of_other_lesions(values, reference, pd.factorize(lesions)[0])
    table = {"image_id": images.ids, "nearest_image_id": np.array(known.ids)[rows], "ratio": ratio.round(4)}
    table = pd.DataFrame(table).loc[ratio <= RATIO, DUPLICATE_COLUMNS]
    write_csv(folder / "external" / "duplicates.csv", table)
    if len(table):
        say(
            f"  note: {len(table)} external images look like an image of the data set. They are kept, and listed in "
            f"runs/{study.name}/external/duplicates.csv."
        )
    return table
