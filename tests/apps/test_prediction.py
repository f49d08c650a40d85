"""Images of one's own: calibrated probabilities, the lesions most like them, and a warning where none is like them."""

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from copies import copy_project, start
from in_process import command
from PIL import Image, ImageDraw
from scipy import optimize, special
from sklearn.metrics import log_loss
from sklearn.metrics.pairwise import cosine_distances

from skin_tl.apps import explore, predict, prediction, runs, studies
from skin_tl.data.dataset import read_folder
from skin_tl.data.synthetic import draw_dataset
from skin_tl.explain.explanations import explained_head
from skin_tl.explain.neighbours import Rows, ood_limit
from skin_tl.files import read_json, write_json
from skin_tl.schema import CLASSES
from skin_tl.study import check_study

keras = pytest.importorskip("keras")

import tiny

from skin_tl.data import preparation
from skin_tl.models import backbones

NETWORK = backbones._network
PROBABILITIES = [f"p_{name}" for name in CLASSES]
STUDY = {
    "name": "small",
    "title": "A small study",
    "dataset": "ham10000",
    "image_size": 64,
    "backbones": ["MobileNetV2"],
    "seeds": [2, 1],
    "weights": "random",
    "max_epochs": 15,
}
"""Its backbone is a tiny network in place of MobileNetV2."""

RUN = Path("runs/small/feature_extraction/MobileNetV2")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a folder with the finished runs of a small study of drawn lesions, which also counts as HAM10000."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIN_TL_HAM10000", str(draw_dataset(root / "HAM10000", 50, 1, (96, 72), workers=1)))
        patch.setenv("SKIN_TL_CACHE", str(root / "cache"))
        patch.delenv("SKIN_TL_WEIGHTS", raising=False)
        tiny.install(patch.setattr)
        tiny.finish(root, STUDY)
        yield root


@pytest.fixture(scope="module")
def files(project):
    """Return the paths of the drawn images by image id."""
    return {path.stem: str(path) for path in (project / "HAM10000").rglob("*.jpg")}


@pytest.fixture(scope="module")
def subsets(project):
    """Return the subset of each image in the split of the saved model: the first seed that the study lists."""
    splits = pd.read_csv(project / "runs/small/dataset/splits.csv")
    return splits[splits["seed"] == 2].set_index("image_id")["subset"]


@pytest.fixture(scope="module")
def said(project, files, subsets):
    """Return the predictions of all test images and one training image."""
    chosen = [*subsets.index[subsets == "test"], subsets.index[subsets == "train"][3]]
    return prediction.predict_images([files[name] for name in chosen], "small", n_nearest=3, root=project)


def calibrated(raw, run):
    """Return probabilities, (n, 7), calibrated on the validation subset of a run by scikit-learn and SciPy alone."""
    written = pd.read_csv(run / "predictions.csv").query("arm == 'main' and seed == 2 and subset == 'val'")
    logits, labels = np.log(written[PROBABILITIES].to_numpy(float)), list(CLASSES)

    def loss(temperature):
        return log_loss(written["dx"], special.softmax(logits / temperature, axis=1), labels=labels)

    temperature = optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x
    return special.softmax(np.log(raw) / temperature, axis=1)


