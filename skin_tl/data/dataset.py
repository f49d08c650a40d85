"""The data set: HAM10000 from a folder or downloaded, or the synthetic one, checked before anything is computed.

Takes a study (and the environment variable ``SKIN_TL_HAM10000``); gives the checked metadata table and the path of
every image.  The rest of the package never asks where they came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from skin_tl.data.image_files import images_of
from skin_tl.data.metadata import find_metadata, read_metadata
from skin_tl.data.releases import draw_synthetic, find_release
from skin_tl.files import fingerprint

if TYPE_CHECKING:
    from skin_tl.study import Study


@dataclass(frozen=True)
class Dataset:
    """A checked data set.

    Attributes
    ----------
    metadata
        One row per image, sorted by image id, with the columns `METADATA_COLUMNS`; `age` in years or missing.
    files
        Path of the image by image id, for exactly the ids of the table.
    source
        Where it came from, for people.
    """

    metadata: pd.DataFrame
    files: dict
    source: str
    synthetic: bool

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the table's content, whatever its row order was."""
        return fingerprint(self.metadata.to_csv(index=False))


def open_dataset(study: Study) -> Dataset:
    """Find (or draw, or download) and check the data set that a study names.

    Raises
    ------
    SkinTLError
        If it cannot be had, or its table or images are not what they should be.
    """
    if study.synthetic:
        folder, source = draw_synthetic(), "drawn by skin_tl.data.synthetic: no photographs"
    else:
        folder, source = find_release("HAM10000")
    return read_folder(folder, source, study.synthetic)


def read_folder(folder: str | Path, source: str = "a folder", synthetic: bool = False) -> Dataset:
    """Read a data set from a folder in the layout of Dataverse, of Kaggle, or flat.

    Parameters
    ----------
    folder
        Holds the metadata table (``HAM10000_metadata`` with .csv, .tab, .txt or no ending, comma- or tab-separated)
        and the images in any sub-folder, whatever the case of the names.

    Raises
    ------
    SkinTLError
    """
    folder = Path(folder)
    table = find_metadata(folder)
    metadata = read_metadata(table)
    return Dataset(metadata, images_of(metadata, folder, table), source, synthetic)
