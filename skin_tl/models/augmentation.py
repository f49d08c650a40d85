"""Augmentation: the batches of images that a network is trained with, and how their views are drawn.

Takes decoded images, (n_images, size, size, 3) uint8, and rows; gives batches and the layer that transforms them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import cpu_count

from skin_tl.models.backbones import import_keras
from skin_tl.schema import CLASSES

if TYPE_CHECKING:
    import keras

    from skin_tl.study import Study


keras = import_keras()
ops = keras.ops

ZOOM, SHIFT = 0.1, 0.05
"""How far images are scaled (factor from 0.9 to 1.1) and shifted (share of their side) at most."""

BRIGHTNESS, CONTRAST, SATURATION = 0.06, 0.15, 0.15
"""How far colours change at most: a share of 255 that is added, and two factors around 1."""

FOCUS = 2.0
"""Exponent of the focal loss (Lin et al., ICCV 2017)."""


# --- What a step sees -------------------------------------------------------------------------------------------------


def draw_views(n: int, rng: np.random.Generator, augment: bool = True) -> np.ndarray:
    """Draw how images are to be changed, (n, 8) float32, one row for each.

    Columns: transposed (0 or 1); scale along height and width, negative where mirrored; shift along both, as a share of
    the side; brightness (added, of 255), contrast and saturation (factors).  Transposing and mirroring at random give
    all eight flips and right-angle rotations alike.  Without `augment`, every row leaves its image as it is.
    """
    views = np.tile(np.array([0, 1, 1, 0, 0, 0, 1, 1], np.float32), (n, 1))
    if augment:
        views[:, 0] = rng.integers(0, 2, n)
        views[:, 1:3] = rng.uniform(1 - ZOOM, 1 + ZOOM, (n, 1)) * rng.choice([-1, 1], (n, 2))
        views[:, 3:5] = rng.uniform(-SHIFT, SHIFT, (n, 2))
        views[:, 5] = rng.uniform(-BRIGHTNESS, BRIGHTNESS, n)
        views[:, 6] = rng.uniform(1 - CONTRAST, 1 + CONTRAST, n)
        views[:, 7] = rng.uniform(1 - SATURATION, 1 + SATURATION, n)
    return views


def augment(pixels: keras.KerasTensor, views: keras.KerasTensor) -> keras.KerasTensor:
    """Change images as `draw_views` drew it.

    Scale, shift and mirroring are separable, so that they are two products with matrices of interpolation (bilinear;
    what lies beyond an edge is mirrored), which every device computes fast and alike.

    Parameters
    ----------
    pixels
        (n, size, size, 3) uint8.
    views
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

    def call(self, inputs: Any) -> Any:
        return augment(*inputs)


class FrozenMode(keras.layers.Layer):
    """A network whose weights learn while its normalisation and dropout do what they do in prediction.

    A layer of its own, as Keras hands ``training=True`` down to a network that was called with ``training=False``.
    """

    def __init__(self, network: keras.Model):
        super().__init__()
        self.network = network

    def call(self, images: Any) -> Any:
        return self.network(images, training=False)


class Batches(keras.utils.PyDataset):
    """The batches of one epoch; which they are depends on seed and epoch alone.

    Parameters
    ----------
    pixels
        (n_images, size, size, 3) uint8, memory-mapped.
    labels
        (n_images,) int.
    rows
        Of the training subset; a row that is there twice is shown twice.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, rows: np.ndarray, study: Study, seed: int, epoch: int):
        super().__init__(workers=min(4, cpu_count()), max_queue_size=8)
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
