"""Predictions: tables with one row per image, as ``predictions.csv`` holds them.

Takes files of finished runs; gives checked tables, parts of them, and their ensemble.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special

from skin_tl.errors import SkinTLError
from skin_tl.schema import CELL, CLASSES, HEAD, PREDICTION_COLUMNS, PROBABILITIES, SUBSETS

SUM_TOLERANCE = 1e-3
"""How far the sum of an image's probabilities may be from one."""

UNIT = [*CELL, "seed", "subset", "image_id"]
"""Columns that name one row."""

TINY = float(np.finfo(np.float32).eps)
"""The smallest probability that counts in an ensemble, as in the log loss of numbers of this precision."""

AGAIN = "Delete the file and run the study again."


def read_table(path: str | Path, command: str, **options: Any) -> pd.DataFrame:
    """Read a CSV file that `command` writes; errors name both.  Options are those of `pandas.read_csv`."""
    ids = dict.fromkeys(("image_id", "lesion_id", "nearest_image_id"), str)  # which may be numbers, 007 among them
    dtype = options.pop("dtype", {})
    try:
        return pd.read_csv(path, dtype=ids | dtype if isinstance(dtype, dict) else dtype, **options)
    except FileNotFoundError:
        raise SkinTLError(f"{path} is missing. It is written by `{command}`: run that first.") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise SkinTLError(f"{path} cannot be read ({error}). Delete it and run `{command}` again.") from None


def read_predictions(
    path: str | Path, splits: pd.DataFrame | None = None, made_by: str = "./run_all.sh"
) -> pd.DataFrame:
    """Read and check a ``predictions.csv``.

    Parameters
    ----------
    path
    splits
        See `check_predictions`.
    made_by
        The command that errors name.

    Raises
    ------
    SkinTLError
        If the file is absent or no CSV, or `check_predictions` objects.
    """
    missing = {name: ["", "nan", "NaN"] for name in PROBABILITIES}  # an image may be called NA
    predictions = read_table(path, made_by, dtype={"dx": str}, keep_default_na=False, na_values=missing)
    return check_predictions(predictions, splits, source=str(path))


def check_predictions(
    predictions: pd.DataFrame, splits: pd.DataFrame | None = None, source: str = "predictions.csv"
) -> pd.DataFrame:
    """Check a table of predictions and sort its rows by configuration, seed, subset and image.

    Parameters
    ----------
    predictions
        Columns `PREDICTION_COLUMNS`, one row per configuration, seed and image; further columns are kept.
    splits
        ``splits.csv``: split_policy, seed, image_id, lesion_id, subset.  The internal predictions of the arm
        ``main`` must then hold just the test images of their split, and no validation image outside theirs.
    source
        What errors call the table.

    Raises
    ------
    SkinTLError
        If columns are missing, the table is empty, a diagnosis or subset is unknown, an identifier is empty, an
        image is listed twice, a probability is no number or negative, the probabilities of an image do not sum to
        one within `SUM_TOLERANCE`, or the test images are not those of the split.
    """
    missing = [column for column in PREDICTION_COLUMNS if column not in predictions.columns]
    if missing:
        raise SkinTLError(f"{source}: without the column(s) {', '.join(missing)}. {AGAIN}")
    if predictions.empty:
        raise SkinTLError(f"{source}: holds no predictions. {AGAIN}")
    for column, allowed in (("dx", CLASSES), ("subset", SUBSETS)):
        wrong = predictions.loc[~predictions[column].isin(allowed), column]
        if len(wrong):
            raise SkinTLError(
                f"{source}: {len(wrong)} row(s) with an unknown {column} ({wrong.iloc[0]!r}); "
                f"expected one of {', '.join(allowed)}. {AGAIN}"
            )
    empty = [column for column in (*UNIT, "lesion_id") if predictions[column].isna().any()]
    if empty:
        raise SkinTLError(f"{source}: empty values in the column(s) {', '.join(empty)}. {AGAIN}")
    _check_probabilities(predictions, source)
    predictions = predictions.sort_values(UNIT, kind="stable", ignore_index=True)
    twice = predictions.loc[predictions.duplicated([*CELL, "seed", "image_id"], keep=False), "image_id"]
    if len(twice):
        raise SkinTLError(
            f"{source}: {twice.nunique()} image(s) listed more than once for one seed, "
            f"among them {twice.iloc[0]}. {AGAIN}"
        )
    if splits is not None:
        _check_subsets(predictions, splits, source)
    return predictions


def _check_probabilities(predictions, source):
    try:
        probability = predictions[PROBABILITIES].to_numpy(float)
    except (ValueError, TypeError) as error:
        raise SkinTLError(f"{source}: a probability is not a number ({error}). {AGAIN}") from None
    total = probability.sum(1)
    for wrong, what in (
        (~np.isfinite(probability).all(1), "a probability that is empty or not finite"),
        ((probability < 0).any(1), "a negative probability"),
        (np.abs(total - 1) > SUM_TOLERANCE, "probabilities that do not sum to one"),
    ):
        if wrong.any():
            image = predictions["image_id"].iloc[int(np.flatnonzero(wrong)[0])]
            raise SkinTLError(
                f"{source}: {int(wrong.sum())} row(s) with {what}, the first for image {image}. "
                "The training went wrong or the file was changed: delete it and run the study again."
            )


