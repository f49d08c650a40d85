"""Tuning: whole networks that learn from images, from transferred or from random weights.

Takes decoded images, their table and the rows of each subset; gives per split policy, preprocessing and seed a trained
network, its history and its predictions on the validation and test subsets.  Batches come from the memory map as
uint8; they are augmented and scaled on the device.  What is drawn by chance depends on the seed, the epoch and the step
alone, and everything else that a run has learned is in one file after each epoch: a run that was killed goes on from
there and ends like one that was not.
"""

import contextlib
import dataclasses
import gc
import math
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix
from threadpoolctl import threadpool_limits

from skin_tl.errors import SkinTLError
from skin_tl.files import read_json, write_atomically, write_json
from skin_tl.models.augmentation import (
    Batches,
)
from skin_tl.models.backbones import import_keras
from skin_tl.models.checkpoints import OUT, identity, read_checkpoint, write_checkpoint
from skin_tl.models.devices import is_out_of_memory, on_device, precision_of
from skin_tl.models.heads import (
    head_file,
    labels_of,
    prediction_table,
    smoothed_val_f1,
    timing_key,
    train_head,
    val_scores,
    without_preprocessing,
)
from skin_tl.models.networks import (
    begin_network,
    epochs_of,
)
from skin_tl.progress import bar, say
from skin_tl.registry import transform_of
from skin_tl.schema import CLASSES, HEAD
from skin_tl.study import passes_of

keras = import_keras()
ops = keras.ops


# --- Training ---------------------------------------------------------------------------------------------------------


class NotANumberError(Exception):
    """The loss is NaN, which ends the training: a message, and the seconds that the training took."""

    def __init__(self, words, seconds):
        super().__init__(words)
        self.seconds = seconds


class Watch(keras.callbacks.Callback):
    """Move a bar, and stop at the first step whose loss is NaN; the device waits for neither."""

    def __init__(self, shown):
        super().__init__()
        self.shown, self.bad, self.async_safe = shown, math.inf, True

    def on_train_batch_end(self, batch, logs=None):
        self.shown.update()
        if not math.isfinite(logs["loss"]):  # the mean so far: once it is no number, it stays so
            self.bad = min(self.bad, batch + 1)
            self.model.stop_training = True


def predict_rows(whole, pixels, rows, batch, views=1):
    """Predict images, (n, 7) float32.

    Parameters
    ----------
    whole : keras.Model
    pixels : numpy.ndarray
        (n_images, size, size, 3) uint8.
    rows : numpy.ndarray
    batch : int
    views : {1, 8}
        8 averages the probabilities over all flips and right-angle rotations.
    """
    chances = np.zeros((len(rows), len(CLASSES)), np.float32)
    for first in range(0, len(rows), batch):
        images = np.asarray(pixels[rows[first : first + batch]])
        n = len(images)
        images = np.concatenate([images, np.zeros((batch - n, *images.shape[1:]), np.uint8)])  # one shape, one graph
        for view in range(views):
            turned = np.rot90(images[:, :, ::-1] if view > 3 else images, view % 4, axes=(1, 2))
            values = whole.predict_on_batch(np.ascontiguousarray(turned))
            chances[first : first + n] += ops.convert_to_numpy(values)[:n] / views
    return chances


def predict_whole(study, whole, pixels, rows, metadata):
    """Predict some images as the study asks for it; the same table as from `skin_tl.models.heads.predict`."""
    views = 8 if study.test_time_augmentation else 1
    return prediction_table(predict_rows(whole, pixels, rows, study.batch, views), rows, metadata)


@contextlib.contextmanager
def enough_memory(job):
    """Turn running out of the device's memory into advice.

    Parameters
    ----------
    job : skin_tl.models.heads.Job
    """
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


