"""Estimates: how long a study takes and how much disk it needs, before anything is computed.

Takes a study; gives `Estimate` and what has to be downloaded, and refuses a disk that is too small.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, existing
from skin_tl.workflow.cleaning import size_of

if TYPE_CHECKING:
    from skin_tl.study import Study

GIGA = 1e9
N_HAM10000 = 10015
N_ISIC2018 = 1512
DOWNLOAD_BYTES = {"HAM10000": 4.1 * GIGA, "ISIC2018": 0.8 * GIGA}
"""Unpacked, with the largest archive beside it for a moment."""

MODEL_BYTES = 150e6
TRAINING_STEP = 6
"""Of one image, in forward passes: three by the operations, and twice as much by the clock (ResNet50, MobileNetV2)."""

CHECKPOINT = 6
"""Of a network that is being trained, in models: its weights, their average and best, two moments, a new one beside."""


# --- What it takes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What a study takes at most, if nothing of it is cached.

    Attributes
    ----------
    download, images, features, models : float
        Bytes on the disk.
    seconds : float
        Of the forward passes on this machine's processor, very roughly.
    gpu : bool
        Whether an NVIDIA driver is there; a GPU that is used is many times faster.
    """

    download: float
    images: float
    features: float
    models: float
    seconds: float
    gpu: bool

    @property
    def disk(self) -> float:
        """All bytes together."""
        return self.download + self.images + self.features + self.models

    def in_words(self) -> str:
        """Return two lines for the person."""
        parts = {name: getattr(self, name) for name in ("download", "images", "features", "models")}
        held = ", ".join(f"{name} {size / GIGA:.1f}" for name, size in parts.items() if size > 0)
        speed = "far less if the GPU is used" if self.gpu else "roughly, from this processor's speed"
        return (
            f"This study takes at most {self.disk / GIGA:.1f} GB of disk ({held}).\n"
            f"Its networks compute for about {roughly(self.seconds)} ({speed}; less where parts are cached). "
            "Heads and report come on top."
        )


def roughly(seconds: float) -> str:
    """Return a rough duration: whole 5 minutes below two hours, half hours above."""
    if seconds < 7200:
        return f"{max(5, 5 * round(seconds / 300))} min"
    return f"{round(seconds / 1800) / 2:g} h"


def estimate(study: Study) -> Estimate:
    """Estimate what a study takes, measuring this machine's speed for an instant.

    Parameters
    ----------
    study
        Its data, networks and passes are counted.

    Returns
    -------
    Estimate
    """
    from skin_tl.registry import BACKBONES, transform_of
    from skin_tl.schema import SHARES, TUNED
    from skin_tl.study import passes_of

    n_images = N_HAM10000 + N_ISIC2018 * bool(study.external)
    passes = {(name, transform_of(name, how)) for name in study.backbones for how in study.preprocessings}
    work, control, features = 0.0, 0.0, 0.0
    # VGG16's stages are the widest beside its last.
    wider = study.views * (2.5 if study.features == "all_stages" else 1)
    for name, transform in [*passes, *((name, "control") for name in study.backbones if study.control)]:
        about = BACKBONES[name]
        cost = about.gflops * (study.image_size / 224) ** 2 / about.efficiency
        if transform == "control":  # sees the study's own images alone
            control += cost
            features += N_HAM10000 * about.n_features * wider * 4
        else:
            work += cost
            features += n_images * about.n_features * wider * 4
    # Whole networks: in each epoch, every training image costs a step, and every validation image a pass.
    tuned = [strategy for strategy in study.strategies if strategy in TUNED]
    n_splits, fractions = len(study.split_policies) * len(study.seeds), study.train_fractions
    rates = {strategy: len(study.rates(strategy)) for strategy in tuned}
    epochs = sum(getattr(study, f"{strategy}_epochs") * rates[strategy] for strategy in tuned)
    shown = sum(fraction * passes_of(fraction) for fraction in fractions)
    rounds = n_splits * epochs * (TRAINING_STEP * SHARES["train"] * shown + SHARES["val"] * len(fractions))
    n_networks = n_splits * len(fractions) * len(study.preprocessings)
    n_checkpoints = n_networks * max(rates.values(), default=0)  # of one run, which removes them at its end
    n_models = len(study.strategies) + len(tuned) * n_networks + CHECKPOINT * n_checkpoints
    return Estimate(
        download=sum(DOWNLOAD_BYTES[name] for name in releases_to_download(study)),
        images=n_images * study.image_size**2 * 3,
        features=features,
        models=MODEL_BYTES * len(study.backbones) * n_models,
        seconds=((n_images * study.views + N_HAM10000 * rounds) * work + N_HAM10000 * study.views * control)
        / measure_speed(),
        gpu=has_gpu(),
    )


