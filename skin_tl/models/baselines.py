"""Baselines: predictions without a network, which backbones are compared with.

Takes the metadata, the splits and the decoded images; gives predictions as ``predictions.csv`` holds them, for the
validation and test subsets, so that everything that is computed for a backbone is computed for a baseline too.

`majority` knows the class counts of the training subset alone; `metadata_only` the age, sex and body site (gradient
boosting); `colour_histogram` how often each colour occurs in the image (logistic regression).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits

from skin_tl.schema import CLASSES, PREDICTION_COLUMNS, PROBABILITIES

COLOUR_LEVELS = 6
"""Levels of each of red, green and blue in a colour histogram: 216 colours."""

STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse penalties of the logistic regression; the validation subset chooses."""

BATCH = 64
"""Images of which the histograms are counted at once."""


def majority(metadata: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Predict the share of each diagnosis in the training subset, for every image.

    Parameters
    ----------
    metadata
        image_id, lesion_id, dx.
    splits
        split_policy, seed, image_id, lesion_id, subset.

    Returns
    -------
    pandas.DataFrame
        Columns of ``predictions.csv``; so for all functions here.
    """
    features = pd.DataFrame(index=metadata["image_id"])
    return _predict(metadata, splits, features, lambda train, val, seed: DummyClassifier(strategy="prior").fit(*train))


def metadata_only(metadata: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Predict from age, sex and body site by gradient boosting, stopped early on the validation subset.

    Parameters
    ----------
    metadata
        image_id, lesion_id, dx, age, sex, localization; some ages may be empty.
    """
    features = pd.DataFrame(
        {
            "age": pd.to_numeric(metadata["age"], errors="coerce").to_numpy(float),
            "sex": pd.Categorical(metadata["sex"].fillna("unknown").astype(str)),
            "localization": pd.Categorical(metadata["localization"].fillna("unknown").astype(str)),
        },
        index=metadata["image_id"],
    )
    return _predict(metadata, splits, features, _boost)


def colour_histogram(
    metadata: pd.DataFrame, splits: pd.DataFrame, images: np.ndarray, image_ids: Sequence[str]
) -> pd.DataFrame:
    """Predict from the colours of the pixels by logistic regression, its penalty chosen on the validation subset.

    Parameters
    ----------
    images
        Read in batches; may be memory-mapped.
    image_ids
        Image of each row of `images`.
    """
    features = pd.DataFrame(colour_histograms(images), index=pd.Index(image_ids, dtype=str))
    return _predict(metadata, splits, features, _regress)


def colour_histograms(images: np.ndarray, levels: int = COLOUR_LEVELS) -> np.ndarray:
    """Count the colours of each image.

    Parameters
    ----------
    images
        (n_images, height, width, 3) uint8 array.
    levels
        Levels per channel, of equal width.

    Returns
    -------
    (n_images, levels**3) float32 array
        Square roots of the shares of the pixels (the Hellinger map), in 0…1.
    """
    n_colours = levels**3
    level = (np.arange(256) * levels // 256).astype(np.int32)
    histograms = np.empty((len(images), n_colours), np.float32)
    for start in range(0, len(images), BATCH):
        batch = level[np.asarray(images[start : start + BATCH])]
        colour = (batch[..., 0] * levels + batch[..., 1]) * levels + batch[..., 2]
        colour = colour.reshape(len(batch), -1)
        n_pixels = colour.shape[1]
        colour += np.arange(len(batch), dtype=np.int32)[:, None] * n_colours
        counts = np.bincount(colour.ravel(), minlength=len(batch) * n_colours)
        histograms[start : start + BATCH] = np.sqrt(counts.reshape(len(batch), n_colours) / n_pixels)
    return histograms


def _predict(metadata, splits, features, fit):
    """Fit one model per split and return its predictions of the validation and test subsets."""
    dx = metadata.set_index("image_id")["dx"]
    tables = []
    for (policy, seed), split in splits.groupby(["split_policy", "seed"]):
        parts = {name: part["image_id"].sort_values() for name, part in split.groupby("subset")}
        sides = {name: (features.loc[ids], dx.loc[ids].to_numpy(str)) for name, ids in parts.items()}
        with threadpool_limits(1):
            model = fit(sides["train"], sides["val"], int(seed))
        lesion = split.set_index("image_id")["lesion_id"]
        for subset in ("val", "test"):
            x, y = sides[subset]
            table = pd.DataFrame(_probabilities(model, x), columns=PROBABILITIES)
            labels = {"dataset": "internal", "arm": "main", "split_policy": policy, "preprocessing": "native"}
            table = table.assign(**labels, train_fraction=1.0, seed=seed, subset=subset, dx=y)
            ids = parts[subset].to_numpy()
            tables.append(table.assign(image_id=ids, lesion_id=lesion.loc[ids].to_numpy()))
    return pd.concat(tables, ignore_index=True)[PREDICTION_COLUMNS]


def _probabilities(model, x):
    """Return the model's probabilities in the order of `CLASSES`; zero for one that its training lacked."""
    found = model.predict_proba(x).astype(float)
    probability = np.zeros((len(x), len(CLASSES)))
    probability[:, [CLASSES.index(name) for name in model.classes_]] = found / found.sum(1, keepdims=True)
    return probability


def _boost(train, val, seed):
    model = HistGradientBoostingClassifier(
        categorical_features="from_dtype", early_stopping=True, n_iter_no_change=10, random_state=seed
    )
    return model.fit(*train, X_val=val[0], y_val=val[1])


def _regress(train, val, seed):
    fitted = [LogisticRegression(C=strength, max_iter=1000).fit(*train) for strength in STRENGTHS]
    return min(fitted, key=lambda model: log_loss(val[1], _probabilities(model, val[0]), labels=CLASSES))