def train_networks(job, due):
    """Train whole networks; save each below models/, and the first as model.keras too.

    Parameters
    ----------
    job : skin_tl.models.heads.Job
    due : dict
        Rows of each subset by (arm, split policy, preprocessing, seed, train fraction).

    Yields
    ------
    name, history, tables
        As `skin_tl.models.training.train_run` takes them.

    Raises
    ------
    SkinTLError
        If the device is not there or has too little memory, a batch is larger than a training subset, a loss is no
        number, or a checkpoint belongs to something else.
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
    job.sizes.update(batch=job.study.batch, precision=precision_of(job.study))
    with on_device(job.study), enough_memory(job):
        for name, rows in due.items():
            same = sames[name]
            if same not in trained:  # two names for one computation share its result
                whole, history, tried, seconds = train_at_best_rate(job, name, rows)
                predict_whole(job.study, whole, job.images.pixels, rows["val"][:1], job.metadata)  # compiles it
                clock = time.perf_counter()
                tables = {
                    subset: predict_whole(job.study, whole, job.images.pixels, rows[subset], job.metadata)
                    for subset in ("val", "test")
                }
                if name == next(iter(due)):
                    n_images = sum(len(table) for table in tables.values())
                    job.sizes["images_per_second"] = round(n_images / (time.perf_counter() - clock), 1)
                key = timing_key("networks", name)
                job.timings[key] = round(job.timings.get(key, 0) + seconds, 3)
                trained[same] = whole, history, tables, tried
            whole, history, tables, tried = trained[same]
            job.sizes.setdefault("rates", []).extend({**dict(zip(HEAD, name, strict=True)), **rate} for rate in tried)
            for file in (models / head_file(*name), *([job.folder / "model.keras"] if name == next(iter(due)) else [])):
                with write_atomically(file) as part:
                    whole.save(part)
            yield name, history, tables
            left[same] -= 1
            if not left[same]:
                del whole, trained[same]


def train_at_best_rate(job, name, rows):
    """Train one network with each learning rate of its strategy, one after the other.

    The validation subset chooses the rate as it chooses the epoch, by macro F1 averaged over the last epochs.

    Parameters
    ----------
    job, name, rows
        As for `train_network`.

    Returns
    -------
    whole : keras.Model
        The best one's, see `Network`.
    history : pandas.DataFrame
        The best one's, see `train_network`.
    tried : list of dict
        For each rate: rate, val_macro_f1 (the highest that was reached) and epochs, None where the loss was NaN,
        and kept (whether it is the best).
    seconds : float
        Of all together.

    Raises
    ------
    SkinTLError
        If the loss of each was no number.
    """
    rates, best, tried, seconds = job.study.rates(job.strategy), None, [], 0.0
    for rate in rates:
        row = {"rate": rate, "val_macro_f1": None, "epochs": None, "kept": False}
        tried.append(row)
        mine = _with_rate(job, rate)
        out = _checkpoint_file(mine, name, len(rates) > 1).with_suffix(OUT)
        about = identity(mine, name, rows)
        if out.is_file() and (known := read_json(out))["about"] == about and not (rate == rates[-1] and best is None):
            seconds += known["seconds"]  # an earlier start has seen it
            continue
        try:
            network, history, progress = train_network(mine, name, rows, len(rates) > 1)
        except NotANumberError as error:
            if rate == rates[-1] and best is None:
                all_of_them = f" So it was with all of {', '.join(f'{r:g}' for r in rates)}." if len(rates) > 1 else ""
                raise SkinTLError(f"{error}{all_of_them}") from None
            say(f"  note: {job.backbone}, seed {name[3]}, rate {rate:g}: the loss is not a number. This rate is out.")
            seconds += error.seconds
            write_json(out, {"about": about, "seconds": error.seconds})
            continue
        seconds += progress["seconds"]
        row |= {"val_macro_f1": progress["best"]["macro_f1"], "epochs": int((history["stage"] == job.strategy).sum())}
        if best is None or row["val_macro_f1"] > best[0]["val_macro_f1"]:
            best = row, network.whole, history
        del network
        gc.collect()  # it holds its optimizer's state, on a GPU too
    best[0]["kept"] = True
    return *best[1:], tried, seconds


def _name_of(job, name, of_several):
    """Return what a network's checkpoint and log are named by: by its learning rate too, where it is one of several."""
    (rate,) = job.study.rates(job.strategy)
    return Path(head_file(*name)).stem + (f"_rate{rate:g}" if of_several else "")


def _checkpoint_file(job, name, of_several):
    return job.folder / "checkpoints" / f"{_name_of(job, name, of_several)}.npz"


