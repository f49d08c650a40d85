"""Grad-CAM: where in an image a network finds what speaks for a diagnosis.

Takes a whole model, backbone and head (a run's ``model.keras``), and raw pixels; gives one map per image and class.

Source: R. R. Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV
2017.  The maps are those that global average pooling takes, the output of the last convolutional block.  What follows
them has a slope that is known exactly, so nothing is differentiated automatically, and every backend of Keras gives the
same: pooling divides by the number of places, a standardisation by the spread, the dense layer multiplies by its
weights, and a layer normalisation has a slope of its own at each image.  Of a network whose features come from several
stages, the maps are those of the last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from skin_tl.errors import SkinTLError
from skin_tl.models.backbones import head_layers, import_keras, network_of

if TYPE_CHECKING:
    from keras import Model

keras = import_keras()

BATCH = 32
"""Images per forward pass."""

WORTH_COMPILING = 4
"""Up to so many batches a network runs layer by layer."""


def gradcam(
    model: Model, pixels: np.ndarray, classes: Sequence[int] | np.ndarray, seen: Model | None = None
) -> np.ndarray:
    """Compute Grad-CAM: how much each place of an image contributes to the score of a class.

    Constant memory: pixels are read one batch at a time.

    Parameters
    ----------
    model
        Backbone with global average pooling, then a head that ends in dense softmax, as
        `skin_tl.explain.explanations.open_model` puts them together.
    pixels
        (n_images, size, size, 3) uint8, maybe memory-mapped.
    classes
        (n_images,) the class, an output of the model, that each image is asked about.
    seen
        What `feature_maps` returned for the model, whose compiled form then serves several calls.

    Returns
    -------
    numpy.ndarray
        (n_images, size, size) float32 in 0…1: 1 where most speaks for the class, 0 where nothing or the contrary does;
        0 everywhere where nothing in the image speaks for it.

    Raises
    ------
    SkinTLError
        If the model gives numbers that are not finite.
    """
    seen, asked = seen or feature_maps(model), np.asarray(classes)
    size = pixels.shape[1:3]
    found = np.zeros((len(pixels), *size), np.float32)
    for rows, (maps, features) in in_batches(seen, pixels, np.arange(len(pixels))):
        maps = maps.astype(np.float64)
        slopes = score_slopes(model, maps.mean(axis=(1, 2)), features, asked[rows])
        heat = np.maximum(np.einsum("nhwk,nk->nhw", maps, slopes), 0)
        if not np.isfinite(heat).all():
            raise SkinTLError(
                f"{model.name}: feature maps that are not finite, so its weights are damaged. Delete its "
                "run.json and run the study again."
            )
        for row, one in zip(rows, heat, strict=True):
            found[row] = _enlarged(one, size)
    return found


def in_batches(model: Model, pixels: np.ndarray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Any]]:
    """Yield the outputs of a model for some images, batch by batch: their rows and an array, or a list of arrays.

    All batches have one shape, the last one filled up, so that the model is compiled once; for a few batches it is not
    compiled at all, which would take longer than they do.
    """
    call = model.predict_on_batch if len(rows) > WORTH_COMPILING * BATCH else partial(model, training=False)
    for first in range(0, len(rows), BATCH):
        some = rows[first : first + BATCH]
        batch = pixels[np.resize(some, min(BATCH, len(rows)))]
        values = keras.tree.map_structure(keras.ops.convert_to_numpy, call(batch))
        yield some, keras.tree.map_structure(itemgetter(slice(len(some))), values)


def _enlarged(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a map, (height, width) and not negative, to 1 at most, and to the image's size, bilinearly."""
    heat = heat / heat.max() if heat.max() > 0 else heat
    picture = Image.fromarray(heat.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR)
    heat = np.clip(np.asarray(picture), 0, 1)
    return heat / heat.max() if heat.max() > 0 else heat


def feature_maps(model: Model) -> Model:
    """Return the part of a whole model, as for `gradcam`, that ends in the maps of the last convolutional block.

    Returns
    -------
    keras.Model
        From (n_images, size, size, 3) uint8 to the maps, (n_images, height, width, n_maps) float32, and the backbone's
        features, (n_images, n_features) float32.
    """
    network, pooling = _parts(model)[:2]
    (seen, maps), (whole, scaled) = _with_input_of(network, pooling), _with_input_of(model, network)
    both = keras.Model(seen.input, [maps, seen.output])
    return keras.Model(whole.input, both(scaled, training=False), name=f"{model.name}_maps")


