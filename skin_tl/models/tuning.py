"""Tuning: training of whole networks, from pretrained or from random weights.

Takes decoded images, their table and the rows of each subset; gives per split policy, preprocessing and seed a trained
network, its history and its predictions on the validation and test subsets.  Batches come from the memory map as
uint8; they are augmented and scaled on the device.  What is drawn by chance depends on the seed, the epoch and the step
alone, and everything else that a run has learned is in one file after each epoch: a run that was killed goes on from
there and ends like one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix
from threadpoolctl import threadpool_limits

from skin_tl.errors import SkinTLError
from skin_tl.files import write_atomically
from skin_tl.models.augmentation import Batches
from skin_tl.models.backbones import import_keras
from skin_tl.models.checkpoints import identity, read_checkpoint, write_checkpoint
from skin_tl.models.devices import is_out_of_memory, on_device, precision_of
from skin_tl.models.features import seen_from
from skin_tl.models.heads import (
    HeadName,
    Job,
    TrainedHead,
    head_file,
    labels_of,
    prediction_table,
    smoothed_val_f1,
    timing_key,
    train_head,
    val_scores,
    without_preprocessing,
)
from skin_tl.models.networks import Network, begin_network, epochs_of
from skin_tl.progress import bar, say
from skin_tl.registry import transform_of
from skin_tl.schema import CLASSES, HEAD
from skin_tl.study import Study, passes_of

if TYPE_CHECKING:
    import keras
    from tqdm import tqdm

keras = import_keras()


class NotANumberError(Exception):
    """The loss is NaN, which ends the training: a message, and the seconds that the training took."""

    def __init__(self, message: str, seconds: float):
        super().__init__(message)
        self.seconds = seconds


class Watch(keras.callbacks.Callback):
    """Move a bar, and stop at the first step whose loss is NaN; the device waits for neither."""

    def __init__(self, shown: tqdm):
        super().__init__()
        self.shown, self.bad, self.async_safe = shown, math.inf, True

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.shown.update()
        if not math.isfinite((logs or {})["loss"]):  # the mean so far: once it is NaN, it stays so
            self.bad = min(self.bad, batch + 1)
            self.model.stop_training = True


def predict_rows(whole: keras.Model, pixels: np.ndarray, rows: np.ndarray, batch: int, views: int = 1) -> np.ndarray:
    """Predict images, (n, 7) float32.

    Parameters
    ----------
    whole
        From pixels to probabilities.
    pixels
        (n_images, size, size, 3) uint8.
    rows
        Rows of `pixels`.
    batch
        Images per forward pass.
    views : {1, 2, 4, 8}
        Over how many of `skin_tl.models.features.VIEWS` the probabilities are averaged.
    """
    probabilities = np.zeros((len(rows), len(CLASSES)), np.float32)
    for first in range(0, len(rows), batch):
        images = np.asarray(pixels[rows[first : first + batch]])
        n = len(images)
        images = np.concatenate([images, np.zeros((batch - n, *images.shape[1:]), np.uint8)])  # one shape, one graph
        for view in range(views):
            values = whole.predict_on_batch(np.ascontiguousarray(seen_from(images, view)))
            probabilities[first : first + n] += keras.ops.convert_to_numpy(values)[:n] / views
    return probabilities


def predict_whole(
    study: Study, strategy: str, whole: keras.Model, pixels: np.ndarray, rows: np.ndarray, metadata: pd.DataFrame
) -> pd.DataFrame:
    """Predict some images as the study asks for it; the same table as from `skin_tl.models.heads.predict`."""
    chances = predict_rows(whole, pixels, rows, study.batch, study.n_views(strategy))
    return prediction_table(chances, rows, metadata)


def read_network(run: Path, *name: Any) -> keras.Model:
    """Read one of a run's networks below ``models/`` by its name, see `skin_tl.models.heads.head_file`.

    Raises
    ------
    SkinTLError
        If it is missing or damaged.
    """
    file = run / "models" / head_file(*name, ending=".keras")
    try:
        return keras.models.load_model(file, compile=False)
    except (OSError, ValueError) as error:
        raise SkinTLError(
            f"{file} cannot be read ({str(error).splitlines()[0]}). Delete {run / 'run.json'} and start again: that "
            "trains it again."
        ) from None


@contextlib.contextmanager
def enough_memory(job: Job) -> Iterator[None]:
    """Turn running out of the device's memory into advice."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        batch, folder = job.study.batch, job.folder / "checkpoints"
        advice = f"Try `batch: {batch // 2}`" if batch > 1 else "Try a smaller `image_size`"
        # Networks that were trained before, or in part, go on with their own batch alone.
        advice += f", and delete {folder}: what is in it belongs to batches of {batch}" if any(folder.glob("*")) else ""
        raise SkinTLError(f"The device has not enough memory for batches of {batch} images. {advice}.") from None


