"""Grad-CAM is what automatic differentiation gives, and points where the answer is known to lie."""

import dataclasses
import os

import numpy as np
import pytest

from skin_tl.errors import SkinTLError
from skin_tl.models.backbones import build_backbone, features_model, join, resolve_weights
from skin_tl.registry import BACKBONES
from skin_tl.study import check_study

keras = pytest.importorskip("keras")

from skin_tl.explain import gradcam
from skin_tl.models import heads

RANDOM = {"source": "random"}
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 96, 96, 3), np.uint8)


def whole_model(name, pixels, size=96, weights=RANDOM, folder=None, features="last"):
    """Put a backbone and a random head together as a run does, and read it back where a folder is given."""
    backbone = build_backbone(name, "native", size, weights, features=features)
    head = heads.build_head(backbone.predict_on_batch(pixels), np.arange(len(pixels)))
    drawn = {name: np.random.default_rng(1).normal(size=getattr(head, name).shape) for name in ("kernel", "bias")}
    model = join(backbone, dataclasses.replace(head, **drawn))
    if folder is None:
        return model
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


# The same as automatic differentiation


@pytest.mark.parametrize(
    ("name", "features"),
    [(name, "last") for name in sorted({*BACKBONES} - {"EfficientNetB7"})]  # EfficientNetB7 takes minutes
    + [("MobileNetV2", "all_stages"), ("ConvNeXtTiny", "all_stages")],
)
def test_slopes_are_those_of_tensorflow_s_gradient_tape(name, features, tmp_path):
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("a gradient tape needs Keras to compute with TensorFlow")
    model, classes = whole_model(name, PIXELS, folder=tmp_path, features=features), np.array([4, 0, 6])
    maps, given = gradcam.feature_maps(model).predict_on_batch(PIXELS)
    maps = tf.constant(maps)
    network, head = model.layers[-2:]
    *_, pooling = (layer for layer in network.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D))
    after = network.layers[network.layers.index(pooling) :]
    if features == "all_stages":
        after = [pooling, after[-2], lambda last: tf.concat([given[:, : -last.shape[1]], last], axis=1)]
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
    found = gradcam.score_slopes(model, maps.numpy().mean(axis=(1, 2)), given, classes) / n_places
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


def test_a_map_does_not_depend_on_the_other_images_or_their_number(monkeypatch):
    model, classes = whole_model("MobileNetV2", PIXELS), np.array([4, 0, 6])
    together = gradcam.gradcam(model, PIXELS, classes)
    assert len(np.unique(together.round(3).reshape(3, -1), axis=0)) == 3
    monkeypatch.setattr(gradcam, "BATCH", 2)
    np.testing.assert_allclose(gradcam.gradcam(model, PIXELS[::-1], classes[::-1])[::-1], together, atol=1e-3)


def test_nothing_that_speaks_for_a_class_gives_zeros():
    model = _whole(_small(), _head(keras.layers.Rescaling(3.0)))

    def of_slope(sign):
        """Return the map where all weights of the network are positive, and those of the head have this sign."""
        for layer, factor in ((model.layers[-2].layers[1], 1), (model.layers[-1].layers[-1], sign)):
            kernel, bias = layer.get_weights()
            layer.set_weights([factor * np.abs(kernel), bias])
        return gradcam.gradcam(model, PIXELS[:1, :32, :32], [2])

    assert of_slope(1).any()
    none = of_slope(-1)
    assert none.shape == (1, 32, 32) and not none.any()


def test_a_softmax_of_its_own_is_the_same_head():
    """Whole networks that were tuned end so: scores, then their softmax, without a model around the head."""
    model = _whole(_small(keras.layers.LayerNormalization()), _head(keras.layers.Rescaling(3.0)))
    network, head = model.layers[-2:]
    pixels = keras.Input((32, 32, 3), dtype="uint8")
    values = head.layers[0](network(keras.ops.cast(pixels, "float32")))
    scores = keras.layers.Dense(7)
    other = keras.Model(pixels, keras.layers.Softmax()(scores(values)), name="other")
    scores.set_weights(head.layers[-1].get_weights())
    images = PIXELS[:, :32, :32]
    np.testing.assert_allclose(other.predict_on_batch(images), model.predict_on_batch(images), atol=1e-6)
    np.testing.assert_array_equal(gradcam.gradcam(other, images, [1, 2, 3]), gradcam.gradcam(model, images, [1, 2, 3]))
    features = features_model(model).predict_on_batch(images)
    np.testing.assert_allclose(head.predict_on_batch(features), model.predict_on_batch(images), atol=1e-6)


# Refusals


def _small(*after):
    """Return a small network with these layers behind its pooling."""
    layers = [keras.Input((32, 32, 3)), keras.layers.Conv2D(5, 8, strides=8, activation="relu")]
    layers += [keras.layers.GlobalAveragePooling2D(), *after]
    values = layers[0]
    for layer in layers[1:]:
        values = layer(values)
    return keras.Model(layers[0], values, name="network")


def _whole(network, head):
    pixels = keras.Input((32, 32, 3), dtype="uint8")
    return keras.Model(pixels, head(network(keras.ops.cast(pixels, "float32"))), name="whole")


def _head(*layers, activation="softmax"):
    return keras.Sequential([*layers, keras.layers.Dense(7, activation)])


