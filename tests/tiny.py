"""A stand-in for a backbone that trains in seconds: two convolutions with batch normalisation, and dropout.

As a program it trains a run of the small study: ``python tiny.py FOLDER STRATEGY [STEPS]``; with STEPS it kills itself
after so many steps of training.
"""

import json
import os
import signal
import sys
from pathlib import Path

import keras

from skin_tl.explain.explanations import open_model
from skin_tl.models import backbones, features, runs, training
from skin_tl.reporting.watching import EpochLog
from skin_tl.study import check_study, save_study

TUNING = {
    "seeds": [1],
    "batch": 8,
    "fine_tuning_epochs": 3,
    "from_scratch_epochs": 3,
    "warmup_epochs": 0.5,
    "max_epochs": 5,
    "l2": [0.01],
}
"""Changes to the small study of the tests."""


def network(name, weights, image_size=224):
    """Build it, as `skin_tl.models.backbones._network` builds a real one; its layers are named as MobileNetV2's."""
    layers = keras.layers
    x = start = keras.Input((image_size, image_size, 3))
    for block, filters in (("block_1", 8), ("block_16", 16)):
        x = layers.Conv2D(filters, 3, strides=2, use_bias=False, name=f"{block}_conv")(x)
        x = layers.BatchNormalization(name=f"{block}_bn")(x)
        x = layers.ReLU(name=f"{block}_relu")(x)
        x = layers.Dropout(0.1, name=f"{block}_dropout")(x)
    return keras.Model(start, layers.GlobalAveragePooling2D()(x))


def install(patch=setattr):
    """Put it in the place of every backbone."""
    patch(backbones, "_network", network)
    for module in (features, training):
        patch(module, "count_parameters_with_classifier", lambda name: 1)


def train(study, strategy, folder):
    """Train the run of a strategy below `folder`."""
    data = runs.prepare(study, folder)
    return training.train_run(
        study, strategy, "MobileNetV2", data, folder / strategy / "MobileNetV2", epoch_log=EpochLog
    )


def finish(root, settings):
    """Train all runs of a study below ``root/runs``, as the workflow leaves them; return the study and its folder."""
    study = check_study(settings)
    folder = root / "runs" / study.name
    prepared = runs.prepare(study, folder)
    save_study(study, folder / "study.json")
    for strategy in study.strategies:
        for name in study.backbones:
            training.train_run(study, strategy, name, prepared, folder / strategy / name)
            open_model(study, strategy, name, folder).save(folder / strategy / name / "model.keras")
    return study, folder


def kill_after(n_steps):
    """End the process by force after so many steps of training."""
    from skin_tl.models import tuning

    class Deadly(tuning.Watch):
        left = n_steps

        def __init__(self, shown):
            super().__init__(shown)
            self.async_safe = False  # in step with the training

        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            Deadly.left -= 1
            if not Deadly.left:
                os.kill(os.getpid(), signal.SIGKILL)

    tuning.Watch = Deadly


if __name__ == "__main__":
    folder, strategy, *steps = sys.argv[1:]
    install()
    if steps:
        kill_after(int(steps[0]))
    train(check_study(json.loads((Path(folder) / "study.json").read_text())), strategy, Path(folder))