def train_networks(job: Job, due: dict[HeadName, dict[str, np.ndarray]]) -> Iterator[TrainedHead]:
    """Train whole networks; save each below models/.

    Parameters
    ----------
    job
        What is trained.
    due
        Rows of each subset by network.

    Raises
    ------
    SkinTLError
        If the device is not there or has too little memory, a batch is larger than a training subset, a loss is
        NaN, or a checkpoint belongs to something else.
    """
    for (_, policy, _, seed, fraction), rows in due.items():
        if job.study.batch > len(rows["train"]):
            part = "" if fraction == 1 else f", {100 * fraction:.10g} % of its lesions"
            raise SkinTLError(
                f"`batch: {job.study.batch}` is larger than the training subset, {len(rows['train'])} images (split by "
                f"{policy}, seed {seed}{part}). Lower it{', or leave this fraction out' if part else ''}."
            )
    trained, models = {}, job.folder / "models"
    sames = {name: (transform_of(job.backbone, name[2]), *without_preprocessing(name)) for name in due}
    left = Counter(sames.values())
    job.about.update(batch=job.study.batch, precision=precision_of(job.study))
    with on_device(job.study), enough_memory(job):
        for name, rows in due.items():
            same = sames[name]
            if same not in trained:  # two names for one computation share its result
                whole, history, tried, seconds = train_at_best_rate(job, name, rows)
                given = job.study, job.strategy, whole, job.pixels
                predict_whole(*given, rows["val"][:1], job.metadata)  # compiles it
                clock = time.perf_counter()
                tables = {subset: predict_whole(*given, rows[subset], job.metadata) for subset in ("val", "test")}
                if name == next(iter(due)):
                    n_images = sum(len(table) for table in tables.values())
                    job.about["images_per_second"] = round(n_images / (time.perf_counter() - clock), 1)
                key = timing_key("networks", name)
                job.timings[key] = round(job.timings.get(key, 0) + seconds, 3)
                trained[same] = whole, history, tables, tried
            whole, history, tables, tried = trained[same]
            job.about.setdefault("rates", []).extend({**dict(zip(HEAD, name, strict=True)), **rate} for rate in tried)
            with write_atomically(models / head_file(*name, ending=".keras")) as partial:
                whole.save(partial)
            yield name, history, tables
            left[same] -= 1
            if not left[same]:
                del whole, trained[same]


def train_at_best_rate(
    job: Job, name: HeadName, rows: dict[str, np.ndarray]
) -> tuple[keras.Model, pd.DataFrame, list[dict[str, Any]], float]:
    """Train one network with each learning rate of its strategy, one after the other.

    The validation subset chooses the rate as it chooses the epoch, by macro F1 averaged over the last epochs.

    Parameters
    ----------
    job, name, rows
        As for `train_network`.

    Returns
    -------
    whole
        The best one's, see `Network`.
    history
        The best one's, see `train_network`.
    tried
        For each rate: rate, val_macro_f1 (the highest that was reached) and epochs, None where the loss was NaN,
        and kept (whether it is the best).
    seconds
        Of all together.

    Raises
    ------
    SkinTLError
        If the loss of each was NaN.
    """
    rates, seconds = job.study.rates(job.strategy), 0.0
    best: tuple[dict[str, Any], keras.Model, pd.DataFrame] | None = None
    tried: list[dict[str, Any]] = []
    for rate in rates:
        row: dict[str, Any] = {"rate": rate, "val_macro_f1": None, "epochs": None, "kept": False}
        tried.append(row)
        try:
            network, history, progress = train_network(_with_rate(job, rate), name, rows, len(rates) > 1)
        except NotANumberError as error:
            if rate == rates[-1] and best is None:
                all_of_them = f" So it was with all of {', '.join(f'{r:g}' for r in rates)}." if len(rates) > 1 else ""
                raise SkinTLError(f"{error}{all_of_them}") from None
            say(f"  note: {job.backbone}, seed {name[3]}, rate {rate:g}: the loss is not a number. This rate is out.")
            seconds += error.seconds
            continue
        seconds += progress["seconds"]
        row |= {"val_macro_f1": progress["best"]["macro_f1"], "epochs": int((history["stage"] == job.strategy).sum())}
        if best is None or row["val_macro_f1"] > best[0]["val_macro_f1"]:
            best = row, network.whole, history
        del network
        gc.collect()  # it holds its optimizer's state, on a GPU too
    assert best is not None  # else the last rate has raised
    best[0]["kept"] = True
    return best[1], best[2], tried, seconds


