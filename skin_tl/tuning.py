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
import importlib.metadata
import json
import math
import os
import re
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix
from threadpoolctl import threadpool_limits

import skin_tl
from skin_tl.backbones import (
    BACKBONES,
    all_layers,
    build_backbone,
    import_keras,
    network_of,
    scale_pixels,
    transform_of,
)
from skin_tl.errors import SkinTLError
from skin_tl.files import fingerprint, read_json, write_atomically, write_json
from skin_tl.progress import bar, say
from skin_tl.step_code import code_hash
from skin_tl.study import CLASSES, SMOOTHED, passes_of
from skin_tl.training import (
    HEAD,
    build_head,
    head_file,
    labels_of,
    prediction_table,
    reached,
    scores,
    timing_key,
    train_head,
    without_preprocessing,
)
from skin_tl.watching import EpochLog

keras = import_keras()
ops = keras.ops

ZOOM, SHIFT = 0.1, 0.05
"""How far images are scaled (factor from 0.9 to 1.1) and shifted (share of their side) at most."""

BRIGHTNESS, CONTRAST, SATURATION = 0.06, 0.15, 0.15
"""How far colours change at most: a share of 255 that is added, and two factors around 1."""

FOCUS = 2.0
"""Exponent of the focal loss (Lin et al., ICCV 2017)."""

OUT = ".out"
"""Ending of the file beside the checkpoints that remembers, of several learning rates, one whose loss was no number."""

PLAIN_MOMENTUM = 0.9
"""Of batch normalisation's running statistics where weights are not averaged; else they are averaged as these are."""

PART_STEPS = 10
"""Steps that an epoch has at least where `batch: auto` meets a learning curve: few large steps would teach little."""

USUAL_BATCH, LARGEST_BATCH = 32, 256
"""Images per step where `batch: auto` has no memory of a GPU to look at, and at most (see `find_batch`)."""


# --- What a step sees -------------------------------------------------------------------------------------------------


def draw_views(n, rng, augment=True):
    """Draw how images are to be changed, (n, 8) float32, one row for each.

    Columns: transposed (0 or 1); scale along height and width, negative where mirrored; shift along both, as a share of
    the side; brightness (added, of 255), contrast and saturation (factors).  Transposing and mirroring at random give
    all eight flips and right-angle rotations alike.  Without `augment`, every row leaves its image as it is.
    """
    views = np.tile(np.float32([0, 1, 1, 0, 0, 0, 1, 1]), (n, 1))
    if augment:
        views[:, 0] = rng.integers(0, 2, n)
        views[:, 1:3] = rng.uniform(1 - ZOOM, 1 + ZOOM, (n, 1)) * rng.choice([-1, 1], (n, 2))
        views[:, 3:5] = rng.uniform(-SHIFT, SHIFT, (n, 2))
        views[:, 5] = rng.uniform(-BRIGHTNESS, BRIGHTNESS, n)
        views[:, 6] = rng.uniform(1 - CONTRAST, 1 + CONTRAST, n)
        views[:, 7] = rng.uniform(1 - SATURATION, 1 + SATURATION, n)
    return views


def augment(pixels, views):
    """Change images as `draw_views` drew it.

    Scale, shift and mirroring are separable, so that they are two products with matrices of interpolation (bilinear;
    what lies beyond an edge is mirrored), which every device computes fast and alike.

    Parameters
    ----------
    pixels : tensor
        (n, size, size, 3) uint8.
    views : tensor
        (n, 8) float32.

    Returns
    -------
    tensor
        (n, size, size, 3) float32 from 0 to 255.
    """
    images, views = ops.cast(pixels, "float32"), ops.cast(views, "float32")
    transposed, down, right, below, beside, brightness, contrast, saturation = ops.split(views, 8, axis=1)
    each = (-1, 1, 1, 1)
    images = ops.where(ops.reshape(transposed, each) > 0.5, ops.transpose(images, (0, 2, 1, 3)), images)
    images = ops.einsum("nij,njwc->niwc", _interpolation(down, below, images.shape[1]), images)
    images = ops.einsum("nij,nhjc->nhic", _interpolation(right, beside, images.shape[2]), images)
    grey = ops.mean(images, axis=3, keepdims=True)
    images = grey + ops.reshape(saturation, each) * (images - grey)
    level = ops.mean(images, axis=(1, 2, 3), keepdims=True)
    images = level + ops.reshape(contrast, each) * (images - level) + 255 * ops.reshape(brightness, each)
    return ops.clip(images, 0, 255)