def test_probabilities_are_the_models_calibrated_on_the_validation_subset(project, said):
    table = said.table
    model = keras.models.load_model(project / RUN / "model.keras", compile=False)
    pictures = [Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC) for path in table["image"]]
    raw = np.asarray(model.predict_on_batch(np.stack(pictures)), float)
    expected = calibrated(raw, project / RUN)
    assert np.abs(expected - raw).max() > 0.02  # calibration does something
    np.testing.assert_allclose(table[PROBABILITIES].sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(table[PROBABILITIES].to_numpy(), expected, atol=2e-3)
    np.testing.assert_allclose(table["p_malignant"], table[["p_mel", "p_bcc", "p_akiec"]].sum(axis=1))
    assert table["predicted"].tolist() == [CLASSES[place] for place in raw.argmax(axis=1)]
    assert said.random_weights and any("random" in told for told in said.warnings())
    assert (table["unlike"] == (table["ood_score"] > table["limit"])).all()


def test_neighbours_are_training_images_of_different_lesions(project, files, subsets, said):
    metadata = pd.read_csv(project / "runs/small/dataset/metadata.csv").set_index("image_id")
    index = next((project / "cache" / "images").glob("*/index.csv"))
    ids = pd.read_csv(index)["image_id"].tolist()
    values = np.load(next((project / "cache" / "features").glob("*/features.npy")))
    known = [place for place, name in enumerate(ids) if subsets[name] == "train"]
    lesions = metadata.loc[[ids[place] for place in known], "lesion_id"]
    for image, found in said.neighbours.groupby("image"):
        distances = cosine_distances(values[[ids.index(Path(image).stem)]].astype(float), values[known].astype(float))
        nearest = pd.Series(distances[0]).groupby(lesions.to_numpy()).min().sort_values()[:3]
        assert found["lesion_id"].tolist() == nearest.index.tolist()
        np.testing.assert_allclose(found["distance"], nearest, atol=1e-5)
        assert found["rank"].tolist() == [1, 2, 3]
        assert (subsets[found["image_id"]] == "train").all()
        pd.testing.assert_frame_equal(
            metadata.loc[found["image_id"], ["lesion_id", "dx"]].reset_index(),
            found[["image_id", "lesion_id", "dx"]].reset_index(drop=True),
        )
        ood_score = said.table.set_index("image").loc[image, "ood_score"]
        assert ood_score == pytest.approx(np.sort(distances[0])[9], abs=1e-5)
    own = said.images[-1]  # a training image is most like itself
    assert said.neighbours[said.neighbours["image"] == own].iloc[0]["image_id"] == Path(own).stem


@pytest.mark.parametrize("subset", ["train", "val", "test"])
def test_an_image_that_the_models_were_trained_or_chosen_with_is_told(project, files, subsets, tmp_path, subset):
    """By its pixels, whatever the file is called; a picture that differs in one of them is another."""
    image_id = subsets.index[subsets == subset][5]
    picture = np.asarray(Image.open(files[image_id]).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)).copy()
    Image.fromarray(picture).save(tmp_path / "mine.png")
    picture[0, 0, 0] ^= 1
    Image.fromarray(picture).save(tmp_path / "other.png")
    paths = [files[image_id], str(tmp_path / "mine.png"), str(tmp_path / "other.png")]
    found = prediction.predict_images(paths, "small", root=project)
    known = {"train": "the training set", "val": "the validation set"}.get(subset)
    written = json.loads(predict.as_json(found))["images"]
    for path, of in zip(paths, written, strict=True):
        told = [line for line in found.warnings(path) if "very image" in line]
        if known and path != paths[2]:
            assert told == [line for line in of["warnings"] if f"image, {image_id}, is in" in line]
            assert known in told[0] and "optimistically biased" in told[0]
            assert of["predictions"][0]["seen"] == {"subset": subset, "image_id": image_id}
        else:
            assert not told and of["predictions"][0]["seen"] is None
    assert " ".join(predict.as_text(found).split()).count("This very image") == (2 if known else 0)


def others(folder):
    """Draw pictures that are no lesions; return their paths."""
    folder.mkdir(exist_ok=True)
    pictures = {name: Image.new("RGB", (600, 450), name) for name in ("white", "black", "pink", "#e0ac8c", "blue")}
    for paper, ink in (("white", "black"), ("#e0ac8c", "#3c1e14")):
        picture = pictures[f"text on {paper}"] = Image.new("RGB", (600, 450), paper)
        for line in range(14):
            told = "The quick brown fox jumps over the lazy dog 0123456789"[line % 7 :]
            ImageDraw.Draw(picture).text((10, 10 + 30 * line), told, fill=ink, font_size=24)
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
    return [str(folder / f"{name}.png") for name in pictures]