def _name_of(job: Job, name: HeadName, of_several: bool) -> str:
    """Return what a network's checkpoint and log are named by: by its learning rate too, where it is one of several."""
    (rate,) = job.study.rates(job.strategy)
    return Path(head_file(*name)).stem + (f"_rate{rate:g}" if of_several else "")


def _checkpoint_file(job: Job, name: HeadName, of_several: bool) -> Path:
    return job.folder / "checkpoints" / f"{_name_of(job, name, of_several)}.npz"


def _with_rate(job: Job, rate: float) -> Job:
    return dataclasses.replace(job, study=job.study.model_copy(update={f"{job.strategy}_rate": [rate]}))


def train_network(
    job: Job, name: HeadName, rows: dict[str, np.ndarray], of_several: bool = False
) -> tuple[Network, pd.DataFrame, dict[str, Any]]:
    """Train one network, or go on where its checkpoint ends.

    Macro F1 of the validation subset, averaged over the last epochs as for heads, chooses the epoch whose weights are
    kept, and stops the training where it has not risen for `tuning_patience` epochs.

    Parameters
    ----------
    job
        Its study lists one learning rate.
    name
        See `HeadName`.
    rows
        Rows of the images by subset; 'test' is not looked at.
    of_several
        Whether it is trained with other learning rates too.

    Returns
    -------
    network
        With the weights of the best epoch.
    history
        Columns of ``history.csv`` without those of the arm; of `fine_tuning`, the head's epochs come first.
    progress
        See `write_checkpoint`.
    """
    training = _Training(job, name, rows, of_several)
    training.run()
    training.network.set_weights(training.best)
    return training.network, training.history(), training.progress