def releases_to_download(study: Study) -> list[str]:
    """Return the releases of a study that no variable names a folder of, and that were not decoded before."""
    from skin_tl.data.releases import PARTS

    def is_decoded(name: str) -> bool:
        return (ROOT / "runs" / study.name / PARTS[name] / "images.json").is_file()

    return [name for name in study.releases if not os.environ.get(f"SKIN_TL_{name}") and not is_decoded(name)]


def what_to_download(study: Study) -> dict[str, str]:
    """Say what the steps of a study download, without asking the network.

    Returns
    -------
    dict of str
        A sentence by rule of the Snakefile.  What Keras and the cache hold is not looked up.
    """
    from skin_tl.data.images import cache_folder
    from skin_tl.data.releases import PARTS
    from skin_tl.models.backbones import weights_file

    notes = {}
    for name in releases_to_download(study):
        rule = "images" if PARTS[name] == "dataset" else "external_images"
        kept = cache_folder() / "downloads" / name
        notes[rule] = (
            f"SKIN_TL_{name} is not set: files of {name} that are not in {kept} are downloaded (with archives, up to "
            f"{DOWNLOAD_BYTES[name] / GIGA:.1f} GB of disk)."
        )
    files = [weights_file(name) for name in study.backbones]
    lacking = [file.name for file in files if file and not file.is_file()]
    if study.transfers and study.weights == "imagenet" and (lacking or None in files):
        folder = os.environ.get("SKIN_TL_WEIGHTS")
        why = f"{folder} lacks {', '.join(lacking)}" if lacking else "SKIN_TL_WEIGHTS is not set"
        notes["weights"] = (
            f"{why}: weights that Keras has not kept are downloaded. Without internet: "
            "docs/install.md#without-network-access"
        )
    return notes


def has_gpu() -> bool:
    """Tell whether an NVIDIA driver is there."""
    return os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi") is not None


def measure_speed(seconds: float = 0.2) -> float:
    """Return how many billions of floating-point operations a second the processor's cores could do together.

    One core is timed, on a matrix product that fits its cache, and the best time counts: what else the machine does at
    the moment matters little.
    """
    import numpy as np
    from joblib import cpu_count
    from threadpoolctl import threadpool_limits

    n = 256
    matrix = np.ones((n, n), np.float32)
    began, best = time.perf_counter(), float("inf")
    with threadpool_limits(1):
        while best == float("inf") or time.perf_counter() - began < seconds:
            start = time.perf_counter()
            matrix @ matrix
            best = min(best, time.perf_counter() - start)
    one_core = 2 * n**3 / best / 1e9
    if sys.platform == "darwin":  # its matrix unit, which networks do not use, would be timed
        one_core = min(one_core, 100.0)
    return one_core * cpu_count()


def check_room(need: Estimate) -> None:
    """Refuse to start where the disk is clearly too small for what is not there yet.

    Parameters
    ----------
    need
        What the study takes.

    Raises
    ------
    SkinTLError
        If less than nine tenths of what is missing is free.
    """
    from skin_tl.data.images import cache_folder

    cache = cache_folder()
    missing = sum(
        max(0, wanted - size_of(cache / folder))
        for folder, wanted in (("downloads", need.download), ("images", need.images), ("features", need.features))
    )
    place = existing(cache)
    free = shutil.disk_usage(place).free
    if free < 0.9 * missing:
        raise SkinTLError(
            f"{place} has {free / GIGA:.1f} GB free and this study needs about {missing / GIGA:.1f} GB more. "
            "Free some space, or set SKIN_TL_CACHE to a folder on a larger disk, and start again."
        )
