"""Backbones see what keras.applications documents, whichever road their weights come by."""

import dataclasses
import importlib
import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest

from skin_tl import registry
from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, write_json
from skin_tl.models import backbones
from skin_tl.models.backbones import build_backbone, resolve_weights
from skin_tl.models.runs import prepare_weights
from skin_tl.registry import BACKBONES, Backbone

keras = pytest.importorskip("keras")

RANDOM = {"source": "random"}
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 75, 75, 3), np.uint8)


def _documented(name, pixels):
    """Return pixels prepared by the function that keras.applications documents for this network."""
    module = getattr(keras.applications, BACKBONES[name].module)
    return module.preprocess_input(pixels.astype(np.float32))


@pytest.mark.parametrize("name", sorted({*BACKBONES} - {"EfficientNetB7"}))  # EfficientNetB7 takes minutes
def test_native_features_are_those_of_the_documented_preprocessing(name):
    model = build_backbone(name, "native", 75, RANDOM)
    network = getattr(keras.applications, name)(weights=None, include_top=False, pooling="avg", input_shape=(75, 75, 3))
    network.set_weights(model.get_weights())
    expected = network.predict_on_batch(_documented(name, PIXELS))
    spread = expected.std()
    np.testing.assert_allclose(model.predict_on_batch(PIXELS) / spread, expected / spread, atol=1e-4)


@pytest.mark.parametrize("name", ["VGG16", "MobileNetV2"])
def test_unit_features_are_those_of_pixels_between_minus_one_and_one(name):
    model = build_backbone(name, "unit", 75, RANDOM)
    network = getattr(keras.applications, name)(weights=None, include_top=False, pooling="avg", input_shape=(75, 75, 3))
    network.set_weights(model.get_weights())
    expected = network.predict_on_batch(PIXELS.astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(model.predict_on_batch(PIXELS) / expected.std(), expected / expected.std(), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("VGG16", ("block3_pool", "block4_pool", "block5_pool")),
        ("Xception", ("block4_sepconv1_act", "block13_sepconv1_act", "block14_sepconv2_act")),
        ("ResNet50", ("conv3_block4_out", "conv4_block6_out", "conv5_block3_out")),
        ("MobileNetV2", ("block_6_expand_relu", "block_13_expand_relu", "out_relu")),
    ],
)
def test_features_of_all_stages_are_the_means_of_the_last_three_each_normalised(name, ends, tmp_path):
    model = build_backbone(name, "native", 75, RANDOM, features="all_stages")
    last = build_backbone(name, "native", 75, RANDOM)
    network = backbones.network_of(last)
    maps = keras.Model(network.input, [network.get_layer(end).output for end in ends])
    expected = []
    for values in maps.predict_on_batch(_documented(name, PIXELS)):
        means = values.astype(np.float64).mean(axis=(1, 2))
        expected.append((means - means.mean(axis=1, keepdims=True)) / means.std(axis=1, keepdims=True))
    found = model.predict_on_batch(PIXELS)
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), atol=2e-3)

    # a layer for each stage, of Keras's own: the file is read back without this package's code
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict_on_batch(PIXELS), found)
    assert backbones.model_fingerprint(again) == backbones.model_fingerprint(model)
    assert backbones.model_fingerprint(model) != backbones.model_fingerprint(last)


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("ConvNeXtTiny", (192, 384, 768)),  # Liu et al., CVPR 2022
        ("EfficientNetB7", (6 * 80, 6 * 224, 2560)),  # Tan and Le, ICML 2019, widened by 2; its stages end expanded
    ],
)
def test_three_stages_are_found_where_layers_have_no_name_of_their_own_or_pool_inside(name, widths):
    model = build_backbone(name, "native", 64, RANDOM, features="all_stages")
    found = model.predict_on_batch(PIXELS[:, :64, :64])
    assert found.shape == (3, sum(widths))
    for stage in np.split(found, np.cumsum(widths)[:-1], axis=1):
        np.testing.assert_allclose(stage.mean(axis=1), 0, atol=1e-4)
        np.testing.assert_allclose(stage.std(axis=1), 1, atol=1e-3)


def test_stages_that_the_registry_does_not_name_are_asked_for(monkeypatch):
    monkeypatch.setitem(BACKBONES, "MobileNetV2", dataclasses.replace(BACKBONES["MobileNetV2"], stages=()))
    with pytest.raises(SkinTLError, match=r"features: all_stages.*MobileNetV2.*registry\.py.*features: last"):
        build_backbone("MobileNetV2", "native", 64, RANDOM, features="all_stages")