def _interpolation(scale, shift, size):
    """Return matrices, (n, size, size), whose rows say of which pixels each pixel of the result is made."""
    places, last = ops.arange(size, dtype="float32"), size - 1
    source = last / 2 + (places - last / 2) * scale + size * shift
    source = last - ops.abs(last - ops.abs(source))  # mirrored at both edges
    return ops.maximum(0.0, 1 - ops.abs(ops.expand_dims(source, 2) - places))


class Augmentation(keras.layers.Layer):
    """`augment` as a layer of pixels and views."""

    def call(self, inputs):
        return augment(*inputs)


class Still(keras.layers.Layer):
    """A network whose weights learn while its normalisation and dropout do what they do in prediction.

    A layer of its own, as Keras hands ``training=True`` down to a network that was called with ``training=False``.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    def call(self, images):
        return self.network(images, training=False)


class Batches(keras.utils.PyDataset):
    """The batches of one epoch; which they are depends on seed and epoch alone.

    Parameters
    ----------
    pixels : numpy.ndarray
        (n_images, size, size, 3) uint8, memory-mapped.
    labels : numpy.ndarray
        (n_images,) int.
    rows : numpy.ndarray
        Of the training subset; a row that is there twice is shown twice.
    study : skin_tl.study.Study
    seed, epoch : int
    """

    def __init__(self, pixels, labels, rows, study, seed, epoch):
        super().__init__(workers=min(4, os.cpu_count()), max_queue_size=8)
        self.pixels, self.labels, self.study, self.draw = pixels, labels, study, (seed, epoch)
        counts = np.bincount(labels[rows], minlength=len(CLASSES))
        share = 1 / counts[labels[rows]]
        rng = np.random.default_rng(self.draw)
        balanced = study.imbalance == "balanced_sampling"
        self.order = rng.choice(rows, len(rows), p=share / share.sum()) if balanced else rng.permutation(rows)
        weighted = study.imbalance == "class_weights"
        self.weights = len(rows) / (np.count_nonzero(counts) * np.maximum(counts, 1)) if weighted else np.ones(7)

    def __len__(self):
        return len(self.order) // self.study.batch

    def __getitem__(self, step):
        rows = self.order[step * self.study.batch : (step + 1) * self.study.batch]
        views = draw_views(len(rows), np.random.default_rng((*self.draw, step)), self.study.augment)
        labels = self.labels[rows]
        inputs = {"pixels": np.asarray(self.pixels[rows]), "views": views}
        return inputs, np.eye(len(CLASSES), dtype=np.float32)[labels], self.weights[labels].astype(np.float32)


# --- What it learns from them -----------------------------------------------------------------------------------------


def make_loss(study, counts):
    """Return the loss that a network is trained with, a function of wanted probabilities and logits, both (n, 7).

    Cross-entropy, with the study's label smoothing.  `imbalance` may change it: ``focal`` multiplies it by
    (1 − p)^`FOCUS`, p the probability of the right diagnosis; ``logit_adjusted`` adds the logarithm of each diagnosis's
    share in the training subset to its logit (Menon et al., ICLR 2021).

    Parameters
    ----------
    study : skin_tl.study.Study
    counts : numpy.ndarray
        (7,) training images of each diagnosis.
    """
    prior = np.log(np.maximum(counts, 1) / counts.sum()).astype(np.float32)
    smoothing, kind = study.label_smoothing, study.imbalance

    def loss(wanted, logits):
        logits = ops.cast(logits, "float32")
        log_p = ops.log_softmax(logits + prior if kind == "logit_adjusted" else logits)
        smooth = wanted * (1 - smoothing) + smoothing / len(CLASSES)
        value = -ops.sum(smooth * log_p, axis=-1)
        if kind == "focal":
            value = value * (1 - ops.exp(ops.sum(wanted * log_p, axis=-1))) ** FOCUS
        return value

    return loss


def make_schedule(peak, n_steps, n_warmup):
    """Return the learning rate by step: from 0 to `peak` in a line, then back to 0 along a cosine at `n_steps`."""
    warmup = {"warmup_target": peak, "warmup_steps": n_warmup} if n_warmup else {}
    return keras.optimizers.schedules.CosineDecay(0.0 if n_warmup else peak, n_steps - n_warmup, **warmup)


class AdamW(keras.optimizers.Adam):
    """AdamW whose learning rate, and with it the decay of weights, may differ between variables.

    Parameters
    ----------
    rate
        A learning rate or its schedule.
    shares : list of float
        Of `rate`, one for each variable that it is built with.
    decays : list of float
        How much of a variable decays per step at a learning rate of 1, likewise.
    momentum : float
        Of the weights' moving average; 0 keeps none.
    clip_norm : float
    """

    def __init__(self, rate, shares, decays, momentum, clip_norm):
        averaged = {"use_ema": True, "ema_momentum": momentum} if momentum else {}
        super().__init__(rate, global_clipnorm=clip_norm, **averaged)
        self.shares, self.decays = tuple(shares), tuple(decays)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate, variable.dtype) * self.shares[index]
        if self.decays[index]:
            self.assign_sub(variable, variable * (rate * self.decays[index]))
        super().update_step(gradient, variable, rate)

    def finalize_variable_values(self, var_list):
        """Leave the weights alone at the end of `fit`, which is called for one epoch at a time."""

    @contextlib.contextmanager
    def averaged(self, variables):
        """Put the moving averages in the place of the variables for a while."""
        own = _values(variables)
        # Copies: JAX would let a variable and its average share memory, which predicting gives away.
        _assign(variables, _values(self._model_variables_moving_average))
        try:
            yield
        finally:
            _assign(variables, own)


class Network:
    """A network to be trained: one that gets batches, and the one that is kept, which share their layers.

    Attributes
    ----------
    training : keras.Model
        From ``pixels`` and ``views`` to logits, (n, 7); compiled.
    whole : keras.Model
        From pixels, (n, size, size, 3) uint8, to probabilities, (n, 7); made of Keras's own layers alone.
    """

    def __init__(self, job, preprocessing, seed, head, counts):
        study, tuned = job.study, job.strategy == "fine_tuning"
        # A head was trained on features, so its backbone is that of the features, even if its weights are random.
        own = {} if tuned else {"seed": seed}
        model = build_backbone(job.backbone, preprocessing, study.image_size, job.weights, **own)
        job.sizes.update(n_parameters=model.count_params(), n_features=model.output_shape[-1])
        network = network_of(model)
        keras.utils.set_random_seed(seed)
        before = head.layers[:-1] if tuned else []
        logits = keras.layers.Dense(len(CLASSES), name="diagnosis")
        layers = [*before, logits, keras.layers.Softmax(name="probabilities")]
        part = keras.Sequential([keras.Input(model.output_shape[1:], name="features"), *layers], name="head")
        self.whole = keras.Model(model.input, part(model.output), name=model.name)
        if tuned:
            logits.set_weights(head.layers[-1].get_weights())
        _unfreeze(network, BACKBONES[job.backbone].last_block if tuned and study.unfreeze == "last_block" else None)

        steps = counts.sum() // study.batch
        epochs = _epochs(study, job.strategy)
        momentum = math.exp(-1 / (study.ema_epochs * steps)) if study.ema_epochs else 0.0
        if not tuned:
            for layer in network.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.momentum = momentum or PLAIN_MOMENTUM
        pixels = keras.Input(model.input_shape[1:], dtype="uint8", name="pixels")
        views = keras.Input((8,), dtype="float32", name="views")
        features = scale_pixels(Augmentation()([pixels, views]), job.backbone, preprocessing)
        features = Still(network)(features) if tuned else network(features)
        for layer in before:
            features = layer(features)
        self.training = keras.Model({"pixels": pixels, "views": views}, logits(features))

        variables, head_variables = self.training.trainable_variables, {id(v) for v in logits.trainable_variables}
        shares = [study.backbone_share if tuned and id(v) not in head_variables else 1.0 for v in variables]
        decays = [study.weight_decay if len(v.shape) > 1 else 0.0 for v in variables]
        peak = study.rates(job.strategy)[0]
        n_steps = int(epochs * steps)
        rate = make_schedule(peak, n_steps, min(round(study.warmup_epochs * steps), n_steps - 1))
        self.optimizer = AdamW(rate, shares, decays, momentum, study.clip_norm)
        self.optimizer.build(variables)
        self.has_averages = bool(momentum)
        self.mixed = []
        if precision_of(study) == "bfloat16":
            exact = (keras.Model, keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Normalization)
            self.mixed = [layer for layer in all_layers(network) if not isinstance(layer, exact)]
        metrics = [
            keras.metrics.CategoricalCrossentropy(from_logits=True, name="cross_entropy"),
            keras.metrics.CategoricalAccuracy(name="accuracy"),
            keras.metrics.F1Score(average="macro", name="macro_f1"),
        ]
        self.training.compile(self.optimizer, make_loss(study, counts), metrics=metrics)

    @contextlib.contextmanager
    def in_its_precision(self):
        """Let the network's layers compute for a while as the study asks for it; all else is float32 at any time."""
        for layer in self.mixed:
            layer.dtype_policy = "mixed_bfloat16"  # its weights stay float32
        try:
            yield
        finally:
            for layer in self.mixed:
                layer.dtype_policy = "float32"

    def with_averages(self):
        """Return a context in which the weights are those that predict."""
        if not self.has_averages:
            return contextlib.nullcontext()
        return self.optimizer.averaged(self.training.trainable_variables)

    @property
    def parts(self):
        """All that changes while it is trained, lists of variables by name."""
        return {
            "trainable": self.training.trainable_variables,
            "other": self.training.non_trainable_variables,
            "optimizer": self.optimizer.variables,
        }

    def state(self):
        """Return the values of `parts`, lists of arrays by name."""
        return {name: _values(variables) for name, variables in self.parts.items()}

    def restore(self, state):
        """Put back what `state` returned."""
        for name, variables in self.parts.items():
            _assign(variables, state.get(name, []))

    def weights(self):
        """Return all weights that predictions depend on, list of arrays."""
        return _values(self.whole.weights)

    def set_weights(self, weights):
        """Put back what `weights` returned."""
        _assign(self.whole.weights, weights)


