"""Training: heads on a frozen backbone's features.

Takes features, the metadata and the splits; gives per split policy, preprocessing and seed a trained head, its history
and its predictions on the validation and test subsets, and writes them as one run.
"""

import importlib.metadata
import itertools
import os
import platform
import subprocess
import time
from datetime import UTC, datetime

import keras
import numpy as np
import pandas as pd

from skin_tl.backbones import build_backbone, count_parameters, transform_of
from skin_tl.features import extract
from skin_tl.files import ROOT, write_atomically, write_csv, write_json
from skin_tl.progress import bar
from skin_tl.splits import split_fingerprints, subset_rows
from skin_tl.study import CLASSES

PREDICTION_COLUMNS = ["dataset", "arm", "train_fraction", "split_policy", "preprocessing", "seed", "subset"]
PREDICTION_COLUMNS += ["image_id", "lesion_id", "dx", *(f"p_{name}" for name in CLASSES)]
HISTORY_COLUMNS = ["arm", "train_fraction", "split_policy", "preprocessing", "seed", "stage", "epoch"]
HISTORY_COLUMNS += ["loss", "accuracy", "macro_f1", "val_loss", "val_accuracy", "val_macro_f1"]
PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "scikit-learn", "pandas", "pillow", "skin-tl")


class FeatureBatches(keras.utils.PyDataset):
    """Batches of features read from a memory map, shuffled anew each epoch by its own generator.

    Parameters
    ----------
    features : numpy.ndarray
        (n_images, n_features) float32, may be memory-mapped.
    rows : numpy.ndarray
        (n,) int, which rows take part.
    labels : numpy.ndarray
        (n_images,) int, index into `CLASSES`.
    batch_size : int
    rng : numpy.random.Generator or None
        None keeps the order.
    """

    def __init__(self, features, rows, labels, batch_size, rng=None):
        super().__init__()
        self._features, self._rows, self._labels = features, np.asarray(rows), labels
        self._batch_size, self._rng = batch_size, rng
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self._rows) // self._batch_size)

    def __getitem__(self, index):
        rows = np.sort(self._order[index * self._batch_size : (index + 1) * self._batch_size])
        return self._features[rows], np.eye(len(CLASSES), dtype=np.float32)[self._labels[rows]]

    def on_epoch_end(self):
        self._order = self._rows if self._rng is None else self._rng.permutation(self._rows)


def build_head(features, rows, dropout):
    """Build the head: standardisation by the training subset, dropout, dense softmax.

    The features of a network are of any scale (an untrained deep one's are many orders of magnitude below 1), so
    they are centred and divided by their spread in the training subset: each by its own, but by no less than the
    typical one (root mean square over features), lest a feature that is almost always zero be blown up to outliers.
    The dense layer starts from zero: its problem is convex, and random weights on thousands of features would only
    have to be unlearned.

    Parameters
    ----------
    features : numpy.ndarray
        (n_images, n_features) float32.
    rows : numpy.ndarray
        Rows of the training subset: nothing else is looked at.
    dropout : float
        0 ≤ dropout < 1.

    Returns
    -------
    keras.Model
        From (n, n_features) float32 to (n, 7) probabilities in the order of `CLASSES`.
    """
    mean, deviation = _spread(features, rows)
    typical = float(np.sqrt(np.square(deviation).mean())) or 1.0
    deviation = np.maximum(deviation, typical)
    return keras.Sequential(
        [
            keras.Input((features.shape[1],), name="features"),
            keras.layers.Rescaling(1 / typical, name="typical_spread"),
            keras.layers.Normalization(
                mean=mean / typical, variance=np.square(deviation / typical), name="standardisation"
            ),
            keras.layers.Dropout(dropout, name="dropout"),
            keras.layers.Dense(len(CLASSES), "softmax", kernel_initializer="zeros", name="diagnosis"),
        ],
        name="head",
    )


def _spread(features, rows, chunk=4096):
    """Return the mean and standard deviation of each feature over some rows, (n_features,) float64, in two passes."""
    mean = sum(features[rows[i : i + chunk]].astype(np.float64).sum(0) for i in range(0, len(rows), chunk)) / len(rows)
    squares = (
        np.square(features[rows[i : i + chunk]].astype(np.float64) - mean).sum(0) for i in range(0, len(rows), chunk)
    )
    return mean, np.sqrt(sum(squares) / len(rows))


def train_head(features, labels, rows, seed, study):
    """Train one head with early stopping on validation macro F1; the weights of the best epoch are kept.

    Macro F1 and not the loss: nevi make up two thirds of the images, and the loss is lowest long before the rare
    diagnoses are told apart.

    Parameters
    ----------
    features : numpy.ndarray
        (n_images, n_features) float32.
    labels : numpy.ndarray
        (n_images,) int.
    rows : dict
        Rows of `features`, (n,) int each, by subset; only 'train' and 'val' are looked at.
    seed : int
        Fixes the initial weights, dropout and the order of batches.
    study : skin_tl.study.Study
        Its dropout, learning_rate, batch_size, max_epochs and patience are used.

    Returns
    -------
    head : keras.Model
    history : pandas.DataFrame
        Columns epoch (from 1), loss, accuracy, macro_f1 and the same with `val_`.
    """
    keras.utils.set_random_seed(seed)
    head = build_head(features, rows["train"], study.dropout)
    head.compile(
        keras.optimizers.Adam(study.learning_rate),
        "categorical_crossentropy",
        metrics=["accuracy", keras.metrics.F1Score("macro", name="macro_f1")],
    )
    batches = FeatureBatches(features, rows["train"], labels, study.batch_size, np.random.default_rng(seed))
    fitted = head.fit(
        batches,
        validation_data=FeatureBatches(features, rows["val"], labels, 1024),
        epochs=study.max_epochs,
        callbacks=[
            keras.callbacks.EarlyStopping(
                "val_macro_f1", mode="max", patience=study.patience, restore_best_weights=True
            )
        ],
        verbose=0,
    )
    history = pd.DataFrame(fitted.history)
    history.insert(0, "epoch", range(1, len(history) + 1))
    return head, history


