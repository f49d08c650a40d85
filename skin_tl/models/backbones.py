"""Backbones: pretrained networks without classifier, the source of their weights, and how they are built.

Takes a backbone's name, a preprocessing and a source of weights; gives a Keras model that turns raw pixels,
(n_images, size, size, 3) uint8, into features, (n_images, n_features) float32.  Keras is imported when a
network is built, so that reading the registry costs nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import math
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skin_tl.errors import SkinTLError
from skin_tl.files import file_fingerprint, fingerprint, is_disk_full, read_json
from skin_tl.registry import BACKBONES, check_backbones, transform_of
from skin_tl.schema import CLASSES, Features

if TYPE_CHECKING:
    import keras

    from skin_tl.models.heads import Head


WEIGHTS_HUB = "https://storage.googleapis.com/tensorflow/keras-applications/"
"""Where `keras.applications` downloads ImageNet weights from."""

PATIENCE_WITH_HUB = 20
"""Seconds that the hub has to answer, or to go on."""

# TensorFlow takes it for a mistake that each of several networks is traced, and warns.
logging.getLogger("tensorflow").setLevel(logging.ERROR)

RANDOM_WEIGHTS_SEED = 0

NORMALISATION_EPSILON = 1e-3
"""Added to the variance of an image's features before a head, as `keras.layers.LayerNormalization` does."""

TINY = 1e-30
"""Added to the variance of a stage's features: those of an untrained network may be of the order of 1e-12."""

_WEIGHTS_BY_SIZE = ("mobilenet", "mobilenet_v2")
"""Modules of `keras.applications` that download other weights for other sizes of image; those of `imagenet_size` are
taken for all, so that a study's numbers do not depend on where its weights come from."""


def import_keras() -> Any:
    """Import Keras with float32 and channels last, whatever the user's ``keras.json`` says; return it.

    All modules of the package get Keras by this function.
    """
    import keras

    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")
    return keras


def weights_file(backbone: str) -> Path | None:
    """Return the path of a backbone's weights below `SKIN_TL_WEIGHTS`, or None where the variable is not set.

    Raises
    ------
    SkinTLError
        If the variable names no folder.
    """
    folder = os.environ.get("SKIN_TL_WEIGHTS")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise SkinTLError(
            f"SKIN_TL_WEIGHTS={folder} is not a folder. Name the folder that holds the files "
            "<backbone in lower case>_notop.weights.h5, or unset the variable to download the weights."
        )
    return Path(folder).resolve() / f"{backbone.lower()}_notop.weights.h5"


def weights_state(backbone: str, record: Path) -> str:
    """Return what identifies a backbone's weights: the fingerprint of their file, or ``hub``.

    Parameters
    ----------
    record
        A study's ``weights.json``, if it is there: a file that has not changed since is not read again.
    """
    file = weights_file(backbone)
    if file is None or not file.is_file():
        return "hub"
    if record.is_file() and file.stat().st_ctime_ns < record.stat().st_mtime_ns:
        known = read_json(record)["backbones"].get(backbone, {})
        if known.get("file") == str(file):
            return known["fingerprint"]
    return file_fingerprint(file)