def _values(variables):
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _unfreeze(network, last_block):
    """Let all layers of a network learn, or those alone whose names begin as `last_block` says.

    Raises
    ------
    SkinTLError
        If they are not the end of the network: the message names the layers that are missing.
    """
    network.trainable = True
    if last_block:
        for layer in network.layers:
            layer.trainable = layer.name.startswith(last_block)
        with_weights = [layer for layer in network.layers if layer.weights]
        learns = [layer.trainable for layer in with_weights]
        if not any(learns) or learns[0]:
            problem = f"lets {'all' if learns[0] else 'none'} of its layers learn"
        elif not all(learns[learns.index(True) :]):
            after = with_weights[learns.index(True) :]
            problem = f"leaves out {', '.join(layer.name for layer in after if not layer.trainable)}"
        else:
            return
        raise SkinTLError(
            f"skin_tl/backbones.py: `last_block` {last_block!r} of {network.name} {problem}. It must say how the names "
            "begin of all layers with weights from the last block's first one to the network's end (its `summary()` "
            "lists them), and of none before."
        )


# --- Checkpoints ------------------------------------------------------------------------------------------------------

FORMAT = 4

# As it is when it is imported: what is on disk may change while it runs.
CODE = code_hash("tuning.train_networks")


def identity(job, name, rows):
    """Return what a checkpoint belongs to, dict of dict: settings of the study, the data, versions."""
    settings = job.study.training_settings(job.strategy)
    for key in ("split_policies", "preprocessings", "seeds", "train_fractions"):
        settings.pop(key, None)
    settings |= {"image_size": job.study.image_size, "strategy": job.strategy, "backbone": job.backbone}
    (settings[f"{job.strategy}_rate"],) = job.study.rates(job.strategy)
    settings["precision"] = precision_of(job.study)  # what `auto` means here
    subsets = [rows[subset].tolist() for subset in ("train", "val", "test")]
    weights = {key: job.weights.get(key) for key in ("source", "fingerprint")}
    return {
        "study": {"name": job.study.name, **settings, "head": list(name)},
        "data": {"images": job.images.key, "split": fingerprint(subsets), "weights": weights},
        "version": {
            "format": FORMAT,
            "skin-tl": skin_tl.__version__,
            "code": CODE,
            "smoothed": SMOOTHED,
            "passes": passes_of(name[-1]),
            "keras": keras.__version__,
            "backend": f"{keras.backend.backend()} {importlib.metadata.version(keras.backend.backend())}",
        },
    }


