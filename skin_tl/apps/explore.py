"""Exploring finished runs: what the notebook 4_explore asks of them.

Takes `skin_tl.apps.studies.Runs`; gives plain tables: the images that one head was tested on with what is told of each,
its confusion matrix, the images of one cell, siblings, the nearest training lesions, and what a threshold on the
probability of melanoma finds and misses.

Nothing here draws or waits for a click; `skin_tl.apps.panels` does.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import special

from skin_tl.apps.runs import Run, read_model
from skin_tl.apps.studies import Runs
from skin_tl.data.images import ImageSet
from skin_tl.errors import SkinTLError
from skin_tl.evaluation.calibration import image_log_loss
from skin_tl.evaluation.decisions import choose_threshold, lesion_scores
from skin_tl.evaluation.metric_list import COMPARED
from skin_tl.evaluation.metrics import point_metrics
from skin_tl.evaluation.predictions import class_codes, where
from skin_tl.explain import neighbours
from skin_tl.files import read_json
from skin_tl.schema import CLASSES, PROBABILITIES, kind_of

Choice = Mapping[str, Any]
"""What names one head: a value for each of `CHOICE`."""

CHOICE = ("strategy", "backbone", "split_policy", "preprocessing", "seed")
"""Columns that name one head; what is chosen is a dict with these keys."""

SORTS = {
    "loss": ("loss", False),
    "confident": ("confidence", False),
    "doubtful": ("confidence", True),
    "disagreement": ("disagreement", False),
}
"""Orders of images: the column that it goes by, and whether the smallest comes first."""

# One head -------------------------------------------------------------------------------------------------------


def options(predictions: pd.DataFrame, column: str, **chosen: Any) -> list:
    """Return the values of a column, in their order, among the rows that agree with what is chosen already."""
    return where(predictions, **chosen)[column].drop_duplicates().tolist()


def of_head(predictions: pd.DataFrame, choice: Choice, subset: str = "test") -> pd.DataFrame:
    """Return the rows of one head on the subset test or val."""
    return where(predictions, subset=subset, **{column: choice[column] for column in CHOICE})


def head_table(predictions: pd.DataFrame, choice: Choice) -> pd.DataFrame:
    """Return a head's prediction of each test image, its loss, and its disagreement with other backbones.

    Returns
    -------
    pandas.DataFrame
        Indexed by image_id, sorted: lesion_id, dx, `PROBABILITIES`, predicted, confidence (the largest probability),
        loss (cross-entropy of the true diagnosis, in nats) and disagreement (see `disagreement`; NaN where there are
        not two backbones).
    """
    rows = of_head(predictions, choice).set_index("image_id").sort_index()
    if rows.empty:
        shown = ", ".join(str(choice[column]) for column in CHOICE)
        raise SkinTLError(f"There are no test predictions of {shown}. Choose another head.")
    probability = rows[PROBABILITIES].to_numpy(float)
    others = predictions[predictions["backbone"].map(kind_of) == "backbone"]
    tables = [
        of_head(others, {**choice, "backbone": backbone}).set_index("image_id")
        for backbone in options(others, "backbone", strategy=choice["strategy"])
    ]
    return rows[["lesion_id", "dx", *PROBABILITIES]].assign(
        predicted=np.array(CLASSES)[probability.argmax(1)],
        confidence=probability.max(1),
        loss=image_log_loss(class_codes(rows["dx"]), probability),
        disagreement=disagreement([table for table in tables if len(table)]).reindex(rows.index),
    )


def disagreement(tables: Sequence[pd.DataFrame]) -> pd.Series:
    """Compute the disagreement of backbones about each image: the Jensen–Shannon divergence of their probabilities.

    Parameters
    ----------
    tables
        For each backbone, indexed by image_id, the columns `PROBABILITIES`.

    Returns
    -------
    pandas.Series
        By image_id, for the images that all have, in 0…1: 0 where all say the same, 1 where each is sure of another
        diagnosis.  Empty where there are not two backbones.
    """
    if len(tables) < 2:
        return pd.Series(dtype=float)
    ids = sorted(set.intersection(*(set(table.index) for table in tables)))
    each = np.stack([table.loc[ids, PROBABILITIES].to_numpy(float) for table in tables])
    divergence = special.entr(each.mean(0)).sum(-1) - special.entr(each).sum(-1).mean(0)
    return pd.Series(np.clip(divergence / np.log(min(len(tables), len(CLASSES))), 0, 1), index=ids)


def confusion(rows: pd.DataFrame) -> pd.DataFrame:
    """Count images by true (rows) and predicted (columns) diagnosis, (7, 7) table of int in the order of `CLASSES`."""
    counts = pd.crosstab(rows["dx"], rows["predicted"])
    return counts.reindex(index=CLASSES, columns=CLASSES, fill_value=0)


def worst_cell(counts: pd.DataFrame) -> tuple[str, str]:
    """Return the (true, predicted) diagnoses of the commonest error, or of the commonest hit where there is none."""
    values = counts.to_numpy().copy()
    if np.trace(values) < values.sum():
        np.fill_diagonal(values, 0)
    row, column = np.unravel_index(values.argmax(), values.shape)
    return CLASSES[row], CLASSES[column]


def in_cell(rows: pd.DataFrame, dx: str, predicted: str, order: str = "loss") -> pd.DataFrame:
    """Return the images of one cell of the confusion matrix, from the rows of `head_table`.

    `order` is a key of `SORTS`; equal values are sorted by image_id, unknown ones come last.
    """
    column, ascending = SORTS[order]
    cell = where(rows, dx=dx, predicted=predicted).sort_index()
    return cell.sort_values(column, ascending=ascending, kind="stable", na_position="last")


def head_scores(rows: pd.DataFrame) -> dict[str, float]:
    """Return the metrics `COMPARED` of the images of a head, as `point_metrics` does."""
    values = point_metrics(rows.reset_index(), groups=("confusion",))
    return {name: values[name, "all"] for name in COMPARED}


# One image ------------------------------------------------------------------------------------------------------


def siblings(found: Runs, image_id: str, choice: Choice) -> pd.DataFrame:
    """Return the other images of an image's lesion and the subset that each is in, in a head's split.

    Returns
    -------
    pandas.DataFrame
        Columns image_id and subset, sorted by image_id.
    """
    split = subsets(found.splits, choice)
    lesion = found.metadata["lesion_id"]
    others = sorted(set(lesion.index[lesion == lesion[image_id]]) - {image_id})
    return pd.DataFrame({"image_id": others, "subset": split.reindex(others).tolist()})


def subsets(splits: pd.DataFrame, choice: Choice) -> pd.Series:
    """Return the subset of each image, by image_id, in a head's split."""
    split = where(splits, split_policy=choice["split_policy"], seed=choice["seed"])
    return split.set_index("image_id")["subset"]