def score_slopes(model: Model, means: np.ndarray, features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the gradient of a class's logit by the mean of each feature map.

    Divided by the number of places it is the slope of each place.

    Parameters
    ----------
    model
        As for `gradcam`.
    means
        (n_images, n_maps) float, the means of the maps, before anything that the backbone does to them.
    features
        (n_images, n_features) float, the backbone's: the last n_maps of them come from these maps.
    classes
        (n_images,) int.

    Returns
    -------
    numpy.ndarray
        (n_images, n_maps) float64.
    """
    _, _, inside, steps, dense = _parts(model)
    slopes = keras.ops.convert_to_numpy(dense.kernel).astype(np.float64).T[classes]
    slopes = _back_through(steps, features, slopes)[:, -means.shape[1] :]
    return _back_through(inside, means, slopes)


def _back_through(steps, values, slopes):
    """Return slopes by what some layers, called one after the other, are given, from those by what they give."""
    given = []
    for step in steps:
        given.append(np.asarray(values, np.float64))
        values = keras.ops.convert_to_numpy(step(np.asarray(values, np.float32), training=False))
    for step, values in zip(reversed(steps), reversed(given), strict=True):
        slopes = _SLOPES[type(step)](step, values, slopes)
    return slopes


def shuffle_weights(model: Model, seed: int = 0) -> None:
    """Shuffle the weights inside each kernel of a model, which keeps their scale and removes what was trained.

    For the check of Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018: a map that says something of what
    the network learned must change.  Vectors (biases, the statistics of batch normalisation) stay, lest numbers
    overflow.
    """
    rng = np.random.default_rng(seed)
    model.set_weights([rng.permutation(w.ravel()).reshape(w.shape) if w.ndim > 1 else w for w in model.get_weights()])


def _parts(model):
    """Return a model's backbone, its pooling, the layers of both parts behind it, and the dense layer at the end."""
    network = network_of(model)
    *_, pooling = (layer for layer in network.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D))
    inside = network.layers[network.layers.index(pooling) + 1 :]  # EfficientNet has others inside of its blocks
    if inside and isinstance(inside[-1], keras.layers.Concatenate):
        inside = inside[-2:-1]  # of the last stage; the others' stand before it
    after = [one for part in head_layers(model) for one in getattr(part, "layers", [part])]
    *steps, dense = (layer for layer in after if not isinstance(layer, keras.layers.InputLayer))
    if isinstance(dense, keras.layers.Softmax):  # of the dense layer's scores
        *steps, dense = steps
    return network, pooling, inside, steps, dense


def _with_input_of(model, layer):
    """Return a copy of a model, with the same layers, and what is given to one of them."""
    given = []

    def call(other, *arguments, **keywords):
        if other is layer:
            given.append(arguments[0])
        return other(*arguments, **keywords)

    copy = keras.models.clone_model(model, call_function=call, clone_function=lambda other: other)
    return copy, given[0]


# The slopes of what may stand between pooling and the dense layer, each from the slopes of what the layer gives: a
# layer, what it was given, and (n_images, n_features) slopes.


def _of_rescaling(layer, values, slopes):
    return slopes * np.asarray(layer.scale, np.float64)


def _of_normalization(layer, values, slopes):
    spread = np.sqrt(keras.ops.convert_to_numpy(layer.variance).astype(np.float64))
    return slopes / np.maximum(spread, keras.backend.epsilon()).reshape(1, -1)


def _of_layer_normalization(layer, values, slopes):
    """Slopes through (x − mean)/√(variance + ε)·γ, where mean and variance are those of the features of one image."""
    deviation = np.sqrt(values.var(axis=1, keepdims=True) + layer.epsilon)
    standard = (values - values.mean(axis=1, keepdims=True)) / deviation
    if layer.gamma is not None:
        slopes = slopes * keras.ops.convert_to_numpy(layer.gamma).astype(np.float64)
    along = (slopes * standard).mean(axis=1, keepdims=True)
    return (slopes - slopes.mean(axis=1, keepdims=True) - standard * along) / deviation


_SLOPES = {
    keras.layers.Rescaling: _of_rescaling,
    keras.layers.Normalization: _of_normalization,
    keras.layers.LayerNormalization: _of_layer_normalization,
    keras.layers.Dropout: lambda layer, values, slopes: slopes,
}