def write_checkpoint(path, about, state, best, progress):
    """Write all that a run has learned into one file, whole or not at all.

    Parameters
    ----------
    path : pathlib.Path
    about : dict
        From `identity`.
    state : dict
        From `Network.state`.
    best : list of numpy.ndarray
        Weights of the best epoch.
    progress : dict
        What JSON holds: ``history``, ``confusions`` (by epoch, of the validation subset), ``best`` (epoch and macro
        F1), ``seconds``, ``done``.
    """
    arrays = {
        f"{part}/{i:04d}": value for part, values in {**state, "best": best}.items() for i, value in enumerate(values)
    }
    words = json.dumps({"about": about, "progress": progress}).encode()
    with write_atomically(path) as part:
        np.savez(part, words=np.frombuffer(words, np.uint8), **arrays)


def read_checkpoint(path, about):
    """Read what `write_checkpoint` wrote; None where there is none.

    Returns
    -------
    (dict, list, dict), optional
        state, best and progress.

    Raises
    ------
    SkinTLError
        If the file is damaged, or belongs to another study, other data or another version.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            words = json.loads(file["words"].tobytes())
            arrays = {name: file[name] for name in sorted(file.files) if name != "words"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SkinTLError(f"{path} is damaged ({error}). Delete it: the network is trained from its start.") from None
    wanted = json.loads(json.dumps(about))
    for kind, of in (("study", "another study"), ("data", "other data"), ("version", "another version")):
        was, now = words["about"].get(kind, {}), wanted[kind]
        other = [key for key in sorted({*was, *now}) if was.get(key) != now.get(key)]
        if other:
            listed = "; ".join(f"{key} was {was.get(key)}, is {now.get(key)}" for key in other)
            raise SkinTLError(
                f"{path} is a checkpoint of {of}: {listed}. Undo the change to go on from it, or delete the file: the "
                "network is trained from its start then."
            )
    parts = {}
    for name, value in arrays.items():
        parts.setdefault(name.partition("/")[0], []).append(value)
    return parts, parts.pop("best"), words["progress"]


# --- Training ---------------------------------------------------------------------------------------------------------


class NotANumberError(Exception):
    """What ends a training whose loss is no number: words for the person, and the seconds that it took."""

    def __init__(self, words, seconds):
        super().__init__(words)
        self.seconds = seconds


class Watch(keras.callbacks.Callback):
    """Move a bar, and stop at the first step whose loss is no number; the device waits for neither."""

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


def predict_images(study, whole, pixels, rows, metadata):
    """Predict some images as the study asks for it; the same table as from `skin_tl.training.predict`."""
    views = 8 if study.test_time_augmentation else 1
    batch = USUAL_BATCH if study.batch == "auto" else study.batch
    return prediction_table(predict_rows(whole, pixels, rows, batch, views), rows, metadata)


def gpus():
    """Return the GPUs that Keras's backend finds, list of str."""
    try:
        return [name for name in keras.distribution.list_devices("gpu") if name.lower().startswith(("gpu", "cuda"))]
    except RuntimeError:  # JAX, where it has none
        return []