def predict(head, features, rows, metadata, chunk=1024):
    """Predict some rows.

    Parameters
    ----------
    head : keras.Model
    features : numpy.ndarray
        (n_images, n_features) float32.
    rows : numpy.ndarray
        (n,) int.
    metadata : pandas.DataFrame
        One row per row of `features`.

    Returns
    -------
    pandas.DataFrame
        Columns image_id, lesion_id, dx, p_akiec … p_vasc; probabilities in float32.
    """
    parts = [head.predict_on_batch(features[rows[i : i + chunk]]) for i in range(0, len(rows), chunk)]
    chances = np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])
    table = metadata.loc[rows, ["image_id", "lesion_id", "dx"]].reset_index(drop=True)
    return table.join(pd.DataFrame(chances, columns=[f"p_{name}" for name in CLASSES]))


def train_run(study, strategy, backbone, prepared, folder):
    """Train every head of one backbone and strategy and write the run.

    Parameters
    ----------
    study : skin_tl.study.Study
    strategy : {'feature_extraction'}
    backbone : str
    prepared : skin_tl.runs.Prepared
        The checked table, the splits, the decoded images and the source of weights.
    folder : pathlib.Path
        Gets heads/, model.keras, history.csv, predictions.csv and run.json, in this order.

    Returns
    -------
    predictions, history : pandas.DataFrame
        As written.
    """
    started = datetime.now(UTC)
    metadata = prepared.metadata.set_index("image_id").loc[prepared.images.ids].reset_index()
    weights = prepared.weights["backbones"][backbone]
    predictions, histories, timings, n_parameters = [], [], {}, None
    trained = {}
    n_heads = len(study.preprocessings) * len(study.split_policies) * len(study.seeds)
    with bar(total=n_heads, what=f"training {backbone}", unit="head") as shown:
        for preprocessing in study.preprocessings:
            model = build_backbone(backbone, preprocessing, study.image_size, weights)
            features, about = extract(prepared.images, backbone, preprocessing, model)
            n_parameters, n_features = model.count_params(), features.shape[1]
            timings[f"features_{preprocessing}_s"] = about["seconds"]
            clock = time.perf_counter()
            for policy, seed in itertools.product(study.split_policies, study.seeds):
                rows = subset_rows(prepared.splits, policy, seed, metadata["image_id"])
                same = (transform_of(backbone, preprocessing), policy, seed)
                if same not in trained:  # two names for one computation share its result
                    trained[same] = train_head(features, labels_of(metadata), rows, seed, study)
                head, history = trained[same]
                arm = {"arm": "main", "train_fraction": 1.0, "split_policy": policy}
                arm |= {"preprocessing": preprocessing, "seed": seed}
                histories.append(history.assign(**arm, stage="head")[HISTORY_COLUMNS])
                predictions += [
                    predict(head, features, rows[subset], metadata).assign(dataset="internal", subset=subset, **arm)[
                        PREDICTION_COLUMNS
                    ]
                    for subset in ("val", "test")
                ]
                with write_atomically(folder / "heads" / f"{policy}_{preprocessing}_seed{seed}.weights.h5") as part:
                    head.save_weights(part)
                if shown.n == 0:
                    save_model(model, head, folder / "model.keras")
                shown.update()
            timings[f"heads_{preprocessing}_s"] = round(time.perf_counter() - clock, 3)
    predictions, histories = pd.concat(predictions, ignore_index=True), pd.concat(histories, ignore_index=True)
    write_csv(folder / "history.csv", histories)
    write_csv(folder / "predictions.csv", predictions)
    record = {
        "study": study.name,
        "strategy": strategy,
        "backbone": backbone,
        "parameters": study.model_dump(),
        "n_parameters": n_parameters,
        "n_features": n_features,
        "n_parameters_with_classifier": count_parameters(backbone)[1],
        "weights": weights,
        "random_weights": prepared.weights["source"] == "random",
        "synthetic_data": study.synthetic,
        "git_commit": git_commit(),
        "data_fingerprint": prepared.images.key,
        "split_fingerprints": split_fingerprints(prepared.splits),
        "versions": versions(),
        "device": device(),
        "timings": timings,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / "run.json", record)
    return predictions, histories


def labels_of(metadata):
    """Return each row's diagnosis as an index into `CLASSES`, (n_images,) int64."""
    return pd.Categorical(metadata["dx"], categories=CLASSES).codes.astype(np.int64)


def save_model(backbone_model, head, path):
    """Write backbone and head as one model from raw pixels to probabilities, made of Keras's own layers alone."""
    whole = keras.Model(backbone_model.input, head(backbone_model.output), name=backbone_model.name)
    with write_atomically(path) as part:
        whole.save(part)


def git_commit():
    """Return the project's commit, with ``-dirty`` where tracked files differ, or ``unknown`` outside git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions():
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device():
    """Return what the arithmetic ran on, for people: backend, kind of device, cores."""
    import keras.distribution

    devices = keras.distribution.list_devices() or ["cpu"]
    return f"{keras.backend.backend()} on {', '.join(devices)} ({platform.machine()}, {os.cpu_count()} cores)"