def resolve_weights(backbones: list[str], mode: str) -> dict[str, Any]:
    """Find the weights of every backbone of a study before anything is computed.

    Parameters
    ----------
    mode : {'imagenet', 'imagenet_or_random', 'random', 'none'}
        With ``imagenet_or_random`` the hub gets one attempt of `PATIENCE_WITH_HUB` seconds to answer; unless the
        weights of all backbones are there then, all get random ones.  ``none`` is for a study that transfers nothing:
        random weights are what it asks for, and nothing has to be said of them.

    Returns
    -------
    dict
        ``source`` ('imagenet', 'random' or 'none'), ``reason`` (a sentence, empty where nothing is to be said) and
        ``backbones``: for each, ``source`` ('folder', 'keras' or 'random') and ``file`` and ``fingerprint``
        where it is a file.

    Raises
    ------
    SkinTLError
        If `mode` is ``imagenet`` and weights cannot be had.
    """
    if mode == "none":
        return _random_for(backbones, "") | {"source": mode}
    if mode == "random":
        return _random_for(backbones, "the study asks for random weights")
    found = {}
    for name in backbones:
        file = weights_file(name)
        if file is not None and file.is_file():
            found[name] = {"source": "folder", "file": str(file), "fingerprint": file_fingerprint(file)}
    missing = [name for name in backbones if name not in found]
    problem = _download(missing) if missing else ""
    if not problem:
        found |= {name: {"source": "keras"} for name in missing}
        return {"source": "imagenet", "reason": "", "backbones": {name: found[name] for name in backbones}}
    if mode == "imagenet_or_random":
        return _random_for(backbones, problem)
    files = ", ".join(f"{name.lower()}_notop.weights.h5" for name in missing)
    looked = os.environ.get("SKIN_TL_WEIGHTS", "")
    raise SkinTLError(
        f"No ImageNet weights for {', '.join(missing)}: "
        + (f"the folder that SKIN_TL_WEIGHTS names, {looked}, has no {files}, and " if looked else "")
        + f"{problem}. Either connect to the network (they are downloaded "
        f"once, from {WEIGHTS_HUB}), or put {files} in a "
        "folder and name it by SKIN_TL_WEIGHTS, or leave these backbones out: `--config backbones=A,B`."
    )


def _random_for(backbones, reason):
    return {"source": "random", "reason": reason, "backbones": {name: {"source": "random"} for name in backbones}}


def _download(backbones):
    """Download ImageNet weights by Keras, or find them in its cache; return the error, or an empty string."""
    with _bounded_patience():
        for name in backbones:
            try:
                _network(name, "imagenet")
            except Exception as error:  # Keras raises a plain Exception when a download fails
                if "fetch failure" in str(error):
                    return f"{WEIGHTS_HUB} cannot be reached and Keras holds no copy of {name}'s"
                broken = isinstance(error, (OSError, http.client.HTTPException)) or "corrupted file" in str(error)
                if is_disk_full(error) or not broken:
                    raise
                return f"the download of {name}'s from {WEIGHTS_HUB} broke off ({error})"
    return ""


@contextlib.contextmanager
def _bounded_patience():
    """Make a connection inside the block fail that is silent for `PATIENCE_WITH_HUB` seconds; Keras sets no bound."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_WITH_HUB)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _network(name, weights, image_size=224):
    """Build one network of `keras.applications` without classifier; `weights` as its argument, or a file's path."""
    make, about = getattr(import_keras().applications, name), BACKBONES[name]
    options = {"include_top": False, "pooling": "avg", "input_shape": (image_size, image_size, 3)}
    if weights == "imagenet" and about.module in _WEIGHTS_BY_SIZE and image_size != about.imagenet_size:
        network = make(weights=None, **options)
        network.set_weights(_network(name, "imagenet", about.imagenet_size).get_weights())
        return network
    if weights == "imagenet":
        return make(weights="imagenet", **options)
    network = make(weights=None, **options)
    if BACKBONES[name].module == "efficientnet":
        network = _as_with_imagenet(network)
    if weights is not None:
        _load(network, name, weights)
    return network


def _load(network, name, file):
    """Load weights from a file; refuse one that leaves any of the network's kernels as it was initialised."""
    before = [weight.numpy() for weight in network.weights]
    problem = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns where it loads nothing; that is checked below
            network.load_weights(file)
    except Exception as error:  # h5py and Keras raise many types for a wrong file
        problem = str(error).strip().splitlines()[0].split(". ")[0]
    same = [weight.path for weight, old in zip(network.weights, before, strict=True) if _unchanged(weight, old)]
    if same and not problem:
        problem = f"nothing in it for {len(same)} layers, such as {same[0]}"
    if problem:
        raise SkinTLError(
            f"{file} does not hold the weights of {name} without its classifier ({problem}). Write it with "
            f"Keras 3: keras.applications.{name}(include_top=False).save_weights(…)."
        )