def why_no_gpu():
    """Return the last that Keras's backend says of GPUs when it looks for them, after a colon; empty if nothing."""
    code = "import keras; keras.distribution.list_devices('gpu')"
    told = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0", "KERAS_BACKEND": keras.backend.backend()}
    done = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True, errors="replace")
    lines = [line for line in done.stderr.splitlines() if re.search("gpu|cuda", line, re.IGNORECASE)]
    return ": " + lines[-1].split("] ", 1)[-1].strip().rstrip(".") if lines else ""


def precision_of(study):
    """Return what a study's networks compute in while they learn on this machine, ``float32`` or ``bfloat16``."""
    if study.precision != "auto":
        return study.precision
    return "bfloat16" if study.device != "cpu" and gpus() else "float32"


def sharing_gpus(study):
    """Return the GPUs that share each batch of a study, list of str; empty where there is none to share it with.

    Raises
    ------
    SkinTLError
        If more are asked for than there are, or Keras's backend cannot share.
    """
    found = gpus() if study.gpus != 1 and study.device != "cpu" else []
    n = len(found) if study.gpus == "all" else study.gpus
    if n <= 1:
        return []
    asked = f"`gpus: {study.gpus}`"
    if keras.backend.backend() != "jax":
        raise SkinTLError(
            f"{asked}: Keras shares batches between GPUs with JAX alone. Start with KERAS_BACKEND=jax, with JAX's "
            "libraries for GPUs installed (see README.md), or set `gpus: 1`."
        )
    if n > len(found):
        raise SkinTLError(f"{asked}, but Keras finds {len(found)} on this machine. Set `gpus: all` to take those.")
    return found[:n]