class Colours:
    """Stands for a network that has learned to see, as the small study's has not: how many pixels have each colour."""

    def predict_on_batch(self, pixels):
        codes = (pixels // 32).astype(int) @ [64, 8, 1]
        return np.stack([np.bincount(code.ravel(), minlength=512) for code in codes]).astype(np.float32)


class Undecided:
    """Stands for its head."""

    def predict_on_batch(self, values):
        return np.full((len(values), len(CLASSES)), 1 / len(CLASSES), np.float32)


def test_text_and_plain_colours_are_unlike_drawn_lesions_and_lesions_are_not(
    project, files, subsets, said, tmp_path, monkeypatch
):
    pixels = preparation.read_images(project / "runs/small").pixels
    values, ids = Colours().predict_on_batch(pixels), pd.Index(sorted(files))
    known, validation = (Rows(values, np.flatnonzero(subsets[ids] == name)) for name in ("train", "val"))
    whole = prediction.load_predictor(runs.finished_runs(project / "runs/small")[0])
    limit = ood_limit(validation, known)
    coloured = dataclasses.replace(whole.known, features=known)
    seen = dataclasses.replace(whole, body=Colours(), head=Undecided(), known=coloured, limit=limit)
    monkeypatch.setattr(prediction, "load_predictor", lambda run: seen)
    lesions = prediction.predict_images(said.images, "small", root=project)
    assert lesions.table["unlike"].mean() <= 0.1
    like = lesions.table.loc[~lesions.table["unlike"], "image"]
    assert not any("unlike" in told for image in like for told in lesions.warnings(image))
    pictures = [path for path in others(tmp_path) if "text on #e0ac8c" not in path]  # its colours are those of skin
    other = prediction.predict_images(pictures, "small", root=project)
    assert other.table["unlike"].all(), other.table[["image", "ood_score", "limit"]]
    assert all("unlike" in other.warnings(image)[0] for image in pictures)


@pytest.mark.slow
def test_text_and_plain_colours_are_unlike_real_lesions_and_lesions_are_not(tmp_path, monkeypatch):
    """Of a validation subset of 200 images, 1 % is two: the share of test lesions above their limit may be a few."""
    folder, weights = (os.environ.get(f"SKIN_TL_TEST_{name}") for name in ("HAM10000", "WEIGHTS"))
    if not folder or not weights:
        pytest.skip("needs SKIN_TL_TEST_HAM10000 and SKIN_TL_TEST_WEIGHTS")
    data = read_folder(Path(folder).resolve())
    lesions = data.metadata.drop_duplicates("lesion_id").sample(frac=1, random_state=0)
    some = pd.concat([lesions.groupby("dx").head(20), lesions.head(900)]).drop_duplicates()
    (tmp_path / "some").mkdir()
    for image_id in some["image_id"]:
        (tmp_path / "some" / f"{image_id}.jpg").symlink_to(data.files[image_id])
    some.to_csv(tmp_path / "some" / "HAM10000_metadata.csv", index=False)
    monkeypatch.setenv("SKIN_TL_HAM10000", str(tmp_path / "some"))
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SKIN_TL_WEIGHTS", str(Path(weights).resolve()))
    monkeypatch.setattr(backbones, "_network", NETWORK)
    tiny.finish(tmp_path, STUDY | {"weights": "imagenet", "seeds": [1], "image_size": 128})
    splits = pd.read_csv(tmp_path / "runs/small/dataset/splits.csv").query("subset == 'test'")
    found = prediction.predict_images([data.files[name] for name in splits["image_id"]], "small", root=tmp_path)
    assert len(found.images) > 180 and found.table["unlike"].mean() <= 0.04
    written = pd.read_csv(tmp_path / RUN / "predictions.csv").query("subset == 'test' and arm == 'main'")
    written = written.set_index("image_id")
    same = written.loc[splits["image_id"], PROBABILITIES].to_numpy().argmax(1) == found.table[
        PROBABILITIES
    ].to_numpy().argmax(1)
    assert same.mean() > 0.99
    other = prediction.predict_images(others(tmp_path / "others"), "small", root=tmp_path)
    assert other.table["unlike"].all(), other.table[["image", "ood_score", "limit"]]


@pytest.mark.parametrize("strategy", ["fine_tuning", "from_scratch"])
def test_whole_networks_predict_as_their_run_did(project, files, strategy):
    """Over all flips and rotations, as the study asks for."""
    other = {"fine_tuning": "from_scratch_epochs", "from_scratch": "fine_tuning_epochs"}[strategy]
    tuning = {key: value for key, value in tiny.TUNING.items() if key != other}
    changes = {"name": strategy, "strategies": [strategy], "seeds": [2, 3], "test_time_augmentation": True}
    settings = STUDY | tuning | changes
    if strategy == "from_scratch":  # it has no head that these would be of
        settings = {key: value for key, value in settings.items() if key not in ("l2", "max_epochs")}
    tiny.finish(project, settings)
    run = project / "runs" / strategy / strategy / "MobileNetV2"
    written = pd.read_csv(run / "predictions.csv").query("subset == 'test' and seed == 2")[:6]
    found = prediction.predict_images(
        [files[name] for name in written["image_id"]], strategy, root=project, explain=True
    )
    expected = calibrated(written[PROBABILITIES].to_numpy(float), run)
    np.testing.assert_allclose(found.table[PROBABILITIES].to_numpy(), expected, atol=2e-3)
    assert set(found.table["strategy"]) == {strategy} and len(found.neighbours) == 6 * prediction.N_NEAREST
    assert found.random_weights == (strategy == "fine_tuning")  # from scratch, they are meant
    assert set(found.maps) == {(image, strategy, "MobileNetV2") for image in found.images}
    assert all(shown.shape == (64, 64) and 0 <= shown.min() <= shown.max() <= 1 for shown in found.maps.values())
    # near lesions are those of the network that was chosen, not of the first one
    import keras

    from skin_tl.models.backbones import features_model

    opened, choice = studies.open_runs(project / "runs" / strategy), {"strategy": strategy, "backbone": "MobileNetV2"}
    for seed in (2, 3):
        network = keras.models.load_model(run / "models" / f"lesion_native_seed{seed}.keras", compile=False)
        chosen = choice | {"split_policy": "lesion", "preprocessing": "native", "seed": seed}
        features = explore.features_of_run(opened, chosen)
        by_hand = features_model(network).predict_on_batch(opened.images.pixels[:4])
        np.testing.assert_allclose(features[:4], by_hand, atol=1e-4)


def test_heads_of_several_views_predict_as_their_run_did(project, files):
    tiny.finish(project, STUDY | {"name": "flips", "seeds": [2], "views": 2, "random_control": False})
    run = project / "runs/flips/feature_extraction/MobileNetV2"
    written = pd.read_csv(run / "predictions.csv").query("subset == 'test'")[:6]
    found = prediction.predict_images([files[name] for name in written["image_id"]], "flips", root=project)
    expected = calibrated(written[PROBABILITIES].to_numpy(float), run)
    np.testing.assert_allclose(found.table[PROBABILITIES].to_numpy(), expected, atol=2e-3)
    assert len(found.neighbours) == 6 * prediction.N_NEAREST


# What is printed


def test_the_table_fits_the_terminal_and_json_holds_the_same(project, said, capsys, monkeypatch):
    image, path = said.images[0], said.images[1]
    arguments = ["--study", "small", os.path.basename(image), path]
    monkeypatch.chdir(os.path.dirname(image))
    usual = prediction.load_predictor(runs.finished_runs(project / "runs/small")[0])
    middle = said.table["ood_score"][:2].mean()
    monkeypatch.setattr(prediction, "load_predictor", lambda run: dataclasses.replace(usual, limit=middle))
    unlike = int(said.table["ood_score"][1] > middle)  # one of the two
    assert command(project, "predict", *arguments) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(len(line) for line in lines if line != path) <= 80
    assert lines[0].startswith("study small") and "Not a diagnosis" in shown
    rows = [line for line in lines if line.startswith("  MobileNetV2 ")]
    for line, row in zip(rows, said.table[:2].to_dict("records"), strict=True):
        found = line.rstrip("!").split()
        assert found[1] == row["predicted"]
        wanted = [100 * row[name] for name in (*PROBABILITIES, "p_malignant")] + [row["ood_score"] / middle]
        np.testing.assert_allclose([float(part) for part in found[2:]], wanted, atol=0.051)
    assert [line.endswith("!") for line in rows] == [unlike == 0, unlike == 1]
    warned = [place for place, line in enumerate(lines) if "WARNING" in line]
    assert len(warned) == 1 and lines[warned[0] - 1] == (os.path.basename(image), path)[unlike]

    assert command(project, "predict", *arguments, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    head = explained_head(check_study(STUDY))
    assert content["models"] == {"files": "runs/small/feature_extraction/BACKBONE/model.keras"} | head
    assert content["study"] == "small" and "Not a diagnosis" in content["warnings"][0]
    assert [of["image"] for of in content["images"]] == [os.path.basename(image), path]
    for place, of in enumerate(content["images"]):
        one, row = of["predictions"][0], said.table.iloc[place]
        assert one["unlike"] is bool(of["warnings"]) is (place == unlike)
        chances = [one["probabilities"][name] for name in CLASSES]  # of another pass, which float32 may round otherwise
        np.testing.assert_allclose(chances, row[PROBABILITIES].astype(float), rtol=1e-6)
        assert one["predicted"] == row["predicted"] and len(one["nearest"]) == prediction.N_NEAREST
        known = said.neighbours[said.neighbours["image"] == row["image"]]
        assert [near["image_id"] for near in one["nearest"][:3]] == known["image_id"].tolist()


def test_the_longest_names_fit_too():
    backbones = ["EfficientNetB7", "ConvNeXtTiny"]
    runs_of = [("a.png", strategy, name) for strategy in ("feature_extraction", "fine_tuning") for name in backbones]
    table = pd.DataFrame(runs_of, columns=predict.RUN_OF).assign(predicted="akiec", **dict.fromkeys(PROBABILITIES, 1.0))
    table = table.assign(p_malignant=1.0, ood_score=80.0, limit=1.0, unlike=True, seen="val", seen_as="ISIC_0024306")
    near = [(*run, rank, "ISIC_0024306", "HAM_1", "akiec", 1.0) for run in runs_of for rank in range(1, 6)]
    near = pd.DataFrame(near, columns=[*predict.RUN_OF, "rank", "image_id", "lesion_id", "dx", "distance"])
    study = check_study(STUDY | {"dataset": "synthetic", "title": "A title " * 20})
    shown = predict.as_text(prediction.Predictions(study, True, table, near, {"a.png": None}, {}))
    assert max(map(len, shown.splitlines())) <= 80
    where = "models: runs/small/{feature_extraction,fine_tuning}/BACKBONE/model.keras (seed "
    assert f"{where}{study.seeds[0]}, split by lesion, native scaling)" in " ".join(shown.split())
    assert "synthetic images" in shown and "EfficientNetB7 and ConvNeXtTiny" in " ".join(shown.split())
    assert shown.count("akiec 1.0") == len(near)


# Bad input


def refused(project, capsys, *arguments):
    """Return the one line that says why nothing was predicted."""
    assert command(project, "predict", *arguments) == 1
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line]
    assert not shown.out and len(lines) == 1 and lines[0].startswith("error: "), shown.err
    return lines[0]


def _truncated(path):
    Image.effect_noise((90, 90), 50).save(path.with_suffix(".jpg"))
    path.write_bytes(path.with_suffix(".jpg").read_bytes()[:600])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_truncated, "is damaged"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("lesion_id,image_id"), "is not an image"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: None, "does not exist"),
    ],
)
def test_a_file_that_is_no_image_is_told_in_one_line(project, files, tmp_path, capsys, spoil, reason):
    path = tmp_path / "mine.png"
    spoil(path)
    line = refused(project, capsys, "--study", "small", path)
    assert f"{path} {reason}" in line and "Nothing was predicted" in line