def test_numbers_that_are_not_finite_are_told():
    model = _whole(_small(), _head())
    model.set_weights([np.full(weight.shape, np.inf) for weight in model.get_weights()])
    with pytest.raises(SkinTLError, match="not finite"):
        gradcam.gradcam(model, PIXELS[:1, :32, :32], [0])


# A case whose answer is known: what a class depends on stands in one corner


def draw_corners(size, corner, n_pairs, rng):
    """Draw pairs of images that differ in one quarter alone: the second has a chequered patch there.

    The ground is of blurred colours, drawn at random, the same in both images of a pair.

    Returns
    -------
    pixels : numpy.ndarray
        (2 · n_pairs, size, size, 3) uint8.
    labels : numpy.ndarray
        (2 · n_pairs,) 0 and 1 in turn.
    """
    from PIL import Image

    radius, pixels = 0.12 * size, []
    checks = np.kron(np.indices((6, 6)).sum(axis=0) % 2, np.ones((10, 10))) * 255
    checks = Image.fromarray(checks.astype(np.uint8)).convert("RGB").resize((round(2 * radius),) * 2)
    for _ in range(n_pairs):
        ground = rng.normal(150, 30, (4, 4, 3)).clip(0, 255).astype(np.uint8)
        ground = np.asarray(Image.fromarray(ground).resize((size, size), Image.Resampling.BICUBIC))
        picture = Image.fromarray((ground + rng.normal(0, 3, ground.shape)).clip(0, 255).astype(np.uint8))
        place = [size * (0.15 + 0.7 * side) + rng.uniform(-0.02, 0.02) * size for side in divmod(corner, 2)]
        with_checks = picture.copy()
        with_checks.paste(checks, tuple(round(centre - radius) for centre in reversed(place)))
        pixels += [np.asarray(picture), np.asarray(with_checks)]
    return np.stack(pixels), np.arange(2 * n_pairs) % 2


def mass_by_quarter(maps):
    """Return how much of each map lies in each quarter, (n, 4) in 0…1, row by row; NaN for a map of zeros."""
    half = maps.shape[1] // 2
    parts = [maps[:, y : y + half, x : x + half].sum(axis=(1, 2)) for y in (0, half) for x in (0, half)]
    with np.errstate(invalid="ignore"):
        return np.stack(parts, axis=1) / maps.sum(axis=(1, 2))[:, None]


def look_into_corners(backbone, size, n_pairs=4):
    """Return the mass in the right quarter for images of all four corners, trained weights and shuffled: two (4, n)."""
    right, shuffled = [], []
    for corner in range(4):
        pixels, labels = draw_corners(size, corner, n_pairs, np.random.default_rng(corner))
        features, rows = backbone.predict_on_batch(pixels), np.arange(len(labels))
        head, _ = heads.train_head(features, labels, {"train": rows, "val": rows}, STUDY)
        assert (head.probabilities(features).argmax(axis=1) == labels).all()
        model, kept = join(backbone, head), backbone.get_weights()
        checked, classes = pixels[labels == 1], labels[labels == 1]
        right.append(mass_by_quarter(gradcam.gradcam(model, checked, classes))[:, corner])
        gradcam.shuffle_weights(model)
        shuffled.append(mass_by_quarter(gradcam.gradcam(model, checked, classes))[:, corner])
        backbone.set_weights(kept)
    return np.array(right), np.array(shuffled)


STUDY = check_study(
    {"name": "x", "title": "x", "dataset": "synthetic", "backbones": ["VGG16"], "seeds": [0], "max_epochs": 20}
)


def test_a_small_network_looks_into_the_right_corner():
    """Without downloaded weights: filters of eight pixels that answer to contrast alone, never to smooth ground."""
    keras.utils.set_random_seed(0)
    pixels, inner = keras.Input((96, 96, 3), dtype="uint8"), keras.Input((96, 96, 3))
    filters = keras.layers.Conv2D(64, 8, strides=4, activation="relu")
    network = keras.Model(inner, keras.layers.GlobalAveragePooling2D()(filters(inner)))
    kernel, bias = filters.get_weights()
    filters.set_weights([kernel - kernel.mean(axis=(0, 1)), bias - 0.1])
    scaled = keras.ops.cast(pixels, "float32") / 127.5 - 1
    right, _ = look_into_corners(keras.Model(pixels, network(scaled), name="small"), 96)
    assert (right > 0.8).all(), right.round(2)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "ConvNeXtTiny"])
def test_a_trained_network_looks_into_the_right_corner(name, monkeypatch):
    """With ImageNet weights over 80 % of each map lies in the quarter that decides; with shuffled ones it does not."""
    folder = os.environ.get("SKIN_TL_TEST_WEIGHTS")
    if not folder:
        pytest.skip("real weights are not at hand: name their folder by SKIN_TL_TEST_WEIGHTS")
    if not os.path.isfile(os.path.join(folder, f"{name.lower()}_notop.weights.h5")):
        pytest.skip(f"SKIN_TL_TEST_WEIGHTS has no weights of {name}")
    monkeypatch.setenv("SKIN_TL_WEIGHTS", folder)
    weights = resolve_weights([name], "imagenet")["backbones"][name]
    right, shuffled = look_into_corners(build_backbone(name, "native", 224, weights), 224)
    assert (right.mean(axis=1) > 0.8).all(), right.round(2)
    assert np.nan_to_num(shuffled).mean() < 0.5, shuffled.round(2)