def on_device(study):
    """Return a context in which networks are built and trained on the device or devices that a study asks for.

    Raises
    ------
    SkinTLError
        If a GPU is asked for and not there, or more GPUs than there are.
    """
    if study.device == "gpu" and not gpus():
        raise SkinTLError(
            f"`device: gpu`, but {keras.backend.backend()} finds no GPU on this machine{why_no_gpu()}. Do what "
            "README.md says of GPUs, or set `device: auto`."
        )
    shared = sharing_gpus(study)
    if shared:
        return keras.distribution.DataParallel(devices=shared).scope()
    return keras.device("cpu") if study.device == "cpu" else contextlib.nullcontext()


def hold_to_determinism(study):
    """Let GPUs compute the same bits each time if the study asks for it; to be called before anything is computed.

    The backends read these variables of the environment once, when they begin (NVIDIA's and OpenXLA's documentation).
    """
    if study.deterministic:
        os.environ["TF_DETERMINISTIC_OPS"] = "1"
        flags = os.environ.get("XLA_FLAGS", "").split()
        os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys([*flags, "--xla_gpu_deterministic_ops=true"]))


def _is_out_of_memory(error):
    told = ("ResourceExhaustedError", "RESOURCE_EXHAUSTED", "MemoryError")  # each backend has a type of its own
    return any(word in f"{type(error).__name__}: {error}" for word in told)