def test_one_bad_file_does_not_stop_the_others(project, files, tmp_path, capsys):
    good = list(files.values())[:2]
    arguments = ["--study", "small", good[0], str(tmp_path / "none.png"), good[1]]
    assert command(project, "predict", *arguments) == 1
    shown = capsys.readouterr()
    assert all(path in shown.out for path in good) and "none.png" not in shown.out
    assert shown.err == (
        f"error: 1 of 3 images cannot be read: {tmp_path / 'none.png'} does not exist. "
        "Replace these files, or leave them out.\n"
    )
    assert command(project, "predict", *arguments, "--json") == 1
    content = json.loads(capsys.readouterr().out)
    assert [of["image"] for of in content["images"]] == good
    assert content["errors"] == [{"image": arguments[3], "error": f"{arguments[3]} does not exist"}]


def test_names_that_a_terminal_cannot_show_lose_no_result(project, files, tmp_path, monkeypatch):
    for name in (b"\xff.jpg", "é\x1b[2J.jpg".encode()):
        shutil.copy(next(iter(files.values())), os.path.join(os.fsencode(tmp_path), name))
        for encoding in ("utf-8", "ascii"):
            for how in ([], ["--json"]):
                written = io.BytesIO()
                monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
                named = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
                assert command(project, "predict", "--study", "small", named, *how) == 0
                shown = written.getvalue().decode(encoding)
                assert ".jpg" in shown and "MobileNetV2" in shown and "\x1b" not in shown
                if how:
                    json.loads(shown)