def compare(predictions: pd.DataFrame, image_id: str, choice: Choice, backbones: Sequence[str]) -> pd.DataFrame:
    """Return the predictions of several backbones for one image, with the same strategy, split, scaling and seed.

    Returns
    -------
    pandas.DataFrame
        Probabilities, a row per diagnosis in the order of `CLASSES`, a column per backbone that predicted it.
    """
    table = {}
    for backbone in backbones:
        rows = of_head(predictions, {**choice, "backbone": backbone}).set_index("image_id")
        if image_id in rows.index:
            table[backbone] = rows.loc[image_id, PROBABILITIES].to_numpy(float)
    return pd.DataFrame(table, index=list(CLASSES))


def features_of_run(found: Runs, choice: Choice) -> np.ndarray:
    """Return the features that a run's backbone gives for all images of the study, (n_images, n_features) float32.

    Computed where the cache has not got them.  Where the strategy trains the backbone too, each split, scaling and seed
    has a network of its own, and they are those of the chosen one.

    Raises
    ------
    SkinTLError
        If the chosen run has no backbone.
    """
    from skin_tl.models.features import extract, features_of

    backbone, preprocessing = choice["backbone"], choice["preprocessing"]
    if kind_of(backbone) != "backbone":
        raise SkinTLError(f"{backbone!r} has no features of its own. Choose a backbone to find the nearest lesions.")
    run = found.folder / choice["strategy"] / backbone
    if choice["strategy"] == "feature_extraction":
        weights = read_json(run / "run.json")["weights"]
        return features_of(found.study, found.images, backbone, preprocessing, weights, views=1)[0]
    from skin_tl.models.heads import head_file

    name = head_file("main", choice["split_policy"], preprocessing, choice["seed"], ending=".keras")
    model = read_model(Run(run, choice["strategy"], backbone, ""), found.study.image_size, f"models/{name}")[1]
    return extract(found.images, backbone, preprocessing, model)[0]


