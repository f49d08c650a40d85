"""Features: the outputs of a frozen backbone for each image, computed once.

Takes decoded images and a built backbone; gives a memory-mapped array (n_images, n_features) float32 in the images'
order, kept below the cache under a key made of the images, the network with its scaling and weights, the view and the
code of a pass.  Features that are kept are read without Keras.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skin_tl.data.images import cache_folder
from skin_tl.errors import SkinTLError
from skin_tl.files import alone, claim_space, disk_full_message, fingerprint, is_disk_full, read_json
from skin_tl.models.backbones import (
    build_backbone,
    count_parameters_with_classifier,
    import_keras,
    model_fingerprint,
)
from skin_tl.progress import bar
from skin_tl.step_code import code_hash

if TYPE_CHECKING:
    import keras

    from skin_tl.data.images import ImageSet
    from skin_tl.study import Study


BATCH = 32
"""Images per forward pass.  Part of the key: another number may change the last digits."""

SAVE_EVERY = 20
"""Batches between two notes of how far the work is, so that an interrupted pass goes on from there."""


VIEWS = ((False, 0), (True, 0), (False, 2), (True, 2), (False, 1), (True, 1), (False, 3), (True, 3))
"""Views of an image, the first 1, 2, 4 or 8 of which are used: whether it is mirrored, and quarter turns after that."""

OF_NETWORK = ("n_parameters", "n_parameters_with_classifier", "device")
"""What `features_of` says of the network and of what computed: the keys that a run's record takes over."""