def _check_subsets(predictions, splits, source):
    ours = predictions[(predictions["dataset"] == "internal") & (predictions["arm"] == "main")]
    expected = {
        (policy, int(seed), subset): set(part["image_id"])
        for (policy, seed, subset), part in splits.groupby(["split_policy", "seed", "subset"])
    }
    for (policy, preprocessing, fraction, seed, subset), part in ours.groupby([*CELL[2:], "seed", "subset"]):
        images = set(part["image_id"])
        wanted = expected.get((policy, int(seed), subset))
        where = f"{source}: split {policy}, preprocessing {preprocessing}, seed {seed}"
        where += "" if fraction == 1 else f", train fraction {fraction:g}"
        if wanted is None:
            raise SkinTLError(f"{where}: splits.csv has no such split. {AGAIN}")
        absent = wanted - images if subset == "test" else set()
        for odd, what in ((absent, "missing"), (images - wanted, "not of that subset")):
            if odd:
                raise SkinTLError(f"{where}: {len(odd)} {subset} image(s) {what}, among them {min(odd)}. {AGAIN}")


def main_arm(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows (of predictions, metrics or history) of the study's own training, on all of its training subset."""
    return table[(table["arm"] == "main") & (table["train_fraction"] == 1)]


def where(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Keep the rows that have a value in each of some columns."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def validation_rows(predictions: pd.DataFrame, cell: Mapping[str, Any]) -> pd.DataFrame:
    """Return the internal validation rows of a configuration (a value for each of `CELL`), whatever its data set."""
    return where(predictions, subset="val", dataset="internal", **{column: cell[column] for column in CELL[1:]})


def labelled_groups(table: pd.DataFrame, keys: list[str], sort: bool = False) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Give the rows that agree in some columns, with what they agree in."""
    for values, part in table.groupby(keys, sort=sort):
        yield dict(zip(keys, values, strict=True)), part


def configurations(predictions: pd.DataFrame, **labels: str) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Yield each configuration, a value for each of `CELL` and further labels, with its test rows."""
    for cell, part in labelled_groups(predictions[predictions["subset"] == "test"], CELL, sort=True):
        yield cell | labels, part


_CLASSES = pd.Index(CLASSES)


def class_codes(dx: Any) -> np.ndarray:
    """Return the place of each diagnosis in `CLASSES`, (n,) int."""
    return _CLASSES.get_indexer(dx)


def ensemble(predictions: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Pool the probabilities of several backbones image by image, by weights that the validation subset selects.

    A logarithmic opinion pool (Genest and Zidek, Statistical Science 1986): the product of their probabilities,
    each to the power of its weight, brought to a sum of one.  Each head has weights of its own, see `pool_weights`.

    Parameters
    ----------
    predictions
        By backbone, of the validation subset and of what is predicted.

    Raises
    ------
    SkinTLError
        If the backbones were not scored on the same images.
    """
    check_same_images(predictions)
    tables = [table.sort_values(UNIT, ignore_index=True) for _, table in sorted(predictions.items())]
    log_p = np.stack([np.log(np.maximum(table[PROBABILITIES].to_numpy(float), TINY)) for table in tables])
    pooled, first = np.empty(log_p.shape[1:]), tables[0]
    for rows in first.groupby(HEAD).indices.values():
        val = rows[(first["subset"].to_numpy() == "val")[rows]]
        weights = pool_weights(class_codes(first["dx"].iloc[val]), log_p[:, val])
        pooled[rows] = special.softmax(np.tensordot(weights, log_p[:, rows], 1), axis=1)
    return first[PREDICTION_COLUMNS].assign(**dict(zip(PROBABILITIES, pooled.T, strict=True)))


def pool_weights(y: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """Return the weights of a logarithmic pool that has the lowest log loss.

    None is negative; their sum is free, so that the pool is calibrated as by a temperature.

    Parameters
    ----------
    y
        (n_images,) int, the diagnoses.
    log_p
        (n_members, n_images, 7) logarithms of probabilities.

    Returns
    -------
    numpy.ndarray
        (n_members,) float.
    """
    images = np.arange(len(y))

    def loss(weights):
        pooled = special.log_softmax(np.tensordot(weights, log_p, 1), axis=1)
        slope = (np.exp(pooled) * log_p).sum(axis=2) - log_p[:, images, y]
        return -pooled[images, y].mean(), slope.mean(axis=1)

    n_members = len(log_p)
    found = optimize.minimize(
        loss,
        np.full(n_members, 1 / n_members),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * n_members,
        options={"ftol": 1e-14, "gtol": 1e-9},
    )
    return found.x


def check_same_images(predictions: Mapping[str, pd.DataFrame]) -> None:
    """Raise `SkinTLError` unless all backbones have the same images and diagnoses."""
    keys = [*UNIT, "dx", "lesion_id"]
    (first, *names), tables = sorted(predictions), predictions
    wanted = pd.MultiIndex.from_frame(tables[first][keys])
    for name in names:
        odd = wanted.symmetric_difference(pd.MultiIndex.from_frame(tables[name][keys]))
        if len(odd):
            place = dict(zip(keys, odd[0], strict=True))
            raise SkinTLError(
                f"{first} and {name} were scored on different images, so they cannot be compared: {len(odd)} "
                f"differ, among them {place['image_id']} (split {place['split_policy']}, seed {place['seed']}). "
                "Delete the predictions of one of them and run the study again."
            )