def train_network(job, name, rows, of_several=False):
    """Train one network, or go on where its checkpoint ends.

    Macro F1 of the validation subset, averaged over the last epochs as for heads, chooses the epoch whose weights are
    kept, and stops the training where it has not risen for `tuning_patience` epochs.

    Parameters
    ----------
    job : skin_tl.models.heads.Job
        Its study lists one learning rate.
    name : tuple
        (arm, split policy, preprocessing, seed, train fraction).
    rows : dict
        Rows of the images by subset; 'test' is not looked at.
    of_several : bool
        Whether it is trained with other learning rates too.

    Returns
    -------
    network : Network
        With the weights of the best epoch.
    history : pandas.DataFrame
        Columns of ``history.csv`` without those of the arm; of `fine_tuning`, the head's epochs come first.
    progress : dict
        See `write_checkpoint`.
    """
    study, labels, pixels = job.study, labels_of(job.metadata), job.images.pixels
    _, _, _, seed, fraction = name
    file, about = _checkpoint_file(job, name, of_several), identity(job, name, rows)
    saved = read_checkpoint(file, about)
    head, first, seconds = None, [], 0.0
    if job.strategy == "fine_tuning" and not saved:
        _, features = job.features(name[2])
        clock = time.perf_counter()
        with threadpool_limits(1, "blas"):
            head, history = train_head(features, labels, rows, study)
        seconds = time.perf_counter() - clock
        first = history.assign(stage="head").to_dict("records")
    shown_rows = np.tile(rows["train"], passes_of(fraction))
    network = begin_network(job, name, rows, shown_rows, head)
    progress = {"history": first, "confusions": [], "best": {"epoch": 0, "macro_f1": -1.0}, "seconds": seconds}
    progress["done"] = False
    best = network.weights()
    if saved:
        state, best, progress = saved
        network.restore(state)
    steps, before = len(shown_rows) // study.batch, sum(row["stage"] == "head" for row in progress["history"])
    epochs, done = epochs_of(study, job.strategy), len(progress["history"]) - before
    what = f"{job.backbone}, seed {seed}" + ("" if fraction == 1 else f", {100 * fraction:.10g} % of the lesions")
    what += f", rate {study.rates(job.strategy)[0]:g}" if of_several else ""
    if done and not progress["done"]:
        say(f"  {what}: going on after epoch {done}.")
    logs = job.folder / "tensorboard" / _name_of(job, name, of_several)
    log = job.epoch_log(logs, job.backbone, progress["history"][before:], progress["confusions"])
    with contextlib.closing(log), bar(total=epochs * steps, what=what, unit="step") as shown:
        shown.update(done * steps)
        for epoch in range(done, 0 if progress["done"] else epochs):
            clock, watch = time.perf_counter(), Watch(shown)
            batches = Batches(pixels, labels, shown_rows, study, seed, epoch)
            options = {"callbacks": [watch], "shuffle": False, "verbose": 0}
            with network.mixed_precision():
                told = network.training.fit(batches, epochs=epoch + 1, initial_epoch=epoch, **options).history
            if watch.bad < math.inf:
                _stop_at(job, name, network, best, progress, file, (epoch + 1, watch.bad), clock)
            with network.with_averages():
                chances = predict_rows(network.whole, pixels, rows["val"], study.batch)
                weights = network.weights()
            if not np.isfinite(chances).all():  # the last step broke the weights: no loss has told of it
                _stop_at(job, name, network, best, progress, file, (epoch + 1, steps), clock)
            row = {"stage": job.strategy, "l2": None, "epoch": epoch + 1, "loss": float(told["cross_entropy"][-1])}
            row |= {key: float(told[key][-1]) for key in ("accuracy", "macro_f1")}
            wanted = labels[rows["val"]]
            log_p = np.log(np.maximum(chances.astype(np.float64), 1e-12))
            row |= {f"val_{key}": float(value) for key, value in val_scores(log_p, wanted).items()}
            progress["history"].append(row)
            confusion = confusion_matrix(wanted, chances.argmax(axis=1), labels=np.arange(len(CLASSES)))
            progress["confusions"].append(confusion.tolist())
            value = smoothed_val_f1(progress["history"][before:])
            if value > progress["best"]["macro_f1"]:
                progress["best"], best = {"epoch": epoch + 1, "macro_f1": value}, weights
            progress["seconds"] += time.perf_counter() - clock
            progress["done"] = epoch + 1 == epochs or epoch + 1 - progress["best"]["epoch"] >= study.tuning_patience
            write_checkpoint(file, about, network.state(), best, progress)
            log.add(row, confusion)
            if job.on_epoch:
                job.on_epoch(_own_epochs(name, progress, before))
            if progress["done"]:
                break
    network.set_weights(best)
    history = pd.DataFrame(progress["history"])
    own = history["stage"] == job.strategy
    kept = own & (history["epoch"] == progress["best"]["epoch"])
    history["kept"] = kept if "kept" not in history else history["kept"].where(~own, kept).astype(bool)
    history["l2"] = history["l2"].astype(float)
    return network, history, progress


def _own_epochs(name, progress, before):
    """Return the epochs of a network so far as a history, without those of its head."""
    rows = pd.DataFrame(progress["history"][before:])
    return rows.assign(kept=rows["epoch"] == progress["best"]["epoch"], **dict(zip(HEAD, name, strict=True)))


def _stop_at(job, name, network, best, progress, checkpoint, where, clock):
    """Keep the last good weights, remove the checkpoint, and say what to lower.

    Raises
    ------
    NotANumberError
    """
    network.set_weights(best)
    file = job.folder / "last_good" / head_file(*name)
    with write_atomically(file) as part:
        network.whole.save(part)
    checkpoint.unlink(missing_ok=True)
    key, (rate,), (epoch, step) = f"{job.strategy}_rate", job.study.rates(job.strategy), where
    good = progress["best"]["epoch"]
    kept = f"those of epoch {good}, the best so far" if good else "those that it began with"
    folder = checkpoint.parent
    again = (
        f"delete {folder}, whose networks had the old value, and "
        if any(file.suffix != OUT for file in folder.glob("*"))
        else ""
    )
    raise NotANumberError(
        f"{job.backbone}, {job.strategy}, seed {name[3]}: the loss is not a number at step {step} of epoch {epoch}. "
        f"Lower `{key}` ({rate:g}) or `clip_norm` ({job.study.clip_norm:g}), and {again}start again. "
        f"The last good weights, {kept}, are in {file}.",
        progress["seconds"] + time.perf_counter() - clock,
    )


def _with_rate(job, rate):
    return dataclasses.replace(job, study=job.study.model_copy(update={f"{job.strategy}_rate": [rate]}))
