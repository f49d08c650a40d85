"""Networks: whole networks with their loss, learning-rate schedule and optimiser.

Takes a job and the settings of its study; gives `Network`, with optimiser and averaged weights.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from skin_tl.models.augmentation import FOCUS, Augmentation, FrozenMode
from skin_tl.models.backbones import (
    RANDOM_WEIGHTS_SEED,
    all_layers,
    build_backbone,
    import_keras,
    network_of,
    scale_pixels,
    standardising_layers,
)
from skin_tl.models.devices import precision_of
from skin_tl.models.heads import Head, build_head, labels_of
from skin_tl.registry import BACKBONES
from skin_tl.schema import CLASSES

if TYPE_CHECKING:
    import keras

    from skin_tl.models.heads import HeadName, Job
    from skin_tl.study import Study


keras = import_keras()
ops = keras.ops

PLAIN_MOMENTUM = 0.9
"""Of batch normalisation's running statistics where weights are not averaged; else they are averaged as these are."""


# --- What it learns from them -----------------------------------------------------------------------------------------


def make_loss(study: Study, counts: np.ndarray) -> Callable[[Any, Any], Any]:
    """Return the loss that a network is trained with, a function of wanted probabilities and logits, both (n, 7).

    Cross-entropy, with the study's label smoothing.  `imbalance` may change it: ``focal`` multiplies it by
    (1 − p)^`FOCUS`, p the probability of the right diagnosis; ``logit_adjusted`` adds the logarithm of each diagnosis's
    share in the training subset to its logit (Menon et al., ICLR 2021).

    Parameters
    ----------
    counts
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


def make_schedule(peak: float, n_steps: int, n_warmup: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate by step: from 0 to `peak` in a line, then back to 0 along a cosine at `n_steps`."""
    warmup = {"warmup_target": peak, "warmup_steps": n_warmup} if n_warmup else {}
    return keras.optimizers.schedules.CosineDecay(0.0 if n_warmup else peak, n_steps - n_warmup, **warmup)


class AdamW(keras.optimizers.Adam):
    """AdamW whose learning rate, and with it the decay of weights, may differ between variables.

    Parameters
    ----------
    rate
        A learning rate or its schedule.
    shares
        Of `rate`, one for each variable that it is built with.
    decays
        How much of a variable decays per step at a learning rate of 1, likewise.
    momentum
        Of the weights' moving average; 0 keeps none.
    """

    def __init__(
        self,
        rate: float | keras.optimizers.schedules.LearningRateSchedule,
        shares: Sequence[float],
        decays: Sequence[float],
        momentum: float,
        clip_norm: float,
    ):
        averaged = {"use_ema": True, "ema_momentum": momentum} if momentum else {}
        super().__init__(rate, global_clipnorm=clip_norm, **averaged)
        self.shares, self.decays = tuple(shares), tuple(decays)

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate, variable.dtype) * self.shares[index]
        if self.decays[index]:
            self.assign_sub(variable, variable * (rate * self.decays[index]))
        super().update_step(gradient, variable, rate)

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Leave the weights alone at the end of `fit`, which is called for one epoch at a time."""

    @contextlib.contextmanager
    def averaged(self, variables: Sequence[keras.Variable]) -> Iterator[None]:
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
    training
        From ``pixels`` and ``views`` to logits, (n, 7); compiled.
    whole
        From pixels, (n, size, size, 3) uint8, to probabilities, (n, 7); made of Keras's own layers alone.
    """

    def __init__(self, job: Job, preprocessing: str, seed: int, head: Head | None, counts: np.ndarray):
        study, tuned = job.study, job.strategy == "fine_tuning"
        # A head was trained on features, so its backbone is that of the features, even if its weights are random.
        weights_seed = RANDOM_WEIGHTS_SEED if tuned else seed
        model = build_backbone(job.backbone, preprocessing, study.image_size, job.weights, weights_seed)
        job.about.update(n_parameters=model.count_params(), n_features=model.output_shape[-1])
        network = network_of(model)
        keras.utils.set_random_seed(seed)
        before = standardising_layers(head) if head else []
        logits = keras.layers.Dense(len(CLASSES), name="diagnosis")
        layers = [*before, logits, keras.layers.Softmax(name="probabilities")]
        part = keras.Sequential([keras.Input(model.output_shape[1:], name="features"), *layers], name="head")
        self.whole = keras.Model(model.input, part(model.output), name=model.name)
        if head:
            logits.set_weights([head.kernel, head.bias])
        _unfreeze(network, BACKBONES[job.backbone].last_block if tuned and study.unfreeze == "last_block" else None)

        steps = counts.sum() // study.batch
        epochs = epochs_of(study, job.strategy)
        momentum = math.exp(-1 / (study.ema_epochs * steps)) if study.ema_epochs else 0.0
        if not tuned:
            for layer in network.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.momentum = momentum or PLAIN_MOMENTUM
        pixels = keras.Input(model.input_shape[1:], dtype="uint8", name="pixels")
        views = keras.Input((8,), dtype="float32", name="views")
        features = scale_pixels(Augmentation()([pixels, views]), job.backbone, preprocessing)
        features = FrozenMode(network)(features) if tuned else network(features)
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
    def mixed_precision(self) -> Iterator[None]:
        """Let the network's layers compute for a while as the study asks for it; all else is float32 at any time."""
        for layer in self.mixed:
            layer.dtype_policy = "mixed_bfloat16"  # its weights stay float32
        try:
            yield
        finally:
            for layer in self.mixed:
                layer.dtype_policy = "float32"

    def with_averages(self) -> contextlib.AbstractContextManager:
        """Return a context in which the weights are those that predict."""
        if not self.has_averages:
            return contextlib.nullcontext()
        return self.optimizer.averaged(self.training.trainable_variables)

    @property
    def parts(self) -> dict[str, list[keras.Variable]]:
        """All that changes while it is trained, lists of variables by name."""
        return {
            "trainable": self.training.trainable_variables,
            "other": self.training.non_trainable_variables,
            "optimizer": self.optimizer.variables,
        }

    def state(self) -> dict[str, list[np.ndarray]]:
        """Return the values of `parts`, lists of arrays by name."""
        return {name: _values(variables) for name, variables in self.parts.items()}

    def restore(self, state: dict[str, list[np.ndarray]]) -> None:
        """Put back what `state` returned."""
        for name, variables in self.parts.items():
            _assign(variables, state.get(name, []))

    def weights(self) -> list[np.ndarray]:
        """Return all weights that predictions depend on, list of arrays."""
        return _values(self.whole.weights)

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Put back what `weights` returned."""
        _assign(self.whole.weights, weights)


def _values(variables):
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _unfreeze(network, last_block):
    """Let all layers of a network learn, or those alone whose names begin as `last_block` says."""
    network.trainable = True
    for layer in network.layers if last_block else []:
        layer.trainable = layer.name.startswith(last_block)


def begin_network(
    job: Job, name: HeadName, rows: dict[str, np.ndarray], shown_rows: np.ndarray, head: Head | None
) -> Network:
    """Build a network to be trained, from a trained head or, where its weights come from elsewhere, from a new one."""
    counts = np.bincount(labels_of(job.metadata)[shown_rows], minlength=len(CLASSES))
    if head is None and job.strategy == "fine_tuning":
        head = build_head(job.features(name[2]), rows["train"])
    return Network(job, name[2], name[3], head, counts)


def epochs_of(study: Study, strategy: str) -> int:
    return study.fine_tuning_epochs if strategy == "fine_tuning" else study.from_scratch_epochs