def test_unknown_studies_and_backbones_are_told_with_those_that_there_are(project, files, tmp_path, capsys):
    image = next(iter(files.values()))
    line = refused(project, capsys, "--study", "smal", image)
    assert "No study is named 'smal'. Name another study. Studies with finished runs: " in line and "small." in line
    assert "has no finished run of 'VGG16'. Name one of MobileNetV2" in refused(
        project, capsys, "--backbone", "VGG16", image
    )
    assert "No study has finished runs" in refused(tmp_path, capsys, image)
    half = tmp_path / "runs" / "half"
    half.mkdir(parents=True)
    shutil.copy(project / "runs/small/study.json", half)
    line = refused(tmp_path, capsys, "--study", "half", image)
    assert "'half' has no finished run" in line and "./run_all.sh /path/to/half.yaml" in line
    assert "argument 'IMAGE...'" in refused(project, capsys, "--json")
    assert "--jsn" in refused(project, capsys, "--jsn", image)


@pytest.fixture
def copied(project, tmp_path):
    """Return a copy of the finished study that a test may spoil."""
    shutil.copytree(project / "runs" / "small", tmp_path / "copy" / "runs" / "small")
    return tmp_path / "copy"


def _other_form(folder):
    pixels = keras.Input((32, 32, 3), dtype="uint8")
    mean = keras.layers.GlobalAveragePooling2D()(keras.ops.cast(pixels, "float32"))
    keras.Model(pixels, keras.layers.Dense(7, "softmax", name="head")(mean)).save(folder / "model.keras")


