"""Robustness: what a finished network predicts for changed test images.

Takes a finished run and the decoded images; gives ``robustness.csv`` in the run's folder: predictions
for some test images as they are, corrupted (`skin_tl.data.corruptions`), and without or with parts that should not
matter (`skin_tl.data.shortcuts`).  Lesions are masked by the release's masks where these lie with the images.
`skin_tl.evaluation.robustness` makes scores of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from skin_tl.data.corruptions import CORRUPTIONS, SEVERITIES
from skin_tl.data.shortcuts import ARTEFACTS, MASKS, lesion_mask, with_artefact
from skin_tl.files import write_csv
from skin_tl.progress import bar
from skin_tl.schema import PROBABILITIES, ROBUSTNESS, ROBUSTNESS_PREDICTIONS

if TYPE_CHECKING:
    from skin_tl.study import Study

LESIONS_PER_DIAGNOSIS = 30
"""Test lesions of each diagnosis at most, drawn at random, one image of each.  With the changes below, a network then
predicts fewer images than the data set has; all test images would take it eleven times as long."""

Predict = Callable[[np.ndarray], np.ndarray]
"""From pixels, (n, size, size, 3) uint8, to probabilities, (n, 7)."""


def draw_images(tested: pd.DataFrame, most: int = LESIONS_PER_DIAGNOSIS, seed: int = 0) -> pd.DataFrame:
    """Draw one image of each of at most `most` lesions per diagnosis.

    Parameters
    ----------
    tested
        image_id, lesion_id and dx of test images; their order does not matter.

    Returns
    -------
    pandas.DataFrame
        Rows of `tested`, sorted by image_id.
    """
    shuffled = tested.sort_values("image_id").sample(frac=1, random_state=seed)
    drawn = shuffled.drop_duplicates("lesion_id").groupby("dx", sort=False).head(most)
    return drawn.sort_values("image_id", ignore_index=True)[["image_id", "lesion_id", "dx"]]


def changes() -> Iterator[tuple[str, str, int]]:
    """Yield every change: kind, name, and severity (0 where it has none)."""
    yield "none", "none", 0
    yield from (("corruption", name, severity) for name in CORRUPTIONS for severity in SEVERITIES)
    yield from (("mask", name, 0) for name in MASKS)
    yield from (("artefact", name, 0) for name in ARTEFACTS)


def changed(pixels: np.ndarray, mask: np.ndarray, image_id: str, kind: str, name: str, severity: int) -> np.ndarray:
    """Return a picture with the mask of its lesion under one of `changes`; what is drawn depends on its id alone."""
    if kind == "corruption":
        return CORRUPTIONS[name](pixels, severity)
    if kind == "mask":
        return MASKS[name](pixels, mask)
    if kind == "artefact":
        return with_artefact(pixels, name, np.random.default_rng(zlib.crc32(f"{name} {image_id}".encode())))
    return pixels


def predict_changed(
    predict: Predict, pixels: np.ndarray, images: pd.DataFrame, masks: Mapping[str, np.ndarray | None] | None = None
) -> pd.DataFrame:
    """Predict images under every change.

    Parameters
    ----------
    predict
    pixels
        (n, size, size, 3) uint8.
    images
        From `draw_images`, in the order of `pixels`.
    masks
        The release's masks by image id, (size, size) bool; for others they are found by colour.

    Returns
    -------
    pandas.DataFrame
        Columns `skin_tl.schema.ROBUSTNESS_PREDICTIONS`; `mask` says of a masked image whether its mask is the release's
        (``released``) or ``found``.
    """
    parts, every, ids = [], list(changes()), images["image_id"]
    given = [(masks or {}).get(image_id) for image_id in ids]
    found = [lesion_mask(np.asarray(one)) if mask is None else mask for one, mask in zip(pixels, given, strict=True)]
    origin = ["found" if mask is None else "released" for mask in given]
    for kind, name, severity in bar(every, total=len(every), what="changed images", unit="change"):
        pictures = [
            changed(np.asarray(one), mask, of, kind, name, severity)
            for one, mask, of in zip(pixels, found, ids, strict=True)
        ]
        table = images.join(pd.DataFrame(predict(np.stack(pictures)), columns=PROBABILITIES))
        parts.append(table.assign(kind=kind, change=name, severity=severity, mask=origin if kind == "mask" else ""))
    return pd.concat(parts, ignore_index=True)[ROBUSTNESS_PREDICTIONS]


def measure_robustness(study: Study, strategy: str, backbone: str, folder: Path) -> None:
    """Predict changed test images by the first head or network of a run; write the run's ``robustness.csv``.

    Parameters
    ----------
    folder
        The study's folder below ``runs/``; the run must be trained.

    Raises
    ------
    SkinTLError
        If the run's model, or a mask of the release, cannot be read.
    """
    from skin_tl.data.preparation import read_images, read_splits
    from skin_tl.data.releases import find_masks
    from skin_tl.data.shortcuts import read_mask
    from skin_tl.evaluation.predictions import read_predictions
    from skin_tl.explain.explanations import open_model, tested_images
    from skin_tl.models.features import BATCH
    from skin_tl.models.tuning import predict_rows

    run, images = folder / strategy / backbone, read_images(folder)
    predictions = read_predictions(run / "predictions.csv", read_splits(folder))
    drawn = draw_images(tested_images(predictions, study))
    row_of = {image_id: row for row, image_id in enumerate(images.ids)}
    pixels = images.pixels[[row_of[image_id] for image_id in drawn["image_id"]]]
    model = open_model(study, strategy, backbone, folder)
    released = {} if study.synthetic else find_masks()
    masks = {of: read_mask(released[of.lower()], images.size) for of in drawn["image_id"] if of.lower() in released}
    views = study.n_views(strategy)

    def predict(pictures: np.ndarray) -> np.ndarray:
        return predict_rows(model, pictures, np.arange(len(pictures)), BATCH, views)

    write_csv(run / ROBUSTNESS, predict_changed(predict, pixels, drawn, masks))