def test_two_names_for_one_transform_are_known_as_such():
    assert registry.transform_of("Xception", "native") == registry.transform_of("Xception", "unit")
    assert registry.transform_of("ResNet50", "native") != registry.transform_of("ResNet50", "unit")


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "EfficientNetB7"])
def test_the_registry_says_what_preprocess_input_does(name):
    assert [BACKBONES[name].transform] == _what_it_does(name), f"`transform` of {name}, beside what its module does"


def _what_it_does(name):
    """Return the words of `Backbone.transform` that say what a network's ``preprocess_input`` does."""
    values = np.zeros((1, 1, 1, 3), np.float32) + [10.0, 100.0, 200.0]
    expected = {
        "tf": values / 127.5 - 1,
        "caffe": values[..., ::-1] - [103.939, 116.779, 123.68],
        "torch": (values / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
        "none": values,
    }
    found = _documented(name, values)
    return [word for word, wanted in expected.items() if np.allclose(found, wanted, rtol=1e-5)]


def test_a_transform_that_no_backbone_here_has_is_known_and_computed(monkeypatch):
    monkeypatch.setitem(BACKBONES, "DenseNet121", Backbone("densenet", "torch", 224, ("conv5", "bn")))
    assert _what_it_does("DenseNet121") == ["torch"]
    scaled = backbones.scale_pixels(PIXELS.astype(np.float32), "DenseNet121", "native")
    np.testing.assert_allclose(scaled, _documented("DenseNet121", PIXELS), atol=1e-5)


def test_parameter_counts_are_the_published_ones():
    # The presentation's figure for VGG16, and the layers of Simonyan & Zisserman (2015) counted by hand
    convolutions = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)]
    convolutions += [(256, 512)] + [(512, 512)] * 5
    without = sum((9 * i + 1) * o for i, o in convolutions)
    dense = (7 * 7 * 512 + 1) * 4096 + 4097 * 4096 + 4097 * 1000
    assert backbones.build_backbone("VGG16", "unit", 224, {"source": "random"}).count_params() == without
    assert backbones.count_parameters_with_classifier("VGG16") == without + dense == 138_357_544


def test_efficientnet_by_file_is_the_network_that_keras_builds_for_imagenet(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "EfficientNetB0", Backbone("efficientnet", "none", 224, ("block7", "top")))
    source = keras.applications.EfficientNetB0(weights=None, include_top=False, input_shape=(64, 64, 3))
    rng = np.random.default_rng(0)
    source.set_weights([(w + rng.normal(0, 0.01, w.shape)).astype(w.dtype) for w in source.get_weights()])
    file = tmp_path / "efficientnetb0_notop.weights.h5"
    source.save_weights(file)
    by_file = build_backbone("EfficientNetB0", "native", 64, {"source": "folder", "file": str(file)})
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *a, **k: str(file))
    as_keras_does = keras.applications.EfficientNetB0(
        weights="imagenet", include_top=False, pooling="avg", input_shape=(64, 64, 3)
    )
    pixels = PIXELS[:, :64, :64]
    expected = as_keras_does.predict_on_batch(pixels.astype(np.float32))
    spread = expected.std(axis=0).max()  # what one image differs from another by
    np.testing.assert_allclose(by_file.predict_on_batch(pixels) / spread, expected / spread, atol=1e-2)
    plain = keras.Sequential([source, keras.layers.GlobalAveragePooling2D()])
    assert abs(plain.predict_on_batch(pixels.astype(np.float32)) - expected).max() > spread


def test_random_weights_are_the_same_each_time():
    first, second = (build_backbone("MobileNetV2", "native", 64, RANDOM) for _ in range(2))
    assert backbones.model_fingerprint(first) == backbones.model_fingerprint(second)


# Where weights come from


@pytest.fixture
def no_hub(monkeypatch):
    """Take the hub away: its name leads to a port of this machine at which nobody listens."""

    def refused(address, *arguments, **keywords):
        raise urllib.error.URLError(ConnectionRefusedError(111, "Connection refused"))

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", refused)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with the weights of a MobileNetV2, named by SKIN_TL_WEIGHTS."""
    keras.utils.set_random_seed(3)
    network = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(96, 96, 3))
    network.save_weights(tmp_path / "mobilenetv2_notop.weights.h5")
    monkeypatch.setenv("SKIN_TL_WEIGHTS", str(tmp_path))
    return tmp_path


def test_weights_in_a_folder_are_used_without_asking_the_hub(folder, no_hub):
    weights = resolve_weights(["MobileNetV2"], "imagenet")
    assert weights["source"] == "imagenet"
    assert weights["backbones"]["MobileNetV2"]["file"].endswith("mobilenetv2_notop.weights.h5")
    model = build_backbone("MobileNetV2", "native", 64, weights["backbones"]["MobileNetV2"])
    assert model.output_shape == (None, 1280)