def _other_weights(folder):
    model = keras.models.load_model(folder / "model.keras", compile=False)
    kernel, bias = model.get_layer("head").get_layer("diagnosis").get_weights()
    model.get_layer("head").get_layer("diagnosis").set_weights([kernel[:, ::-1], bias])
    model.save(folder / "model.keras")


def _other_data(folder):
    record = read_json(folder / "run.json")
    write_json(folder / "run.json", record | {"data_fingerprint": "0" * 16})


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "model.keras").write_bytes(b"PK"), "Keras "),
        (_other_form, "it takes (32, 32, 3)"),
        (_other_weights, "does not give the probabilities"),
        (_other_data, "another state of the data set"),
    ],
)
def test_a_model_of_another_version_is_told_in_one_line(copied, files, capsys, spoil, told):
    spoil(copied / RUN)
    line = refused(copied, capsys, next(iter(files.values())))
    assert told in line and str(copied / RUN) in line and "`./run_all.sh /path/to/small.yaml`" in line


def copy_trained_later(root, name):
    """Copy the runs of the small study under another name, all trained long after; return the study's folder."""
    folder = root / "runs" / name
    shutil.copytree(root / "runs" / "small", folder)
    record = folder / RUN.relative_to("runs/small") / "run.json"
    write_json(record, read_json(record) | {"finished": "2100-01-01T00:00:00+00:00"})
    write_json(folder / "study.json", read_json(folder / "study.json") | {"name": name})
    return folder