def _unchanged(weight, old):
    return len(weight.shape) >= 2 and bool((weight.numpy() == old).all())


def _as_with_imagenet(network):
    """Add the rescaling by 1/√σ that Keras puts into EfficientNet for ``weights="imagenet"`` alone.

    Source: keras.applications.efficientnet, which explains that the original weights were trained with
    (x − mean)/variance where Keras's layer divides by the standard deviation.
    """
    keras = import_keras()

    by_channel = [1 / math.sqrt(deviation) for deviation in (0.229, 0.224, 0.225)]

    def call(layer, *arguments, **keywords):
        outputs = layer(*arguments, **keywords)
        if isinstance(layer, keras.layers.Normalization):
            outputs = keras.layers.Rescaling(by_channel, name="rescaling_imagenet")(outputs)
        return outputs

    return keras.models.clone_model(network, call_function=call, clone_function=lambda layer: layer)


def build_backbone(
    name: str,
    preprocessing: str,
    image_size: int,
    weights: dict[str, Any],
    seed: int = RANDOM_WEIGHTS_SEED,
    features: Features = "last",
) -> keras.Model:
    """Build a backbone that takes raw pixels and gives one vector of features per image.

    Parameters
    ----------
    name
        A key of `BACKBONES`.
    preprocessing : {'native', 'unit'}
    image_size
        Side of the images, in pixels.
    weights
        The backbone's entry in what `resolve_weights` returned.
    seed
        Of random weights.
    features
        Of the ``last`` stage, as they are, or of ``all_stages``: the last three, each brought to mean 0 and
        variance 1 over its features of an image, side by side.

    Returns
    -------
    keras.Model
        From (n_images, image_size, image_size, 3) uint8 to (n_images, n_features) float32: preprocessing,
        network, global average pooling.

    Raises
    ------
    SkinTLError
        If the weights are of another architecture or their file is gone, the images are too small for it, or its
        stages are not known.
    """
    keras = import_keras()

    check_backbones([name], image_size, features)
    if weights["source"] == "random":
        keras.utils.set_random_seed(seed)
        network = _network(name, None, image_size)
    elif weights["source"] == "keras":
        network = _network(name, "imagenet", image_size)
    else:
        network = _network(name, _where_it_is_now(name, weights), image_size)
    if features == "all_stages":
        network = _pool_stages(network, name)
    network.trainable = False
    pixels = keras.Input((image_size, image_size, 3), dtype="uint8", name="pixels")
    scaled = scale_pixels(keras.ops.cast(pixels, "float32"), name, preprocessing)
    return keras.Model(pixels, network(scaled, training=False), name=f"{name}_{preprocessing}")


def _pool_stages(network, name):
    """Concatenate the pooled, normalised outputs of a network's last three stages."""
    keras = import_keras()

    before = BACKBONES[name].stages
    given = {}

    def call(layer, *arguments, **keywords):
        is_pooling = isinstance(layer, keras.layers.GlobalAveragePooling2D)
        if layer.name in before or is_pooling:
            given["last" if is_pooling else layer.name] = arguments[0]  # EfficientNet has others inside of its blocks
        return layer(*arguments, **keywords)

    whole = keras.models.clone_model(network, call_function=call, clone_function=lambda layer: layer)
    pooled = [keras.layers.GlobalAveragePooling2D()(given[layer]) for layer in (*before, "last")]
    normalised = [keras.layers.LayerNormalization(center=False, scale=False, epsilon=TINY)(one) for one in pooled]
    return keras.Model(whole.input, keras.layers.Concatenate()(normalised), name=network.name)


def _where_it_is_now(name, weights):
    """Return the file of a backbone's weights; `SKIN_TL_WEIGHTS` names the new place of a moved folder."""
    for file in (Path(weights["file"]), weights_file(name)):
        if file is not None and file.is_file():
            known = file_fingerprint(file)
            if weights.get("fingerprint", known) == known:
                return file
    raise SkinTLError(
        f"The weights of {name}, {weights['file']}, are gone or are others now. Restore them, or name the folder that "
        "holds them by SKIN_TL_WEIGHTS."
    )