def nearest_lesions(
    found: Runs, features: np.ndarray, image_id: str, choice: Choice, n_lesions: int = 6
) -> pd.DataFrame:
    """Find the training lesions nearest to an image in the features of a backbone.

    Parameters
    ----------
    found
    features
        (n_images, n_features) float32, in the order of the study's images, for example from `features_of_run`.
    image_id
    choice
        Its split_policy and seed say what training is.
    n_lesions

    Returns
    -------
    pandas.DataFrame
        The nearest first: image_id (the nearest image of each lesion), lesion_id, dx, distance and same_lesion (bool; a
        split by image may have trained on the lesion itself).
    """
    ids = pd.Index(found.images.ids)
    split = subsets(found.splits, choice).reindex(ids)
    train = np.flatnonzero((split == "train").to_numpy() & (ids != image_id))
    known = found.metadata.loc[ids[train], ["lesion_id", "dx"]].reset_index(names="image_id")
    wanted = neighbours.enough_images(known["lesion_id"], n_lesions)
    mine, reference = features[[ids.get_loc(image_id)]], neighbours.Rows(features, train)
    distances, rows = neighbours.nearest(mine, reference, wanted)
    table = neighbours.nearest_lesions(known, rows[0], distances[0], n_lesions).reset_index(drop=True)
    return table.assign(same_lesion=table["lesion_id"] == found.metadata.loc[image_id, "lesion_id"])


# A decision -----------------------------------------------------------------------------------------------------


def lesions_of(predictions: pd.DataFrame, choice: Choice, subset: str = "test") -> pd.DataFrame:
    """Return the lesions of a head's subset with their probabilities, see `lesion_scores`."""
    return lesion_scores(of_head(predictions, choice, subset))


def threshold_of_validation(predictions: pd.DataFrame, choice: Choice) -> float:
    """Return the threshold for melanoma that the validation set selects, NaN without a validation set."""
    lesions = lesions_of(predictions, choice, "val")
    return choose_threshold(lesions["melanoma"], lesions["melanoma_score"]) if len(lesions) else np.nan


def decide(lesions: pd.DataFrame, threshold: float) -> dict:
    """Count the lesions that a threshold on the probability of melanoma, in 0…1, finds, misses and flags.

    A lesion, from `lesions_of`, is flagged from the threshold on.

    Returns
    -------
    dict
        found, missed, flagged_others and cleared (int, lesions); sensitivity, specificity and precision (0…1, NaN
        where there is nothing to divide by); and `by_diagnosis`, a pandas.DataFrame of flagged and cleared lesions with
        a row per diagnosis in the order of `CLASSES`.
    """
    wanted, flagged = lesions["melanoma"].to_numpy(bool), lesions["melanoma_score"].to_numpy() >= threshold
    counts = {
        "found": int((wanted & flagged).sum()),
        "missed": int((wanted & ~flagged).sum()),
        "flagged_others": int((~wanted & flagged).sum()),
        "cleared": int((~wanted & ~flagged).sum()),
    }
    table = pd.crosstab(lesions["dx"], np.where(flagged, "flagged", "cleared"))
    return counts | {
        "sensitivity": _share(counts["found"], counts["missed"]),
        "specificity": _share(counts["cleared"], counts["flagged_others"]),
        "precision": _share(counts["found"], counts["flagged_others"]),
        "by_diagnosis": table.reindex(index=CLASSES, columns=["flagged", "cleared"], fill_value=0),
    }


def _share(part, rest):
    return part / (part + rest) if part + rest else np.nan


# Pictures -------------------------------------------------------------------------------------------------------


def png(pixels: np.ndarray) -> str:
    """Return an image, (height, width, 3) uint8, as a data URI of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def pictures_of(images: ImageSet) -> dict[str, np.ndarray]:
    """Return the pixels of each decoded image, (size, size, 3) uint8, by its id."""
    return dict(zip(images.ids, images.pixels, strict=True))