def write_report(folder, year=2101):
    """Leave a report of a study, written in some year."""
    report = folder.parent.parent / "report" / folder.name / "report.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("<html>")
    os.utime(report, (datetime(year, 1, 1, tzinfo=UTC).timestamp(),) * 2)


def test_the_study_that_finished_last_is_taken(copied):
    small = copied / "runs" / "small"
    assert runs.find_study(root=copied) == small
    newer = copy_trained_later(copied, "newer")
    assert runs.find_study(root=copied) == newer
    assert runs.find_study(small / "study.json") == small
    (newer / RUN.relative_to("runs/small") / "model.keras").unlink()
    assert runs.find_study(root=copied) == small


def test_a_study_without_its_report_is_not_finished(copied, files):
    """All its runs are trained, and a later step of its start still works on it."""
    image, small, newer = next(iter(files.values())), copied / "runs" / "small", copy_trained_later(copied, "newer")
    found = prediction.predict_images([image], root=copied)
    assert found.study.name == "newer" and found.missing == ["its report"]
    assert any("not finished: it lacks its report. Run" in told for told in found.warnings())
    write_report(small)
    assert runs.find_study(root=copied) == small
    found = prediction.predict_images([image], root=copied)
    assert found.missing == [] and not any("not finished" in told for told in found.warnings())
    write_report(newer, 2099)  # of an earlier start: its runs were trained since
    assert runs.find_study(root=copied) == small
    write_report(newer)
    assert runs.find_study(root=copied) == newer


def test_a_study_that_lacks_runs_is_taken_only_if_none_is_finished_and_says_so(copied, files):
    image = next(iter(files.values()))
    newer = copy_trained_later(copied, "newer")
    settings = read_json(newer / "study.json") | {"backbones": ["MobileNetV2", "VGG16"]}
    write_json(newer / "study.json", settings)
    assert runs.find_study(root=copied).name == "small"
    (newer / "study.json").write_text("{}")  # of another version, or damaged
    assert runs.find_study(root=copied).name == "small"
    write_json(newer / "study.json", settings)
    shutil.rmtree(copied / "runs" / "small")
    assert runs.find_study(root=copied) == newer
    found = prediction.predict_images([image], root=copied)
    assert found.missing == ["feature_extraction/VGG16"]
    (told,) = [told for told in found.warnings() if "not finished" in told]
    assert "feature_extraction/VGG16" in told and told in json.loads(predict.as_json(found))["warnings"]


def test_a_cache_that_cannot_be_made_is_refused(copied, files, monkeypatch, capsys):
    monkeypatch.setenv("SKIN_TL_CACHE", str(copied / RUN / "run.json" / "x"))
    assert "SKIN_TL_CACHE=" in refused(copied, capsys, next(iter(files.values())))


# Without the images of the data set


@pytest.fixture
def without_cache(copied, tmp_path, monkeypatch):
    """Return a copy of the study, as it is found where the cache is another, and forget what was read."""
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "another"))
    prediction.load_predictor.cache_clear()
    yield copied
    prediction.load_predictor.cache_clear()