@contextlib.contextmanager
def enough_memory(job, chosen):
    """Turn running out of the device's memory into advice.

    Parameters
    ----------
    job : skin_tl.training.Job
        Its study's batch is a number.
    chosen : bool
        Whether `batch: auto` chose that.
    """
    try:
        yield
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        batch, folder = job.study.batch, _batch_file(job).parent
        advice = f"Try `batch: {batch // 2}`" if batch > 1 else "Try a smaller `image_size`"
        advice += "" if chosen or batch == 1 else ", or `batch: auto`"
        # Networks that were trained before, or in part, go on with their own batch alone.
        advice += f", and delete {folder}: what is in it belongs to batches of {batch}" if any(folder.glob("*")) else ""
        raise SkinTLError(f"The device has not enough memory for batches of {batch} images. {advice}.") from None


def find_batch(job, name, rows, largest):
    """Find the number of images per step for `batch: auto`, by training one step.

    Tried are powers of two (times the number of GPUs that share a batch) from `LARGEST_BATCH` downwards, until the
    GPU's memory holds one.  Without a GPU it is `USUAL_BATCH`.

    Parameters
    ----------
    job, name, rows
        As for `train_network`.
    largest : int
        Images in the smallest training subset.

    Returns
    -------
    int

    Raises
    ------
    SkinTLError
        If a single image is too much.
    """
    share = max(1, len(sharing_gpus(job.study)))
    tried = [share * 2**power for power in range(LARGEST_BATCH.bit_length()) if share * 2**power <= largest] or [share]
    if job.study.device == "cpu" or not gpus():
        return max((n for n in tried if n <= USUAL_BATCH), default=share)
    for batch in reversed(tried):
        network = _begin(_with_batch(job, batch), name, rows, rows["train"], None)
        try:
            take_step(network, job.images.pixels, rows["train"], batch)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
        else:
            return batch
        del network
        gc.collect()  # its memory, before the next one asks for some
    raise SkinTLError("The GPU has not enough memory for a single image. Try a smaller `image_size`.")


def take_step(network, pixels, rows, batch):
    """Train one step on some images, whatever they show."""
    images = np.resize(np.asarray(pixels[rows[:batch]]), (batch, *pixels.shape[1:]))
    wanted = np.eye(len(CLASSES), dtype=np.float32)[np.arange(batch) % len(CLASSES)]
    views = draw_views(batch, np.random.default_rng(0))
    with network.in_its_precision():
        network.training.train_on_batch({"pixels": images, "views": views}, wanted)


def _with_batch(job, batch):
    return dataclasses.replace(job, study=job.study.model_copy(update={"batch": batch}))


def _with_rate(job, rate):
    return dataclasses.replace(job, study=job.study.model_copy(update={f"{job.strategy}_rate": [rate]}))


def _batch_file(job):
    return job.folder / "checkpoints" / "batch.json"