def test_mobilenets_weights_are_the_same_for_every_size_and_by_every_road(folder, no_hub, tmp_path, monkeypatch):
    """Keras downloads other ones for 96, 128, 160 and 192 pixels, where a folder has one file for all."""
    asked = []

    def fetch(name, *arguments, **keywords):
        asked.append(name)
        network = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(224, 224, 3))
        network.load_weights(folder / "mobilenetv2_notop.weights.h5")
        network.save_weights(tmp_path / "fetched.weights.h5")
        return str(tmp_path / "fetched.weights.h5")

    module = importlib.import_module("keras.src.applications.mobilenet_v2")
    monkeypatch.setattr(module.file_utils, "get_file", fetch)
    by_hub = build_backbone("MobileNetV2", "native", 96, {"source": "keras"})
    by_folder = build_backbone(
        "MobileNetV2", "native", 96, resolve_weights(["MobileNetV2"], "imagenet")["backbones"]["MobileNetV2"]
    )
    assert asked and all("_224_" in name for name in asked)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    np.testing.assert_array_equal(by_hub.predict_on_batch(pixels), by_folder.predict_on_batch(pixels))


def test_missing_weights_are_named_with_every_remedy(folder, no_hub):
    with pytest.raises(SkinTLError, match="No ImageNet weights for VGG16") as error:
        resolve_weights(["MobileNetV2", "VGG16"], "imagenet")
    for remedy in ("vgg16_notop.weights.h5", "SKIN_TL_WEIGHTS", "--config backbones="):
        assert remedy in str(error.value)
    assert f"{folder}, has no vgg16_notop.weights.h5" in str(error.value)


def test_one_missing_backbone_gives_all_of_them_random_weights_and_a_reason(folder, no_hub):
    weights = resolve_weights(["MobileNetV2", "VGG16"], "imagenet_or_random")
    assert weights["source"] == "random"
    assert "VGG16" in weights["reason"]
    assert {entry["source"] for entry in weights["backbones"].values()} == {"random"}


def test_a_study_that_transfers_nothing_asks_for_no_weights(small_study, no_hub, tmp_path):
    study = small_study.model_copy(update={"strategies": ["from_scratch"], "weights": "imagenet"})
    weights = prepare_weights(study, tmp_path)
    assert (weights["source"], weights["reason"]) == ("none", "")
    assert weights["backbones"] == {"MobileNetV2": {"source": "random"}}
    # narrowed by a command line, a study keeps what its file needs: its other runs stay up to date
    with pytest.raises(SkinTLError, match="No ImageNet weights for MobileNetV2"):
        prepare_weights(study.model_copy(update={"overrides": ["strategies"]}), tmp_path)
    # near-duplicates in an external test set are told by features that were learned from photographs
    needy = study.model_copy(update={"external": "isic2018"})
    with pytest.raises(SkinTLError, match="No ImageNet weights for MobileNetV2"):
        prepare_weights(needy, tmp_path)


def test_a_weights_folder_that_is_none_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("SKIN_TL_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(SkinTLError, match="nowhere is not a folder"):
        resolve_weights(["VGG16"], "imagenet")


def test_weights_of_another_architecture_are_refused(folder, no_hub):
    (folder / "mobilenetv2_notop.weights.h5").rename(folder / "vgg16_notop.weights.h5")
    weights = resolve_weights(["VGG16"], "imagenet")["backbones"]["VGG16"]
    with pytest.raises(SkinTLError, match=r"vgg16_notop\.weights\.h5 does not hold the weights of VGG16"):
        build_backbone("VGG16", "native", 64, weights)


@pytest.mark.parametrize("content", [b"", b"not HDF5"])
def test_a_damaged_weights_file_is_refused(folder, content):
    file = folder / "mobilenetv2_notop.weights.h5"
    file.write_bytes(content)
    weights = resolve_weights(["MobileNetV2"], "imagenet")["backbones"]["MobileNetV2"]
    with pytest.raises(SkinTLError, match=r"mobilenetv2_notop\.weights\.h5"):
        build_backbone("MobileNetV2", "native", 64, weights)


def test_a_download_that_breaks_off_is_told_and_the_demo_goes_on(monkeypatch, tmp_path):
    def broken(*_):
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.delenv("SKIN_TL_WEIGHTS", raising=False)
    monkeypatch.setattr(backbones, "_network", broken)
    with pytest.raises(SkinTLError, match=r"VGG16: the download of VGG16's from .* broke off .*Connection reset"):
        resolve_weights(["VGG16"], "imagenet")
    assert resolve_weights(["VGG16"], "imagenet_or_random")["source"] == "random"


def test_weights_are_told_by_their_content_wherever_they_lie(folder, tmp_path_factory, monkeypatch):
    record = folder / "weights.json"
    assert backbones.weights_state("VGG16", record) == "hub"
    state = backbones.weights_state("MobileNetV2", record)
    weights = resolve_weights(["MobileNetV2"], "imagenet")
    write_json(record, weights)
    assert backbones.weights_state("MobileNetV2", record) == state == weights["backbones"]["MobileNetV2"]["fingerprint"]
    before = build_backbone("MobileNetV2", "native", 64, weights["backbones"]["MobileNetV2"]).get_weights()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "mobilenetv2_notop.weights.h5").rename(elsewhere / "mobilenetv2_notop.weights.h5")
    monkeypatch.setenv("SKIN_TL_WEIGHTS", str(elsewhere))
    assert backbones.weights_state("MobileNetV2", record) == state
    moved = build_backbone("MobileNetV2", "native", 64, weights["backbones"]["MobileNetV2"]).get_weights()
    assert all((a == b).all() for a, b in zip(before, moved, strict=True))
    # other weights under the same name are noticed
    keras.utils.set_random_seed(4)
    other = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(96, 96, 3))
    other.save_weights(elsewhere / "mobilenetv2_notop.weights.h5")
    assert backbones.weights_state("MobileNetV2", record) != state
    with pytest.raises(SkinTLError, match="are gone or are others now"):
        build_backbone("MobileNetV2", "native", 64, weights["backbones"]["MobileNetV2"])


