"""Heads: softmax classifiers on the features of frozen backbones, and the names and tables of their predictions.

Takes features, (n_images, n_features) float32, and rows of the training and validation subsets; gives `Head` and tables
of probabilities, by NumPy and SciPy alone: whoever trains heads on features that were computed before loads no Keras.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special

from skin_tl.data.images import ImageSet, cache_folder
from skin_tl.errors import SkinTLError
from skin_tl.evaluation.predictions import class_codes, main_arm
from skin_tl.evaluation.uncertainty import confusion_metrics
from skin_tl.files import claim_space, disk_full_message, is_disk_full
from skin_tl.models.backbones import NORMALISATION_EPSILON
from skin_tl.models.features import OF_NETWORK, Views, features_of, kept_features
from skin_tl.schema import CLASSES, HISTORY_COLUMNS, RANDOM_WEIGHTS
from skin_tl.study import SMOOTHED, Study, penalties_beyond

HeadName = tuple[str, str, str, int, float]
"""Names a head or a network of a run: arm, split policy, preprocessing, seed and train fraction, the
columns `skin_tl.schema.HEAD`."""

TrainedHead = tuple[HeadName, pd.DataFrame, dict[str, pd.DataFrame]]
"""A trained head or network: its name, its history (columns of ``history.csv`` without those of the arm), and its
predictions of the subsets 'val' and 'test', as from `predict`."""


@dataclass(frozen=True)
class Head:
    """A softmax classifier on the features of a frozen backbone.

    The features of a network are of any scale (an untrained deep one's are many orders of magnitude below 1), so
    they are multiplied by `scale`.  Those of one image are then brought to mean 0 and variance 1 over the image's
    features, as ConvNeXt does between its pooling and its classifier (Liu et al., CVPR 2022): how strongly a picture
    excites the whole network no longer counts.  Last, they are centred by `mean` and divided by `deviation`.

    Attributes
    ----------
    scale
        1 divided by the typical spread of the features in the training subset (root mean square over features).
    mean, deviation
        (n_features,) float32, of the training subset.  A feature is divided by its own spread, but by no less than
        the typical one, lest one that is almost always zero be blown up to outliers.
    kernel, bias
        (n_features, 7) and (7,) float32, of the logits.
    """

    scale: float
    mean: np.ndarray
    deviation: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray

    def standardise(self, features: np.ndarray) -> np.ndarray:
        """Return features of some images, (n, n_features) or (n, n_views, n_features), as the logits take them."""
        return (_of_image(features, self.scale) - self.mean) / self.deviation

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return the probabilities of some images, (n, 7) float32 in the order of `CLASSES`, from their features.

        Those of several views, (n, n_views, n_features), give the mean of their probabilities.
        """
        values = special.softmax(self.standardise(features) @ self.kernel + self.bias, axis=-1)
        return values if values.ndim == 2 else values.mean(axis=1)

    def save(self, path: Path) -> None:
        """Write the head as an ``.npz`` file of its attributes."""
        with open(path, "wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def read(cls, path: Path) -> Head:
        """Read what `save` wrote.

        Raises
        ------
        SkinTLError
            If the file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                parts = {name: file[name] for name in cls.__annotations__}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise SkinTLError(
                f"{path} cannot be read ({error}). Delete {path.parents[1] / 'run.json'} and start again: that trains "
                "it again."
            ) from None
        return cls(**parts | {"scale": float(parts["scale"])})


def _of_image(features, scale):
    """Return scaled features, (…, n_features) float32, with mean 0 and variance 1 in each image."""
    values = np.asarray(features, np.float32) * np.float32(scale)
    values = values - values.mean(axis=-1, keepdims=True)
    return values / np.sqrt(np.square(values).mean(axis=-1, keepdims=True) + np.float32(NORMALISATION_EPSILON))


def build_head(features: np.ndarray | Views, rows: np.ndarray) -> Head:
    """Build a head with the statistics of a training subset; its kernel and bias are zero.

    Parameters
    ----------
    features
        (n_images, n_features) float32.
    rows
        Rows of the training subset: nothing else is looked at.
    """
    n_features = features.shape[-1]
    scale = 1 / _typical(_spread(features, rows)[1])
    mean, deviation = _spread(features, rows, lambda values: _of_image(values, scale))
    deviation = np.maximum(deviation, _typical(deviation))
    kernel, bias = np.zeros((n_features, len(CLASSES)), np.float32), np.zeros(len(CLASSES), np.float32)
    return Head(scale, mean.astype(np.float32), deviation.astype(np.float32), kernel, bias)


def _typical(deviation):
    """Return the root mean square of standard deviations; 1 where nothing varies."""
    return float(np.sqrt(np.square(deviation).mean())) or 1.0


def _spread(features, rows, through=np.asarray, chunk=4096):
    """Return the mean and standard deviation of each feature over some rows, (n_features,) float64, in two passes.

    `through` is applied to a chunk of features, (n, n_features), first.
    """

    n_views = n_views_of(features)
    step = chunk // n_views

    def chunks():
        for i in range(0, len(rows), step):
            yield through(features[rows[i : i + step]].reshape(-1, features.shape[-1])).astype(np.float64)

    n = len(rows) * n_views
    mean = sum(values.sum(0) for values in chunks()) / n
    return mean, np.sqrt(sum(np.square(values - mean).sum(0) for values in chunks()) / n)


def n_views_of(features: np.ndarray | Views) -> int:
    """Return how many views of each image features hold."""
    return features.shape[1] if len(features.shape) == 3 else 1


def train_head(
    features: np.ndarray | Views, labels: np.ndarray, rows: dict[str, np.ndarray], study: Study
) -> tuple[Head, pd.DataFrame]:
    """Train one head by L-BFGS; the validation subset chooses its penalty and the epoch whose weights are kept.

    A head on frozen features is multinomial logistic regression: convex, and best solved by a method that needs no
    learning rate and draws no batches (L-BFGS, as in Kornblith et al., CVPR 2019).  An epoch is one of its iterations;
    each sees the whole training subset.  It is trained once with each of the study's penalties, with early stopping,
    and where the smallest or the largest does best, with further ones (see `skin_tl.study.penalties_beyond`).

    Both choices look at macro F1 and not at the loss: nevi make up two thirds of the images, and the loss is lowest
    long before the rare diagnoses are told apart.  Macro F1 of a validation subset is noisy, as a few images of a rare
    diagnosis decide, so its mean over the last `SMOOTHED` epochs is what counts.

    Of several views of an image, each is an image to learn from, and their mean probability is what is validated.

    Parameters
    ----------
    features
        (n_images, n_features) float32, or `Views`.
    labels
        (n_images,) int.
    rows
        Rows of `features`, (n,) int each, by subset; only 'train' and 'val' are looked at.
    study
        Its l2, max_epochs and patience are used.

    Returns
    -------
    history
        Of the chosen penalty: columns l2, epoch (from 1), loss (cross-entropy, without the penalty), accuracy, macro_f1
        and the same with `val_`, and `kept` (bool, the epoch whose weights are kept).
    """
    head = build_head(features, rows["train"])
    x, x_val = (_standardised(head, features, rows[name]) for name in ("train", "val"))
    y, y_val = np.repeat(labels[rows["train"]], n_views_of(features)), labels[rows["val"]]
    basis = _row_space(x)
    if basis is not None:
        x, x_val = x @ basis, x_val @ basis
    best = _best_fit(lambda l2: _fit(x, y, x_val, y_val, l2, study), study.l2)
    kernel, bias = (part.astype(np.float32) for part in _kernel_and_bias(best["weights"]))
    return replace(head, kernel=kernel if basis is None else basis @ kernel, bias=bias), best["history"]


def _row_space(x: np.ndarray) -> np.ndarray | None:
    """Return orthonormal columns that span the rows of `x`, (n_features, n_images) float32; None for as many images.

    Where there are fewer training images than features, the kernel that minimises a loss with a squared penalty is a
    combination of the images (Hastie and Tibshirani, Biostatistics 5, 2004): the same head is fitted in fewer
    dimensions, and L-BFGS, which a rotation does not change, takes the same steps.
    """
    return None if len(x) >= x.shape[1] else np.linalg.qr(x.T.astype(np.float64))[0].astype(np.float32)


def _best_fit(fit, penalties):
    """Fit with each penalty, and with further ones as long as the one at an edge does better than all others.

    Parameters
    ----------
    fit : callable
        From a penalty to a dict with macro_f1.
    penalties : list of float

    Returns
    -------
    dict
        The best of `fit`, the first of equal ones.
    """
    fits = {l2: fit(l2) for l2 in penalties}
    for beyond, edge in zip(penalties_beyond(penalties), (min, max), strict=True):
        for l2 in beyond:
            at_edge = edge(fits)
            if any(other["macro_f1"] >= fits[at_edge]["macro_f1"] for name, other in fits.items() if name != at_edge):
                break
            fits[l2] = fit(l2)
    return max(fits.values(), key=lambda fit: fit["macro_f1"])


def smoothed_val_f1(history: Sequence[dict[str, Any]]) -> float:
    """Return the smoothed validation macro F1 of the last epoch of a history (list of dict), see `SMOOTHED`."""
    return float(np.mean([row["val_macro_f1"] for row in history[-SMOOTHED:]]))


def _kernel_and_bias(weights):
    """Return the parts of a flat vector of weights: (n_features, 7) and (7,)."""
    return weights[: -len(CLASSES)].reshape(-1, len(CLASSES)), weights[-len(CLASSES) :]


def _fit(x, y, x_val, y_val, l2, study):
    """Fit the dense layer with one penalty and early stopping.

    Returns
    -------
    dict
        Of the best epoch macro_f1 (mean over the last `SMOOTHED` epochs, validation), epoch and weights; and history,
        as `train_head` gives it.
    """
    wanted = np.eye(len(CLASSES))[y]
    start = np.zeros((x.shape[1] + 1) * len(CLASSES))
    history: list[dict[str, Any]] = []
    best: dict[str, Any] = {"macro_f1": -1.0, "epoch": 0, "weights": start}
    seen: dict[str, np.ndarray] = {}

    def log_probabilities(values, weights):
        kernel, bias = _kernel_and_bias(weights)
        return special.log_softmax((values @ kernel.astype(np.float32)).astype(np.float64) + bias, axis=1)

    def of_images(values, weights):
        log_p, n_views = log_probabilities(values, weights), len(x_val) // len(y_val)
        if n_views == 1:
            return log_p
        return special.logsumexp(log_p.reshape(-1, n_views, len(CLASSES)), axis=1) - np.log(n_views)

    def objective(weights):
        kernel, _ = _kernel_and_bias(weights)
        log_p = log_probabilities(x, weights)
        seen.update(weights=weights.copy(), log_p=log_p)
        errors = (np.exp(log_p) - wanted) / len(y)
        slope = (x.T @ errors.astype(np.float32)).astype(np.float64) + l2 * kernel
        loss = -log_p[np.arange(len(y)), y].mean() + l2 / 2 * np.square(kernel).sum()
        return loss, np.concatenate([slope.ravel(), errors.sum(0)])

    def after_epoch(intermediate_result):
        weights = intermediate_result.x
        known = np.array_equal(seen["weights"], weights)  # the accepted point is as a rule the last one tried
        log_p = seen["log_p"] if known else log_probabilities(x, weights)
        row = {"l2": l2, "epoch": len(history) + 1} | val_scores(log_p, y)
        row |= {f"val_{name}": value for name, value in val_scores(of_images(x_val, weights), y_val).items()}
        history.append(row)
        if smoothed_val_f1(history) > best["macro_f1"]:
            best.update(macro_f1=smoothed_val_f1(history), epoch=row["epoch"], weights=weights.copy())
        if row["epoch"] - best["epoch"] >= study.patience:
            raise StopIteration

    options = {"maxiter": study.max_epochs, "maxfun": 20 * study.max_epochs, "ftol": 0, "gtol": 0}
    optimize.minimize(objective, start, jac=True, method="L-BFGS-B", callback=after_epoch, options=options)
    table = pd.DataFrame(history, columns=["l2", "epoch", *HISTORY_COLUMNS[-7:-1]])
    return best | {"history": table.assign(kept=table["epoch"] == best["epoch"])}


def _standardised(head, features, rows, chunk=1024):
    """Return rows, each view as one, as the logits take them, (n, n_features) float32, mapped to a nameless file."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    n_views = n_views_of(features)
    shape = (len(rows) * n_views, features.shape[-1])
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            claim_space(file, 4 * shape[0] * shape[1])
            values = np.memmap(file, np.float32, "w+", shape=shape)
    except OSError as error:
        if is_disk_full(error):
            raise SkinTLError(disk_full_message(folder)) from error
        raise
    for i in range(0, len(rows), chunk):
        some = head.standardise(features[rows[i : i + chunk]]).reshape(-1, shape[1])
        values[i * n_views : i * n_views + len(some)] = some
    return values


def val_scores(log_p: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Score predictions of one subset.

    Parameters
    ----------
    log_p
        (n_images, 7) logarithms of probabilities.
    y
        (n_images,) int, the diagnoses.

    Returns
    -------
    dict
        ``loss`` (cross-entropy), ``accuracy`` and ``macro_f1``.
    """
    predicted = log_p.argmax(axis=1)
    confusion = np.bincount(y * len(CLASSES) + predicted, minlength=len(CLASSES) ** 2).reshape(2 * (len(CLASSES),))
    return {
        "loss": -log_p[np.arange(len(y)), y].mean(),
        "accuracy": (predicted == y).mean(),
        "macro_f1": float(confusion_metrics(confusion)[0]["macro_f1"]),
    }


def predict(
    head: Head, features: np.ndarray | Views, rows: np.ndarray, metadata: pd.DataFrame, chunk: int = 1024
) -> pd.DataFrame:
    """Predict some rows.

    Parameters
    ----------
    features
        (n_images, n_features) float32, or `Views`.
    rows
        (n,) int.
    metadata
        One row per row of `features`.

    Returns
    -------
    pandas.DataFrame
        Columns image_id, lesion_id, dx, p_akiec … p_vasc; probabilities in float32.
    """
    parts = [head.probabilities(features[rows[i : i + chunk]]) for i in range(0, len(rows), chunk)]
    return prediction_table(np.concatenate(parts), rows, metadata)


def prediction_table(probabilities: np.ndarray, rows: np.ndarray, metadata: pd.DataFrame) -> pd.DataFrame:
    """Put probabilities, (n, 7) float32, beside the images that stand in some rows of `metadata`, as `predict` does."""
    table = metadata.loc[rows, ["image_id", "lesion_id", "dx"]].reset_index(drop=True)
    return table.join(pd.DataFrame(probabilities, columns=[f"p_{name}" for name in CLASSES]))


class NoLog:
    """A log of epochs that writes nothing; `skin_tl.reporting.watching.EpochLog` has the same methods."""

    def __init__(
        self, folder: Path, backbone: str, history: Sequence[dict[str, Any]] = (), confusions: Sequence[list] = ()
    ):
        pass

    def add(self, row: dict[str, Any], confusion: np.ndarray) -> None:
        """Log an epoch."""

    def close(self) -> None:
        """End the log."""


@dataclass(frozen=True)
class Job:
    """One backbone to be trained in one strategy.

    Attributes
    ----------
    metadata
        One row per row of the images' pixels.
    weights
        The backbone's entry in what `skin_tl.models.backbones.resolve_weights` returned.
    folder
        Of the run.
    timings
        Seconds by step, filled while it is trained.
    about
        What the record says of the backbone and of what computed, filled likewise: ``n_features`` and what
        `skin_tl.models.features.OF_NETWORK` lists.
    computed
        What `skin_tl.models.features.features_of` said of features that earlier steps computed, by backbone and
        preprocessing, such as ``VGG16_native``; with ``_random`` behind them, those of the control.
    on_epoch
        Called after each epoch of a whole network with its epochs so far, as `last_stage` has them.
    epoch_log
        Makes the log of a whole network's epochs; called as `NoLog` is.
    """

    study: Study
    strategy: str
    backbone: str
    images: ImageSet
    metadata: pd.DataFrame
    weights: dict
    folder: Path
    timings: dict = field(default_factory=dict)
    about: dict = field(default_factory=dict)
    computed: dict = field(default_factory=dict)
    on_epoch: Callable | None = None
    epoch_log: Callable = NoLog

    @cached_property
    def pixels(self) -> np.ndarray:
        """The pixels of all images, mapped once: each further map would count as memory of this process."""
        return self.images.pixels

    def features(self, preprocessing: str, control: bool = False) -> np.ndarray | Views:
        """Return the backbone's features of all images, computed now where no step and no other run did.

        Those of its control are of the same backbone with random weights.  A network that is fine-tuned ends in its
        last stage, and its first head sees one view, whatever the study's frozen backbones give.
        """
        about = self.computed.get(f"{self.backbone}_{preprocessing}{'_random' if control else ''}", {})
        frozen = self.strategy == "feature_extraction"
        kind, views = (self.study.features, self.study.views) if frozen else ("last", 1)
        same = (kind, views) == (self.study.features, self.study.views)  # else their seconds are not those either
        features = kept_features(about, views) if about and same else None
        if features is None:
            weights = {"source": "random"} if control else self.weights
            study = self.study.model_copy(update={"features": kind})
            features, about = features_of(study, self.images, self.backbone, preprocessing, weights, views)
        self.about.update({name: about[name] for name in OF_NETWORK}, n_features=features.shape[-1])
        self.timings[f"features_{'random' if control else preprocessing}_s"] = about["seconds"]
        return features


def without_preprocessing(name: HeadName) -> tuple[str, str, int, float]:
    """Return the name of a head without its preprocessing, which may be another word for the same transform."""
    arm, policy, _, seed, fraction = name
    return arm, policy, seed, fraction


def timing_key(what: str, name: HeadName) -> str:
    """Return under which key the seconds stand that `what`, ``heads`` or ``networks``, of such a name took.

    Those that learn from a part of the training lesions have a key of their own, and so has the control.
    """
    if name[0] == RANDOM_WEIGHTS:
        return f"{what}_random_s"
    return f"{what}_{name[2]}{'' if name[-1] == 1 else '_fractions'}_s"


def last_stage(history: pd.DataFrame) -> pd.DataFrame:
    """Keep the epochs of a run's own arm, on all training lesions, in its last stage: of a network that is fine-tuned,
    not those of its head."""
    own = main_arm(history)
    return own[own["stage"] == own["stage"].iloc[-1]]


def head_file(
    arm: str, policy: str, preprocessing: str, seed: int, train_fraction: float = 1.0, *, ending: str = ".npz"
) -> str:
    """Return the name of a head's file below ``heads/``; with `ending` ``.keras``, of a network's below ``models/``.

    One that learned from a part of the training lesions says so: ``…_10percent.npz``.
    """
    part = "" if train_fraction == 1 else f"_{100 * train_fraction:.10g}percent"
    name = f"{policy}_{preprocessing}_seed{seed}{part}{ending}"
    return name if arm == "main" else f"{arm}_{name}"


def labels_of(metadata: pd.DataFrame) -> np.ndarray:
    """Return each row's diagnosis as an index into `CLASSES`, (n_images,) int64."""
    return class_codes(metadata["dx"])