def _choose_batch(job, due):
    """Return the job with a number in the place of `batch: auto`: the one that it began with, or a new one."""
    file = _batch_file(job)
    if job.study.batch == "auto":
        largest = min(len(rows["train"]) for rows in due.values())
        if len(job.study.train_fractions) > 1:
            largest = max(1, largest // PART_STEPS)
        name = max(due, key=lambda name: name[-1])
        about = json.loads(json.dumps(identity(_with_rate(job, 0.0), name, due[name])))
        known = read_json(file) if file.is_file() else {}
        batch = known.get("batch")
        if known.get("about") != about or batch > largest:
            batch = find_batch(job, name, due[name], largest)
            write_json(file, {"batch": batch, "about": about})
        say(f"  {job.backbone}: batches of {batch} images.")
        job = _with_batch(job, batch)
    job.sizes.update(batch=job.study.batch, precision=precision_of(job.study))
    return job


def train_networks(job, due):
    """Train whole networks; save each below models/, and the first as model.keras too.

    Parameters
    ----------
    job : skin_tl.training.Job
    due : dict
        Rows of each subset by (arm, split policy, preprocessing, seed, train fraction).

    Yields
    ------
    name, history, tables
        As `skin_tl.training.train_run` takes them.

    Raises
    ------
    SkinTLError
        If the device is not there or has too little memory, a batch is larger than a training subset, a loss is no
        number, or a checkpoint belongs to something else.
    """
    for (_, policy, _, seed, fraction), rows in due.items():
        if job.study.batch != "auto" and job.study.batch > len(rows["train"]):
            part = "" if fraction == 1 else f", {100 * fraction:.10g} % of its lesions"
            raise SkinTLError(
                f"`batch: {job.study.batch}` is larger than the training subset, {len(rows['train'])} images (split by "
                f"{policy}, seed {seed}{part}). Lower it{', or leave this fraction out' if part else ''}."
            )
    trained, models = {}, job.folder / "models"
    sames = {name: (transform_of(job.backbone, name[2]), *without_preprocessing(name)) for name in due}
    left = Counter(sames.values())
    shared = len(sharing_gpus(job.study))
    if shared and job.study.batch != "auto" and job.study.batch % shared:
        raise SkinTLError(f"`batch: {job.study.batch}` cannot be shared by {shared} GPUs: take a multiple of {shared}.")
    with on_device(job.study), contextlib.ExitStack() as stack:
        chosen = job.study.batch == "auto"
        job = _choose_batch(job, due)
        stack.enter_context(enough_memory(job, chosen))
        for name, rows in due.items():
            same = sames[name]
            if same not in trained:  # two names for one computation share its result
                whole, history, tried, seconds = train_at_best_rate(job, name, rows)
                predict_images(job.study, whole, job.images.pixels, rows["val"][:1], job.metadata)  # compiles it
                clock = time.perf_counter()
                tables = {
                    subset: predict_images(job.study, whole, job.images.pixels, rows[subset], job.metadata)
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
        For each rate: rate, val_macro_f1 (the highest that was reached) and epochs, None where the loss was no number,
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
    job : skin_tl.training.Job
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
    network = _begin(job, name, rows, shown_rows, head)
    progress = {"history": first, "confusions": [], "best": {"epoch": 0, "macro_f1": -1.0}, "seconds": seconds}
    progress["done"] = False
    best = network.weights()
    if saved:
        state, best, progress = saved
        network.restore(state)
    steps, before = len(shown_rows) // study.batch, sum(row["stage"] == "head" for row in progress["history"])
    epochs, done = _epochs(study, job.strategy), len(progress["history"]) - before
    what = f"{job.backbone}, seed {seed}" + ("" if fraction == 1 else f", {100 * fraction:.10g} % of the lesions")
    what += f", rate {study.rates(job.strategy)[0]:g}" if of_several else ""
    if done and not progress["done"]:
        say(f"  {what}: going on after epoch {done}.")
    logs = job.folder / "tensorboard" / _name_of(job, name, of_several)
    log = EpochLog(logs, job.backbone, progress["history"][before:], progress["confusions"])
    with contextlib.closing(log), bar(total=epochs * steps, what=what, unit="step") as shown:
        shown.update(done * steps)
        for epoch in range(done, 0 if progress["done"] else epochs):
            clock, watch = time.perf_counter(), Watch(shown)
            batches = Batches(pixels, labels, shown_rows, study, seed, epoch)
            options = {"callbacks": [watch], "shuffle": False, "verbose": 0}
            with network.in_its_precision():
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
            row |= {f"val_{key}": float(value) for key, value in scores(log_p, wanted).items()}
            progress["history"].append(row)
            confusion = confusion_matrix(wanted, chances.argmax(axis=1), labels=np.arange(len(CLASSES)))
            progress["confusions"].append(confusion.tolist())
            value = reached(progress["history"][before:])
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


def _begin(job, name, rows, shown_rows, head):
    """Build a network to be trained, from a trained head or, where its weights come from elsewhere, from a new one."""
    counts = np.bincount(labels_of(job.metadata)[shown_rows], minlength=len(CLASSES))
    if head is None and job.strategy == "fine_tuning":
        head = build_head(job.features(name[2])[1], rows["train"])
    return Network(job, name[2], name[3], head, counts)


def _epochs(study, strategy):
    return study.fine_tuning_epochs if strategy == "fine_tuning" else study.from_scratch_epochs


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
