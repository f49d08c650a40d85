"""Grad-CAM is what automatic differentiation gives, and points where the answer is known to lie."""

import os

import numpy as np
import pytest

from skin_tl.backbones import BACKBONES, build_backbone, resolve_weights
from skin_tl.errors import SkinTLError
from skin_tl.study import CLASSES

keras = pytest.importorskip("keras")

from skin_tl import gradcam, training  # noqa: E402

RANDOM = {"source": "random"}
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 96, 96, 3), np.uint8)


def whole_model(name, pixels, size=96, weights=RANDOM, folder=None):
    """Put a backbone and a head with random weights together as a run does, and read it back where a folder is given."""
    backbone = build_backbone(name, "native", size, weights)
    head = training.build_head(backbone.predict_on_batch(pixels), np.arange(len(pixels)))
    dense = head.get_layer("diagnosis")
    dense.set_weights([np.random.default_rng(1).normal(size=weight.shape) for weight in dense.get_weights()])
    if folder is None:
        return keras.Model(backbone.input, head(backbone.output), name=backbone.name)
    training.save_model(backbone, head, folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


# The same as automatic differentiation


@pytest.mark.parametrize("name", ["VGG16", "Xception", "ResNet50", "MobileNetV2", "ConvNeXtTiny"])
def test_slopes_are_those_of_tensorflow_s_gradient_tape(name, tmp_path):
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("a gradient tape needs Keras to compute with TensorFlow")
    model, classes = whole_model(name, PIXELS, folder=tmp_path), np.array([4, 0, 6])
    maps = tf.constant(gradcam.feature_maps(model).predict_on_batch(PIXELS))
    network, head = model.layers[-2:]
    pooling = next(layer for layer in network.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D))
    after = network.layers[network.layers.index(pooling) :]
    with tf.GradientTape() as tape:
        tape.watch(maps)
        values = maps
        for layer in (*after, *head.layers[:-1]):
            values = layer(values)
        dense = head.layers[-1]
        scores = tf.matmul(values, dense.kernel) + dense.bias
        score = tf.reduce_sum(tf.gather(scores, classes, axis=1, batch_dims=1))
    np.testing.assert_allclose(tf.nn.softmax(scores), model.predict_on_batch(PIXELS), atol=1e-4)
    expected = tape.gradient(score, maps).numpy()
    n_places = np.prod(maps.shape[1:3])
    found = gradcam.score_slopes(model, maps.numpy().mean(axis=(1, 2)), classes) / n_places
    spread = np.abs(expected).max()
    np.testing.assert_allclose(np.broadcast_to(found[:, None, None], maps.shape) / spread, expected / spread, atol=1e-4)

    # and the map is Grad-CAM's: its weights are the means of these slopes over all places
    weights = expected.mean(axis=(1, 2))
    heat = np.maximum((maps.numpy() * weights[:, None, None]).sum(axis=-1), 0)
    seen = gradcam.gradcam(model, PIXELS, classes)
    assert seen.shape == (3, 96, 96) and seen.dtype == np.float32 and seen.min() >= 0 and seen.max() <= 1
    for one, low in zip(seen, heat, strict=True):
        wide = keras.ops.convert_to_numpy(keras.ops.image.resize(low[..., None], (96, 96), "bilinear"))[..., 0]
        np.testing.assert_allclose(one, wide / (wide.max() or 1), atol=1e-3)