def test_what_is_computed_again_is_said_first_and_gives_the_same(without_cache, project, said, capsys):
    kept = Path(os.environ["SKIN_TL_CACHE"])
    found = prediction.predict_images(said.images, "small", n_nearest=3, root=without_cache)
    shown = capsys.readouterr().err
    decoded, passed = (next(line for line in shown.splitlines() if what in line) for what in ("no images", "features"))
    assert f"note: {kept} has no images of the study small. All {len(list(project.rglob('*.jpg'))):,} are" in decoded
    assert f"note: {kept} has no features of feature_extraction/MobileNetV2" in passed
    assert all("SKIN_TL_CACHE to" in line and "to avoid it" in line for line in (decoded, passed))
    assert found.left_out == ""
    pd.testing.assert_frame_equal(found.table, said.table)
    pd.testing.assert_frame_equal(found.neighbours, said.neighbours)
    prediction.load_predictor.cache_clear()
    prediction.predict_images(said.images, "small", root=without_cache)
    assert "note:" not in capsys.readouterr().err


def test_the_cache_that_still_has_the_images_is_named(without_cache, project, said, capsys):
    file = without_cache / "runs/small/dataset/images.json"
    where = os.path.relpath(next((project / "cache" / "images").iterdir()), without_cache)
    write_json(file, read_json(file) | {"folder": where})
    prediction.predict_images(said.images[:1], "small", root=without_cache)
    assert capsys.readouterr().err.count(f"Set SKIN_TL_CACHE to {project / 'cache'} to avoid it") == 2


def test_without_the_data_set_there_are_probabilities_and_what_is_left_out_is_said(
    without_cache, said, monkeypatch, capsys
):
    monkeypatch.delenv("SKIN_TL_HAM10000")
    monkeypatch.setattr("skin_tl.data.releases.download", None)  # for so little, nothing is downloaded
    found = prediction.predict_images(said.images, "small", root=without_cache)
    np.testing.assert_allclose(found.table[PROBABILITIES], said.table[PROBABILITIES], atol=1e-6)
    assert found.neighbours.empty and not found.table["unlike"].any()
    assert "SKIN_TL_HAM10000 is not set" in found.left_out and "SKIN_TL_CACHE" in found.left_out
    (told,) = [told for told in found.warnings() if found.left_out in told]
    assert told.startswith("Left out, ") and "nearest lesions" in told and "unlike" in told
    text = " ".join(predict.as_text(found).split())
    assert told in text and "nearest by" not in text and "above 1" not in text
    content = json.loads(predict.as_json(found))
    assert content["left_out"] == found.left_out and told in content["warnings"]
    for of in content["images"]:
        one = of["predictions"][0]
        assert [one[name] for name in ("ood_score", "limit", "unlike", "seen", "nearest")] == [None] * 5
    monkeypatch.setenv("SKIN_TL_HAM10000", str(without_cache / "nowhere"))
    prediction.load_predictor.cache_clear()
    found = prediction.predict_images(said.images[:1], "small", root=without_cache)
    assert "nowhere is not a folder" in found.left_out


# From the shell


def test_it_runs_from_the_shell_and_a_bad_file_does_not_load_tensorflow(project, files, tmp_path):
    copy = copy_project(tmp_path / "a project", check_study(STUDY))
    shutil.copytree(project / "runs", copy / "runs")
    shutil.copy(next(iter(files.values())), copy / "my lesion.jpg")
    done = start(copy, "--json", "my lesion.jpg", study="predict", SKIN_TL_CACHE=str(project / "cache"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"][0]["image"] == "my lesion.jpg"
    code = (
        "import sys; from skin_tl.workflow import cli\n"
        "assert cli.main(['predict', '--study', 'small', sys.argv[1]]) == 1\n"
        "assert not {'keras', 'tensorflow', 'sklearn'} & set(sys.modules)"
    )
    wanted = [sys.executable, "-c", code, str(tmp_path / "none.png")]
    done = subprocess.run(wanted, cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = f"error: {tmp_path / 'none.png'} does not exist. Nothing was predicted. "
    assert done.stderr == f"{told}Name at least one image that can be read.\n"