class _Training:
    """The training of one network: the network, the weights of its best epoch, and its progress."""

    def __init__(self, job: Job, name: HeadName, rows: dict[str, np.ndarray], of_several: bool):
        self.job, self.name, self.rows = job, name, rows
        self.run_name, self.file = _name_of(job, name, of_several), _checkpoint_file(job, name, of_several)
        self.labels, self.about = labels_of(job.metadata), identity(job, name, rows)
        self.shown_rows = np.tile(rows["train"], passes_of(name[-1]))
        self.n_steps = len(self.shown_rows) // job.study.batch
        saved = read_checkpoint(self.file, self.about)
        head, of_head, seconds = None, [], 0.0
        if job.strategy == "fine_tuning" and not saved:
            features = job.features(name[2])
            clock = time.perf_counter()
            with threadpool_limits(1, "blas"):
                head, history = train_head(features, self.labels, rows, job.study)
            seconds = time.perf_counter() - clock
            of_head = history.assign(stage="head").to_dict("records")
        self.network = begin_network(job, name, rows, self.shown_rows, head)
        self.best = self.network.weights()
        self.progress: dict[str, Any] = {"history": of_head, "confusions": [], "seconds": seconds}
        self.progress |= {"best": {"epoch": 0, "macro_f1": -1.0}, "done": False}
        if saved:
            state, self.best, self.progress = saved
            self.network.restore(state)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The network's own epochs so far, without those of its head."""
        return [row for row in self.progress["history"] if row["stage"] != "head"]

    def run(self) -> None:
        """Train the epochs that are left; keep a checkpoint after each."""
        job, (_, _, _, seed, fraction) = self.job, self.name
        n_epochs, done = epochs_of(job.study, job.strategy), len(self.epochs)
        what = f"{job.backbone}, seed {seed}" + ("" if fraction == 1 else f", {100 * fraction:.10g} % of the lesions")
        what += f", rate {job.study.rates(job.strategy)[0]:g}" if "_rate" in self.run_name else ""
        if done and not self.progress["done"]:
            say(f"  {what}: going on after epoch {done}.")
        folder = job.folder / "tensorboard" / self.run_name
        log = job.epoch_log(folder, job.backbone, self.epochs, self.progress["confusions"])
        with contextlib.closing(log), bar(total=n_epochs * self.n_steps, what=what, unit="step") as shown:
            shown.update(done * self.n_steps)
            while not self.progress["done"]:
                clock = time.perf_counter()
                row, confusion, weights = self._train_epoch(len(self.epochs), shown, clock)
                self.progress["history"].append(row)
                self.progress["confusions"].append(confusion.tolist())
                macro_f1 = smoothed_val_f1(self.epochs)
                if macro_f1 > self.progress["best"]["macro_f1"]:
                    self.progress["best"], self.best = {"epoch": row["epoch"], "macro_f1": macro_f1}, weights
                self.progress["seconds"] += time.perf_counter() - clock
                without_rise = row["epoch"] - self.progress["best"]["epoch"]
                self.progress["done"] = row["epoch"] == n_epochs or without_rise >= job.study.tuning_patience
                write_checkpoint(self.file, self.about, self.network.state(), self.best, self.progress)
                log.add(row, confusion)
                if job.on_epoch:
                    rows, best = pd.DataFrame(self.epochs), self.progress["best"]["epoch"]
                    job.on_epoch(rows.assign(kept=rows["epoch"] == best, **dict(zip(HEAD, self.name, strict=True))))

    def _train_epoch(self, epoch: int, shown: tqdm, clock: float) -> tuple[dict, np.ndarray, list[np.ndarray]]:
        """Train an epoch; return its row of the history, the confusion matrix of validation, and the weights after."""
        job, network, val = self.job, self.network, self.rows["val"]
        watch = Watch(shown)
        batches = Batches(job.pixels, self.labels, self.shown_rows, job.study, self.name[3], epoch)
        options = {"callbacks": [watch], "shuffle": False, "verbose": 0}
        with network.mixed_precision():
            fitted = network.training.fit(batches, epochs=epoch + 1, initial_epoch=epoch, **options).history
        if watch.bad < math.inf:
            self._stop_for_nan(epoch + 1, int(watch.bad), clock)
        with network.with_averages():
            probabilities = predict_rows(network.whole, job.pixels, val, job.study.batch)
            weights = network.weights()
        if not np.isfinite(probabilities).all():  # after the last step, whose loss was computed before
            self._stop_for_nan(epoch + 1, self.n_steps, clock)
        row = {"stage": job.strategy, "l2": None, "epoch": epoch + 1, "loss": float(fitted["cross_entropy"][-1])}
        row |= {key: float(fitted[key][-1]) for key in ("accuracy", "macro_f1")}
        log_p = np.log(np.maximum(probabilities.astype(np.float64), 1e-12))
        row |= {f"val_{key}": float(value) for key, value in val_scores(log_p, self.labels[val]).items()}
        predicted = probabilities.argmax(axis=1)
        return row, confusion_matrix(self.labels[val], predicted, labels=np.arange(len(CLASSES))), weights

    def history(self) -> pd.DataFrame:
        """Return the history as `train_network` does."""
        history = pd.DataFrame(self.progress["history"])
        own = history["stage"] == self.job.strategy
        kept = own & (history["epoch"] == self.progress["best"]["epoch"])
        history["kept"] = kept if "kept" not in history else history["kept"].where(~own, kept).astype(bool)
        return history.assign(l2=history["l2"].astype(float))

    def _stop_for_nan(self, epoch: int, step: int, clock: float) -> NoReturn:
        """Keep the last good weights, remove the checkpoint, and raise `NotANumberError`, which says what to lower."""
        job, good = self.job, self.progress["best"]["epoch"]
        self.network.set_weights(self.best)
        file = job.folder / "last_good" / head_file(*self.name, ending=".keras")
        with write_atomically(file) as part:
            self.network.whole.save(part)
        self.file.unlink(missing_ok=True)
        folder, (rate,) = self.file.parent, job.study.rates(job.strategy)
        kept = f"those of epoch {good}, the best so far" if good else "those that it began with"
        again = f"delete {folder}, whose networks had the old value, and " if any(folder.glob("*")) else ""
        raise NotANumberError(
            f"{job.backbone}, {job.strategy}, seed {self.name[3]}: the loss is not a number at step {step} of epoch "
            f"{epoch}. Lower `{job.strategy}_rate` ({rate:g}) or `clip_norm` ({job.study.clip_norm:g}), and {again}"
            f"start again. The last good weights, {kept}, are in {file}.",
            self.progress["seconds"] + time.perf_counter() - clock,
        )