def test_weights_that_went_away_are_named(folder):
    weights = resolve_weights(["MobileNetV2"], "imagenet")["backbones"]["MobileNetV2"]
    (folder / "mobilenetv2_notop.weights.h5").unlink()
    with pytest.raises(SkinTLError, match="are gone"):
        build_backbone("MobileNetV2", "native", 64, weights)


def test_a_hub_that_is_silent_is_not_waited_for_without_end(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        retrieve = urllib.request.urlretrieve
        monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", lambda _, *more: retrieve(address, *more))
        monkeypatch.setattr(backbones, "PATIENCE_WITH_HUB", 0.5)
        monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path))
        monkeypatch.delenv("SKIN_TL_WEIGHTS", raising=False)
        with pytest.raises(SkinTLError, match=r"No ImageNet weights for VGG16: .*timed out"):
            resolve_weights(["VGG16"], "imagenet")
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("name", ["VGG16", "Xception", "ResNet50", "MobileNetV2"])
def test_real_weights_load_where_they_are_at_hand(name, monkeypatch):
    folder = os.environ.get("SKIN_TL_TEST_WEIGHTS")
    if not folder:
        pytest.skip("real weights are not at hand: name their folder by SKIN_TL_TEST_WEIGHTS")
    monkeypatch.setenv("SKIN_TL_WEIGHTS", folder)
    weights = resolve_weights([name], "imagenet")["backbones"][name]
    features = build_backbone(name, "native", 75, weights).predict_on_batch(PIXELS)
    network = getattr(keras.applications, name)(
        weights=weights["file"], include_top=False, pooling="avg", input_shape=(75, 75, 3)
    )
    expected = network.predict_on_batch(_documented(name, PIXELS))
    np.testing.assert_allclose(features, expected, atol=1e-4 * abs(expected).max())


def test_a_persons_own_settings_of_keras_change_nothing(tmp_path):
    """Nor do they end in an error: they are the `keras.json` of a home folder."""
    (tmp_path / "keras.json").write_text(json.dumps({"floatx": "float16", "image_data_format": "channels_first"}))
    code = (
        "import numpy as np; from skin_tl.models import backbones, heads\n"
        "model = backbones.build_backbone('MobileNetV2', 'native', 32, {'source': 'random'})\n"
        "pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)\n"
        "values = backbones.import_keras().ops.convert_to_numpy(model.predict_on_batch(pixels))\n"
        "head = heads.build_head(values, np.arange(2))\n"
        "print(values.dtype, float(values.sum()), head.probabilities(values).dtype)"
    )
    said = []
    for home in ({}, {"KERAS_HOME": str(tmp_path)}):
        done = subprocess.run([sys.executable, "-c", code], env=os.environ | home, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1] and said[0].startswith("float32") and said[0].endswith("float32\n")


def test_keras_is_imported_in_one_place():
    importing = []
    for file in (ROOT / "skin_tl").rglob("*.py"):
        # what types alone need is not imported when a program runs
        code = re.sub(r"^if TYPE_CHECKING:\n((    .*)?\n)+", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        if re.search(r"^ *(import|from) keras\b", code, re.MULTILINE):
            importing.append(file.name)
    assert importing == ["backbones.py"]