class Views:
    """Features of several views of each image: ``views[rows]`` is (n_rows, n_views, n_features) float32."""

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.arrays = tuple(arrays)
        self.shape = (len(arrays[0]), len(arrays), arrays[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        return np.stack([array[rows] for array in self.arrays], axis=1)


def seen_from(images: np.ndarray, view: int) -> np.ndarray:
    """Return images, (n, size, size, 3), in one of `VIEWS`."""
    mirrored, turns = VIEWS[view]
    return np.rot90(images[:, :, ::-1] if mirrored else images, turns, axes=(1, 2))


def features_key(images: ImageSet, model: keras.Model, view: int = 0) -> str:
    """Return the key under which `extract` keeps its result: of the images, the network, view and code of a pass."""
    code = code_hash("models.features._compute")
    what = (images.key, model_fingerprint(model), BATCH, import_keras().backend.backend(), code)
    return fingerprint(*what, *([view] if view else []))


def extract(
    images: ImageSet, backbone: str, preprocessing: str, model: keras.Model, view: int = 0
) -> tuple[np.ndarray, dict[str, Any]]:
    """Compute the features of all images in one view, or find them computed.

    Constant memory: pixels are read and features written through memory maps, one batch at a time.

    Parameters
    ----------
    preprocessing : {'native', 'unit'}
    model
        From `skin_tl.models.backbones.build_backbone`.
    view
        A place in `VIEWS`.

    Returns
    -------
    features
        (n_images, n_features) float32, memory-mapped, read-only, finite.
    about
        ``key``, ``seconds`` that the forward passes took when they were computed, and ``n_images``.

    Raises
    ------
    SkinTLError
        If the disk is full or a feature is not finite.
    """
    key = features_key(images, model, view)
    folder = cache_folder() / "features" / key
    if not (folder / "about.json").is_file():
        with alone(folder):
            if not (folder / "about.json").is_file():  # another process was not faster
                try:
                    folder.mkdir(exist_ok=True)
                    what = f"{backbone} ({preprocessing}{f', view {view + 1}' if view else ''})"
                    _compute(folder, images, model, what, key, view)
                except OSError as error:
                    if is_disk_full(error):
                        raise SkinTLError(disk_full_message(folder)) from error
                    raise
    return np.load(folder / "features.npy", mmap_mode="r"), json.loads((folder / "about.json").read_text())


def features_of(
    study: Study, images: ImageSet, backbone: str, preprocessing: str, weights: dict, views: int | None = None
) -> tuple[Any, dict[str, Any]]:
    """Compute the features of images with a study's backbone, or find them computed.

    Parameters
    ----------
    preprocessing : {'native', 'unit'}
    weights
        Of the backbone, see `skin_tl.models.backbones.build_backbone`.
    views
        How many views of each image; the study's, unless it is given.

    Returns
    -------
    features
        As from `extract`, or `Views` where the study has several.
    about
        As from `extract`, of the first view, with the seconds of all; it says also what `OF_NETWORK` lists, and
        ``keys``, one for each view.
    """
    from skin_tl.models.devices import device

    model = build_backbone(backbone, preprocessing, study.image_size, weights, features=study.features)
    found = [extract(images, backbone, preprocessing, model, view) for view in range(views or study.views)]
    features, abouts = zip(*found, strict=True)
    about = abouts[0] | {"seconds": sum(one["seconds"] for one in abouts), "keys": [one["key"] for one in abouts]}
    of_network = model.count_params(), count_parameters_with_classifier(backbone), device()
    return _as_views(features), about | dict(zip(OF_NETWORK, of_network, strict=True))


def _as_views(features):
    return Views(features) if len(features) > 1 else features[0]


def kept_features(about: dict[str, Any], views: int) -> np.ndarray | Views | None:
    """Return the first views of what `features_of` told of; None where the cache no longer holds them."""
    folders = [cache_folder() / "features" / key for key in about.get("keys", [about["key"]])[:views]]
    if len(folders) < views or not all((folder / "about.json").is_file() for folder in folders):
        return None
    return _as_views([np.load(folder / "features.npy", mmap_mode="r") for folder in folders])


def find_features(
    study: Study,
    folder: Path,
    images: ImageSet,
    backbone: str,
    preprocessing: str,
    where: str = "features/",
    views: int = 1,
) -> Any:
    """Return the features of images that a step computed, without building the network.

    Where the step did not run, or the cache no longer holds them, they are computed.

    Parameters
    ----------
    study, images, backbone, preprocessing
        As for `features_of`.
    folder
        The study's folder below ``runs/``.
    where
        How the place of the step's file below `folder` begins.
    views
        How many views of each image.

    Returns
    -------
    numpy.ndarray or Views
        (n_images, n_features) float32, memory-mapped, read-only; `Views` of several.
    """
    about = folder / f"{where}{backbone}_{preprocessing}.json"
    features = kept_features(read_json(about), views) if about.is_file() else None
    if features is None:
        weights = read_json(folder / "weights.json")["backbones"][backbone]
        features, _ = features_of(study, images, backbone, preprocessing, weights, views)
    return features


def _compute(folder, images, model, what, key, view):
    """Fill `folder` with features.npy and, once they are complete, about.json."""
    keras, pixels = import_keras(), images.pixels
    n_images, n_features = len(pixels), model.output_shape[-1]
    array_file, state_file = folder / "features.npy", folder / "state.json"
    state: dict[str, Any] = json.loads(state_file.read_text()) if state_file.is_file() else {"done": 0, "seconds": 0.0}
    mode = "r+" if state["done"] else "w+"
    features = np.lib.format.open_memmap(array_file, mode, np.float32, (n_images, n_features))
    with open(array_file, "r+b") as file:
        claim_space(file, features.nbytes)
    model.predict_on_batch(np.zeros((BATCH, *pixels.shape[1:]), np.uint8))  # compiles it, which is no pass
    started = time.perf_counter() - state["seconds"]
    with bar(total=n_images, what=what, unit="img") as shown:
        shown.update(state["done"])
        for step, first in enumerate(range(state["done"], n_images, BATCH), start=1):
            batch = seen_from(pixels[first : first + BATCH], view)
            n_rows = len(batch)
            if n_rows < BATCH:  # one shape for all batches: one compiled graph, the same arithmetic
                batch = np.concatenate([batch, np.zeros((BATCH - n_rows, *batch.shape[1:]), np.uint8)])
            values = keras.ops.convert_to_numpy(model.predict_on_batch(np.ascontiguousarray(batch)))[:n_rows]
            if not np.isfinite(values).all():
                raise SkinTLError(
                    f"{what}: features that are not finite, so its weights are damaged. Replace their file."
                )
            features[first : first + n_rows] = values
            shown.update(n_rows)
            if step % SAVE_EVERY == 0:
                features.flush()
                _note(state_file, {"done": first + n_rows, "seconds": time.perf_counter() - started})
    features.flush()
    del features
    seconds = time.perf_counter() - started
    _note(folder / "about.json", {"key": key, "n_images": n_images, "seconds": seconds})
    state_file.unlink(missing_ok=True)


def _note(path, content):
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.replace(path)