def scale_pixels(pixels: keras.KerasTensor, name: str, preprocessing: str) -> keras.KerasTensor:
    """Scale pixels, (n_images, size, size, 3) float32 from 0 to 255, as a backbone gets them."""
    keras = import_keras()

    transform = transform_of(name, preprocessing)
    if transform == "none":
        return pixels
    return keras.applications.imagenet_utils.preprocess_input(pixels, mode=transform)


def network_of(model: keras.Model) -> keras.Model:
    """Return the network of `keras.applications` inside what `build_backbone` made, or a whole model made of it."""
    keras = import_keras()

    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def all_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield the layers of a model and of the models among them, which are yielded themselves too."""
    keras = import_keras()

    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from all_layers(layer)


def head_layers(whole: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a whole model, backbone and head, that follow its network, in order."""
    return whole.layers[whole.layers.index(network_of(whole)) + 1 :]


def standardising_layers(head: Head) -> list[keras.layers.Layer]:
    """Return the layers of Keras, in order, that standardise features as a head does."""
    layers = import_keras().layers
    normalised = {"epsilon": NORMALISATION_EPSILON, "center": False, "scale": False}
    return [
        layers.Rescaling(head.scale, name="typical_spread"),
        layers.LayerNormalization(**normalised, name="image_normalisation"),
        layers.Normalization(mean=head.mean, variance=np.square(head.deviation), name="standardisation"),
    ]


def join(backbone: keras.Model, head: Head) -> keras.Model:
    """Return backbone and head as one model from raw pixels to probabilities, made of Keras's own layers alone."""
    keras = import_keras()

    dense = keras.layers.Dense(len(CLASSES), "softmax", name="diagnosis")
    given = keras.Input(backbone.output_shape[1:], name="features")
    part = keras.Sequential([given, *standardising_layers(head), dense], name="head")
    dense.set_weights([head.kernel, head.bias])
    return keras.Model(backbone.input, part(backbone.output), name=backbone.name)


def features_model(whole: keras.Model) -> keras.Model:
    """Return the part of a whole model that ends in the backbone's features; it shares all weights.

    Parameters
    ----------
    whole
        A run's ``model.keras``: backbone and head.

    Returns
    -------
    keras.Model
        From (n_images, size, size, 3) uint8 to (n_images, n_features) float32.
    """
    keras = import_keras()

    after = head_layers(whole)
    return keras.models.clone_model(
        whole,
        clone_function=lambda layer: layer,
        call_function=lambda layer, *values, **named: values[0] if layer in after else layer(*values, **named),
    )


def model_fingerprint(model: keras.Model) -> str:
    """Return a fingerprint of what a Keras model computes: its operations with their constants, and all weights.

    Keras numbers the operations of a process: names do not count, and neither does what may be trained.
    """
    names: dict[str, str] = {}

    def unnamed(part):
        if isinstance(part, dict):
            return {key: unnamed(value) for key, value in part.items() if key != "trainable"}
        if isinstance(part, list):
            return [unnamed(value) for value in part]
        return names.get(part, part) if isinstance(part, str) else part

    structure = json.loads(model.to_json())
    _number_names(structure, names)
    return fingerprint(unnamed(structure), *(weight.tobytes() for weight in model.get_weights()))


def _number_names(part, names):
    """Give each name of a layer in a model's configuration its place, in the order in which they stand there."""
    if isinstance(part, dict):
        if "class_name" in part and isinstance(name := (part.get("config") or {}).get("name"), str):
            names.setdefault(name, f"layer {len(names)}")
        part = list(part.values())
    if isinstance(part, list):
        for value in part:
            _number_names(value, names)


def count_parameters_with_classifier(name: str) -> int:
    """Count the parameters of a network with its 1,000-class ImageNet classifier, without initialising them."""
    keras = import_keras()

    with keras.StatelessScope(initialize_variables=False):
        return getattr(keras.applications, name)(weights=None).count_params()
