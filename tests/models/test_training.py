"""Features are computed once, heads learn from the training subset alone, and a run keeps its contract."""

import dataclasses
import errno
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from tqdm import tqdm

from skin_tl.data.splits import fraction_rows, subset_rows
from skin_tl.errors import SkinTLError
from skin_tl.files import write_json
from skin_tl.schema import CLASSES
from skin_tl.study import SMOOTHED, check_study, penalties_beyond, save_study

keras = pytest.importorskip("keras")

import tiny

from skin_tl import schema
from skin_tl.data import preparation
from skin_tl.explain import explanations
from skin_tl.models import backbones, features, heads, runs, training
from skin_tl.models.devices import device

HEAD = check_study(
    {
        "name": "x",
        "title": "x",
        "dataset": "synthetic",
        "backbones": ["VGG16"],
        "seeds": [0],
        "max_epochs": 20,
    }
)


class Counting:
    """A model of one pass over the pixels that counts its batches and can be stopped.

    A black batch, which is there to compile a network before the clock starts, is not counted.
    """

    output_shape = (None, 5)
    to_json = staticmethod(lambda: "{}")

    def __init__(self, stop_after=None):
        self.batches, self.stop_after = 0, stop_after

    def get_weights(self):
        return [np.arange(5, dtype=np.float32)]

    def predict_on_batch(self, pixels):
        if self.batches == self.stop_after:
            raise KeyboardInterrupt
        self.batches += bool(pixels.any())
        return np.stack([pixels.mean(axis=(1, 2, 3)) + k for k in range(5)], axis=1).astype(np.float32)


@pytest.fixture
def decoded(small_study, tmp_path):
    return preparation.prepare_images(small_study, tmp_path / "runs")[1]


def test_features_are_computed_once_and_stand_in_the_order_of_the_images(decoded):
    model = Counting()
    values, about = features.extract(decoded, "MobileNetV2", "native", model)
    expected = np.stack([decoded.pixels.mean(axis=(1, 2, 3)) + k for k in range(5)], axis=1)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert about["n_images"] == len(decoded.ids)
    n_batches = model.batches
    assert n_batches == -(-len(decoded.ids) // features.BATCH)
    features.extract(decoded, "MobileNetV2", "unit", model)  # the same transform as this network's native one
    assert model.batches == n_batches


def test_an_interrupted_pass_goes_on_where_it_stopped(decoded, monkeypatch):
    monkeypatch.setattr(features, "SAVE_EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        features.extract(decoded, "MobileNetV2", "native", Counting(stop_after=2))
    rest = Counting()
    values, _ = features.extract(decoded, "MobileNetV2", "native", rest)
    assert rest.batches == -(-len(decoded.ids) // features.BATCH) - 2
    np.testing.assert_allclose(values[:, 0], decoded.pixels.mean(axis=(1, 2, 3)), rtol=1e-5)


def test_a_full_disk_is_said_before_arrays_are_written(small_study, decoded, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(SkinTLError, match="no space left"):
        features.extract(decoded, "MobileNetV2", "native", Counting())
    with pytest.raises(SkinTLError, match="no space left"):
        heads.train_head(*_blobs(), HEAD)
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "other"))
    with pytest.raises(SkinTLError, match="no space left"):
        preparation.prepare_images(small_study, tmp_path / "runs")


def test_planted_copies_under_other_lesions_are_told_and_stand_on_one_side(small_study, tmp_path, capsys):
    folder = tmp_path / "HAM10000"
    table = preparation.prepare_images(small_study, tmp_path / "before")[0]
    assert "share a picture" not in capsys.readouterr().err
    pairs = [
        part["image_id"].iloc[[0, -1]].tolist() for _, part in table.groupby("dx") if part["lesion_id"].nunique() > 1
    ]
    for original, copy in pairs:
        (folder / f"{copy}.png").write_bytes((folder / f"{original}.png").read_bytes())
    metadata, _ = preparation.prepare_images(small_study, tmp_path / "after")
    assert f"{len(pairs)} lesions share a picture" in capsys.readouterr().err
    lesions = metadata.set_index("image_id")["lesion_id"]
    assert all(lesions[original] == lesions[copy] for original, copy in pairs)
    splits, _ = preparation.prepare_splits(small_study, metadata, tmp_path / "after")
    for _, split in splits.groupby("seed"):
        subsets = split.set_index("image_id")["subset"]
        assert all(subsets[original] == subsets[copy] for original, copy in pairs)


def test_networks_that_differ_in_their_scaling_alone_have_other_keys(decoded, monkeypatch):
    """And the same network built again has the same one, whatever Keras calls its operations."""
    made = {name: build_small(name) for name in ("none", "tf", "caffe", "torch")}
    keys = {name: features.features_key(decoded, model) for name, model in made.items()}
    assert len({*keys.values()}) == 4
    assert {name: features.features_key(decoded, build_small(name)) for name in made} == keys
    monkeypatch.setattr(features, "BATCH", 7)
    assert features.features_key(decoded, made["tf"]) != keys["tf"]


def build_small(transform):
    """Build a network without weights of its own: a scaling, then the mean of each channel."""
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    values = keras.ops.cast(pixels, "float32")
    if transform != "none":
        values = keras.applications.imagenet_utils.preprocess_input(values, mode=transform)
    return keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(values))


def test_an_edited_scaling_computes_features_again(small_study, tmp_path, monkeypatch):
    _, images = preparation.prepare_images(small_study, tmp_path / "runs")
    random = {"source": "random"}

    def computed():
        model = backbones.build_backbone("MobileNetV2", "native", images.size, random)
        return features.extract(images, "MobileNetV2", "native", model)[0]

    before, scale = np.array(computed()), backbones.scale_pixels
    monkeypatch.setattr(backbones, "scale_pixels", lambda pixels, *how: 2 * scale(pixels, *how))
    assert not np.array_equal(computed(), before)


def test_features_that_are_not_finite_are_refused(decoded):
    model = Counting()
    model.predict_on_batch = lambda pixels: np.full((len(pixels), 5), np.nan, np.float32)
    with pytest.raises(SkinTLError, match="not finite"):
        features.extract(decoded, "MobileNetV2", "native", model)


# Heads


def _blobs(scale=1.0, offset=0.0, n=280, n_features=12, spread=0.5):
    """Return features of seven separate blobs, their labels, and rows by subset."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 7
    centres = rng.normal(0, 3, (7, n_features))
    values = (centres[labels] + rng.normal(0, spread, (n, n_features))) * scale + offset
    order = rng.permutation(n)
    rows = {"train": order[: n // 2], "val": order[n // 2 : 3 * n // 4], "test": order[3 * n // 4 :]}
    return values.astype(np.float32), labels.astype(np.int64), rows


def _score(values, labels, rows):
    head, _ = heads.train_head(values, labels, rows, HEAD)
    chances = head.probabilities(values[rows["test"]])
    assert np.isfinite(chances).all()
    np.testing.assert_allclose(chances.sum(1), 1, atol=1e-5)
    return (chances.argmax(1) == labels[rows["test"]]).mean()


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-12, 0), (1e-20, 0), (1e6, 0), (1e-3, 1)])
def test_a_head_learns_whatever_the_scale_of_its_features(scale, offset):
    assert _score(*_blobs(scale, offset)) > 0.95


def test_constant_features_do_no_harm():
    values, labels, rows = _blobs()
    values = np.concatenate([values, np.zeros((len(values), 3), np.float32)], axis=1)
    values[rows["test"], -1] = 0.7  # constant in training only
    assert _score(values, labels, rows) > 0.95
    constant = np.full_like(values, 0.3)
    assert 0 <= _score(constant, labels, rows) <= 0.5


def test_the_test_subset_has_no_influence():
    values, labels, rows = _blobs(spread=3)
    first, history = heads.train_head(values, labels, rows, HEAD)
    values[rows["test"]] = np.nan
    labels = labels.copy()
    labels[rows["test"]] = 0
    second, again = heads.train_head(values, labels, rows, HEAD)
    pd.testing.assert_frame_equal(history, again)
    for name, one in vars(first).items():
        np.testing.assert_array_equal(one, vars(second)[name])


@pytest.mark.parametrize("n_features", [12, 300])
def test_early_stopping_keeps_the_weights_of_the_best_epoch(n_features):
    values, labels, rows = _blobs(spread=6 if n_features == 12 else 20, n_features=n_features)
    study = HEAD.model_copy(update={"patience": 3, "max_epochs": 200, "l2": [1e-3]})
    head, history = heads.train_head(values, labels, rows, study)
    best = history["val_macro_f1"].rolling(SMOOTHED, min_periods=1).mean().idxmax()
    assert history.index[history["kept"]].tolist() == [best]
    assert len(history) == best + 1 + 3 < 200
    chances = head.probabilities(values[rows["val"]])
    score = f1_score(labels[rows["val"]], chances.argmax(1), average="macro")
    assert score == pytest.approx(history.loc[best, "val_macro_f1"], rel=1e-5)
    loss = log_loss(labels[rows["val"]], chances.astype(float), labels=range(7))
    assert loss == pytest.approx(history.loc[best, "val_loss"], rel=1e-4)


@pytest.mark.parametrize("grid", [[1e-4, 1e-3], [0.1, 1.0]])
def test_a_penalty_at_the_edge_of_its_grid_is_no_final_choice(grid):
    values, labels, rows = _blobs(spread=3)

    def train(penalties):
        head, history = heads.train_head(values, labels, rows, HEAD.model_copy(update={"l2": penalties}))
        reached = history["val_macro_f1"].rolling(SMOOTHED, min_periods=1).mean().max()
        return reached, history["l2"].iloc[0], head.kernel

    reached, chosen, weights = train(grid)
    below, above = penalties_beyond(grid)
    assert chosen in [*below, *above]
    for neighbour in (chosen / 10, chosen * 10):
        assert train([neighbour])[0] < reached
    np.testing.assert_array_equal(weights, train([chosen])[2])  # as if it alone were listed


def test_the_search_for_a_penalty_is_bounded_and_a_single_one_is_no_search():
    assert penalties_beyond([0.01]) == ([], [])
    assert penalties_beyond([0.1, 0.001]) == ([1e-4, 1e-5, 1e-6], [1, 10, 100])
    assert penalties_beyond([0, 0.001]) == ([], [0.01, 0.1, 1])  # nothing lies below none
    values, labels, rows = _blobs(spread=3)
    history = heads.train_head(values, labels, rows, HEAD.model_copy(update={"l2": [1e-7, 3e-7]}))[1]
    assert history["l2"].iloc[0] <= 3e-4


def test_the_validation_subset_chooses_the_penalty():
    values, labels, rows = _blobs(spread=6)
    penalties = [1e-4, 1e-1, 10.0]
    study = HEAD.model_copy(update={"l2": penalties})
    _, chosen = heads.train_head(values, labels, rows, study)
    reached = {}
    for l2 in penalties:
        _, history = heads.train_head(values, labels, rows, HEAD.model_copy(update={"l2": [l2]}))
        reached[l2] = history["val_macro_f1"].rolling(SMOOTHED, min_periods=1).mean().max()
    assert len(set(reached.values())) > 1
    assert chosen["l2"].unique().tolist() == [max(reached, key=reached.get)]


@pytest.mark.parametrize("n_features", [12, 300])
def test_a_head_that_never_stops_early_is_a_logistic_regression(n_features):
    values, labels, rows = _blobs(spread=6 if n_features == 12 else 20, n_features=n_features)
    assert (n_features > len(rows["train"])) == (n_features == 300)  # fewer images than features are fitted otherwise
    study = HEAD.model_copy(update={"patience": 500, "max_epochs": 500, "l2": [0.05]})
    head = heads.build_head(values, rows["train"])
    standardised = head.standardise(values)
    _, history = heads.train_head(values, labels, rows | {"val": rows["train"]}, study)
    one = LogisticRegression(C=1 / (0.05 * len(rows["train"])), max_iter=5000, tol=1e-8)
    one.fit(standardised[rows["train"]], labels[rows["train"]])
    loss = log_loss(labels[rows["train"]], one.predict_proba(standardised[rows["train"]]), labels=range(7))
    assert history["loss"].iloc[-1] == pytest.approx(loss, rel=1e-3)
    # With an all but free penalty the first epochs differ, so it is the optimum that the two share, not the start.
    assert history["loss"].iloc[0] > 1.05 * loss


# A whole run


def test_the_views_are_the_flips_and_rotations_of_a_square():
    image = np.arange(2 * 3 * 3 * 3).reshape(2, 3, 3, 3)
    found = [features.seen_from(image, view) for view in range(8)]
    np.testing.assert_array_equal(found[0], image)
    np.testing.assert_array_equal(found[1], image[:, :, ::-1])
    np.testing.assert_array_equal(found[2], image[:, ::-1, ::-1])
    np.testing.assert_array_equal(found[3], image[:, ::-1])
    for n in (2, 4, 8):  # what is done twice among the first n is among them
        first = {view.tobytes() for view in found[:n]}
        assert len(first) == n
        assert {features.seen_from(view, again).tobytes() for view in found[:n] for again in range(n)} == first


def test_a_head_on_equal_views_is_that_on_one():
    values, labels, rows = _blobs()
    one, history = heads.train_head(values, labels, rows, HEAD)
    two, again = heads.train_head(features.Views([values, values]), labels, rows, HEAD)
    np.testing.assert_allclose(two.kernel, one.kernel, atol=1e-3)
    assert list(again["epoch"]) == list(history["epoch"])
    np.testing.assert_allclose(again["val_loss"], history["val_loss"], atol=1e-3)


def test_of_several_views_the_mean_probability_is_validated_and_predicted():
    values, labels, rows = _blobs(spread=2.0)
    other = values[:, ::-1] * 1.5
    views = features.Views([values, other])
    head, history = heads.train_head(views, labels, rows, HEAD)
    mean = (head.probabilities(values) + head.probabilities(other)) / 2
    np.testing.assert_allclose(head.probabilities(views[np.arange(len(values))]), mean, rtol=1e-5)
    kept = history[history["kept"]].iloc[0]
    assert kept["val_loss"] == pytest.approx(
        log_loss(labels[rows["val"]], mean[rows["val"]], labels=range(7)), abs=1e-4
    )
    plain = heads.train_head(values, labels, rows, HEAD)[0]
    assert np.abs(plain.kernel - head.kernel).max() > 0.01  # it has learned from both


def test_a_study_of_two_views_predicts_their_mean(small_study, tmp_path):
    study = small_study.model_copy(update={"views": 2, "seeds": [1], "random_control": False})
    study_folder = tmp_path / "runs" / "small"
    save_study(study, study_folder / "study.json")
    data = runs.prepare(study, study_folder)
    folder = study_folder / "feature_extraction" / "MobileNetV2"
    training.train_run(study, "feature_extraction", "MobileNetV2", data, folder)
    kept = sorted((tmp_path / "cache" / "features").glob("*/features.npy"))
    assert len(kept) == 2 and np.abs(np.load(kept[0]) - np.load(kept[1])).max() > 0
    record = json.loads((folder / "run.json").read_text())
    assert record["timings"]["features_native_s"] > 0
    table = pd.read_csv(folder / "predictions.csv").query("subset == 'test'")
    row_of = {image_id: row for row, image_id in enumerate(data.images.ids)}
    rows = table["image_id"].map(row_of).to_numpy()
    network = explanations.open_model(study, "feature_extraction", "MobileNetV2", study_folder)
    pixels = np.asarray(data.images.pixels[rows])
    both = [network.predict(part, verbose=0) for part in (pixels, pixels[:, :, ::-1])]
    expected = table[[f"p_{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(np.mean(both, axis=0), expected, atol=1e-4)
    assert np.abs(both[0] - expected).max() > 1e-3


@pytest.fixture
def run(small_study, tmp_path):
    """Return the study, what it was prepared from, its folder, predictions and history."""
    folder = tmp_path / "runs" / "small"
    changes = {"split_policies": ["lesion", "image"], "preprocessings": ["native", "unit"], "seeds": [1, 2]}
    study = small_study.model_copy(update=changes | {"leakage": True, "other_splits": 2})
    data = runs.prepare(study, folder)
    target = folder / "feature_extraction" / "MobileNetV2"
    training.train_run(study, "feature_extraction", "MobileNetV2", data, target)
    return study, data, target


def test_a_run_keeps_its_contract(run, tmp_path):
    study, data, folder = run
    predictions = pd.read_csv(folder / "predictions.csv", dtype={"image_id": str, "lesion_id": str})
    assert predictions.columns.tolist() == training.PREDICTION_COLUMNS
    arms = ["split_policy", "preprocessing", "seed"]
    main = predictions[predictions["arm"] == "main"]
    for (policy, preprocessing, seed), part in main.groupby(arms):
        split = data.splits[(data.splits["split_policy"] == policy) & (data.splits["seed"] == seed)]
        for subset in ("val", "test"):
            ids = part.loc[part["subset"] == subset, "image_id"]
            assert sorted(ids) == sorted(split.loc[split["subset"] == subset, "image_id"])
        assert (folder / "heads" / f"{policy}_{preprocessing}_seed{seed}.npz").is_file()
    assert main.groupby(arms).ngroups == 8
    assert set(predictions["subset"]) == {"val", "test"}
    np.testing.assert_allclose(predictions[[f"p_{name}" for name in CLASSES]].sum(axis=1), 1, atol=1e-5)
    merged = predictions.merge(data.metadata, on="image_id", suffixes=("", "_table"))
    assert (merged["dx"] == merged["dx_table"]).all()
    history = pd.read_csv(folder / "history.csv")
    assert history.columns.tolist() == schema.HISTORY_COLUMNS
    assert history[history["arm"] == "main"].groupby(arms).ngroups == 8
    record = json.loads((folder / "run.json").read_text())
    assert record["random_weights"] is True
    assert record["n_parameters_with_classifier"] == 3_538_984  # MobileNetV2 1.0, Keras's table of applications
    assert set(record["split_fingerprints"]["image"]) == {"1", "2"}
    # what was prepared reads back as the same
    again = runs.prepare(study, folder.parent.parent, made=True)
    pd.testing.assert_frame_equal(again.metadata, data.metadata)
    pd.testing.assert_frame_equal(again.splits, data.splits)
    pd.testing.assert_frame_equal(again.experiments, data.experiments, check_dtype=False)
    assert again.images == data.images


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a core")
def test_a_run_names_the_cores_that_it_may_use():
    usable = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(usable)})
        assert device(cpu=True).endswith(", 1 core)")
    finally:
        os.sched_setaffinity(0, usable)


def test_parts_of_the_lesions_are_learned_from_beside_all_of_them(small_study, tmp_path):
    data, found = None, {}
    for name, fractions in (("plain", [1.0]), ("curve", [0.2, 0.6, 1.0])):
        study = small_study.model_copy(update={"train_fractions": fractions, "leakage": True})
        data = runs.prepare(study, tmp_path / name)
        target = tmp_path / name / "feature_extraction" / "MobileNetV2"
        found[name] = training.train_run(study, "feature_extraction", "MobileNetV2", data, target)
    (plain, _), (predictions, history) = found["plain"], found["curve"]
    # What is trained on all lesions is as without the others.
    whole = predictions[predictions["train_fraction"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(whole, plain)
    parts = predictions[predictions["train_fraction"] < 1]
    assert set(parts["arm"]) == {"main"}
    main = whole[whole["arm"] == "main"]
    same = ["seed", "subset", "image_id", "lesion_id", "dx"]
    for fraction in (0.2, 0.6):
        part = parts[parts["train_fraction"] == fraction]
        pd.testing.assert_frame_equal(part[same].reset_index(drop=True), main[same].reset_index(drop=True))
        assert not np.allclose(part["p_nv"], main["p_nv"])
    assert history.groupby("train_fraction")["kept"].sum().to_dict() == {0.2: 2, 0.6: 2, 1.0: 6}
    assert set(heads.last_stage(history)["train_fraction"]) == {1.0}
    names = {file.name for file in (target / "heads").iterdir()}
    assert {
        f"lesion_native_seed{seed}{part}.npz" for seed in (1, 2) for part in ("", "_20percent", "_60percent")
    } < names
    timings = json.loads((target / "run.json").read_text())["timings"]
    assert timings["heads_native_s"] > 0 and timings["heads_native_fractions_s"] > 0
    # A head on a part knows nothing of the other lesions: trained by hand on its lesions, it is the same.
    metadata = data.metadata.set_index("image_id").loc[data.images.ids].reset_index()
    rows = fraction_rows(subset_rows(data.splits, "lesion", 2, data.images.ids), metadata, 0.2, 2)
    assert metadata.loc[rows["train"]].groupby("dx")["lesion_id"].nunique().tolist() == [1] * 7
    features_file = next((tmp_path / "cache" / "features").glob("*/features.npy"))
    values = np.load(features_file)
    head, _ = heads.train_head(values, heads.labels_of(metadata), rows, study)
    again = heads.predict(head, values, rows["test"], metadata)
    mine = parts.query("train_fraction == 0.2 and seed == 2 and subset == 'test'")
    np.testing.assert_allclose(mine[["p_nv", "p_mel"]], again[["p_nv", "p_mel"]], atol=1e-6)


def test_heads_are_trained_without_keras_where_a_step_computed_the_features(run, tmp_path):
    study, data, folder = run
    save_study(study, tmp_path / "study.json")
    for preprocessing in study.preprocessings:
        weights = data.weights["backbones"]["MobileNetV2"]
        _, about = features.features_of(study, data.images, "MobileNetV2", preprocessing, weights)
        write_json(folder.parents[1] / "features" / f"MobileNetV2_{preprocessing}.json", about)
    code = (
        "import sys; sys.modules['keras'] = sys.modules['tensorflow'] = None\n"
        "from pathlib import Path; from skin_tl.models import runs, training; from skin_tl.study import load_study\n"
        "study, folder = load_study(sys.argv[1]), Path(sys.argv[2])\n"
        "data = runs.prepare(study, folder, made=True)\n"
        "training.train_run(study, 'feature_extraction', 'MobileNetV2', data, Path(sys.argv[3]))"
    )
    again = tmp_path / "again"
    subprocess.run([sys.executable, "-c", code, tmp_path / "study.json", folder.parents[1], again], check=True)
    for name in ("predictions.csv", "history.csv"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    records = [json.loads((place / "run.json").read_text()) for place in (again, folder)]
    assert all(record["n_parameters"] > 0 and "core" in record["device"] for record in records)
    same = [{name: record[name] for name in record.keys() - {"timings", "started", "finished"}} for record in records]
    assert same[0] == same[1]


def test_experiments_are_trained_beside_the_main_arm(run):
    _, data, folder = run
    predictions = pd.read_csv(folder / "predictions.csv")
    cells = predictions.groupby(["arm", "split_policy", "preprocessing"])["seed"].unique().map(list).to_dict()
    assert cells["other_split", "image", "unit"] == [1001, 1002]
    leak = {arm: ("lesion", "native") for arm in ("leak_with_siblings", "leak_without_siblings")}
    for arm, setup in leak.items():
        assert cells[arm, *setup] == [1, 2]
        assert (folder / "heads" / f"{arm}_lesion_native_seed1.npz").is_file()
    assert set(predictions["arm"]) == {"main", "other_split", *leak}
    test = predictions[predictions["subset"] == "test"]
    tested = {arm: part["image_id"].tolist() for arm, part in test[test["arm"].isin(leak)].groupby("arm")}
    assert tested["leak_with_siblings"] == tested["leak_without_siblings"]
    other = test[(test["arm"] == "other_split") & (test["seed"] == 1001)]
    assert set(other["image_id"]) == set(data.experiments.query("seed == 1001 and subset == 'test'")["image_id"])


def test_heads_on_random_weights_are_a_control_beside_the_main_arm(small_study, tmp_path, monkeypatch):
    def network(name, weights, image_size=224):
        if weights == "imagenet":
            keras.utils.set_random_seed(7)  # stands for weights that were trained
        return tiny.network(name, weights, image_size)

    tiny.install(monkeypatch.setattr)
    monkeypatch.setattr(backbones, "_network", network)
    changes = {
        "split_policies": ["lesion", "image"],
        "preprocessings": ["unit", "native"],
        "train_fractions": [0.5, 1.0],
    }
    random = small_study.model_copy(update=changes)
    data, found = runs.prepare(random, tmp_path), {}
    pretrained = dataclasses.replace(
        data, weights={"source": "imagenet", "backbones": {"MobileNetV2": {"source": "keras"}}}
    )
    for name, weights, control, prepared in (
        ("with", "imagenet", True, pretrained),
        ("without", "imagenet", False, pretrained),
        ("random", "random", True, data),
        ("fallen back", "imagenet_or_random", True, data),
    ):
        study = random.model_copy(update={"weights": weights, "random_control": control})
        training.train_run(study, "feature_extraction", "MobileNetV2", prepared, tmp_path / name)
        found[name] = pd.read_csv(tmp_path / name / "predictions.csv")
    table = found["with"]
    main, control = (table[table["arm"] == arm].reset_index(drop=True) for arm in ("main", "random_weights"))
    pd.testing.assert_frame_equal(main, found["without"])
    assert len(main) + len(control) == len(table)
    # The control is what a study with random weights trains; of the scalings, native alone.
    own = found["random"].query("preprocessing == 'native' and train_fraction == 1").reset_index(drop=True)
    pd.testing.assert_frame_equal(control.assign(arm="main"), own)
    pd.testing.assert_frame_equal(found["random"], found["fallen back"])
    assert set(found["random"]["arm"]) == {"main"}
    assert not np.allclose(own["p_nv"], main.query("preprocessing == 'native' and train_fraction == 1")["p_nv"])
    # Its heads are kept and its record says how to make them again.
    assert (tmp_path / "with" / "heads" / "random_weights_image_native_seed2.npz").is_file()
    records = {name: json.loads((tmp_path / name / "run.json").read_text()) for name in found}
    assert records["with"]["random_control"] == {"preprocessing": "native", "seed": 0}
    assert records["with"]["timings"].keys() - records["without"]["timings"].keys() == {
        "features_random_s",
        "heads_random_s",
    }
    assert not any("random_control" in records[name] for name in ("without", "random", "fallen back"))
    # The first head is the main arm's, and on the pretrained backbone gives its predictions.
    built = backbones.build_backbone("MobileNetV2", "unit", random.image_size, {"source": "keras"})
    head = heads.Head.read(tmp_path / "with" / "heads" / "lesion_unit_seed1.npz")
    whole = backbones.join(built, head)
    chances = pd.DataFrame(whole.predict(data.images.pixels, verbose=0), index=data.images.ids)
    first = main.query("split_policy == 'lesion' and preprocessing == 'unit' and seed == 1 and train_fraction == 1")
    expected = first[[f"p_{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(chances.loc[first["image_id"].astype(str)].to_numpy(), expected, atol=1e-4)


def test_the_same_run_writes_the_same_bytes(run, tmp_path, monkeypatch):
    study, _, folder = run
    first = {name: (folder / name).read_bytes() for name in ("predictions.csv", "history.csv")}
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "another cache"))
    again = tmp_path / "again"
    training.train_run(study, "feature_extraction", "MobileNetV2", runs.prepare(study, again), again)
    for name, content in first.items():
        assert (again / name).read_bytes() == content


def test_a_saved_head_does_not_depend_on_what_is_shown(run, tmp_path, monkeypatch):
    study, data, folder = run
    monkeypatch.setattr(training, "bar", lambda **about: tqdm(total=about["total"], disable=True))  # TQDM_DISABLE=1
    training.train_run(study, "feature_extraction", "MobileNetV2", data, tmp_path / "hidden")
    name = "heads/lesion_native_seed1.npz"
    assert (folder / name).read_bytes() == (tmp_path / "hidden" / name).read_bytes()


def test_the_saved_model_takes_raw_pixels_and_needs_keras_alone(run, tmp_path):
    study, data, folder = run
    explanations.open_model(study, "feature_extraction", "MobileNetV2", folder.parents[1]).save(folder / "model.keras")
    code = (
        "import sys, keras, numpy as np; pixels = np.load(sys.argv[1]);"
        "np.save(sys.argv[3], keras.models.load_model(sys.argv[2]).predict(pixels, verbose=0));"
        "assert 'skin_tl' not in sys.modules"
    )
    np.save(tmp_path / "pixels.npy", data.images.pixels)
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "pixels.npy", folder / "model.keras", tmp_path / "out.npy"],
        check=True,
        cwd=tmp_path,
    )
    chances = pd.DataFrame(np.load(tmp_path / "out.npy"), index=data.images.ids)
    predictions = pd.read_csv(folder / "predictions.csv")
    first = predictions.query("arm == 'main' and split_policy == 'lesion' and preprocessing == 'native' and seed == 1")
    expected = first[[f"p_{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(chances.loc[first["image_id"]].to_numpy(), expected, atol=1e-4)


def test_a_head_from_its_file_gives_the_predictions_of_the_run(run):
    _, data, folder = run
    features_file = next((folder.parent.parent.parent.parent / "cache" / "features").glob("*/features.npy"))
    values = np.load(features_file)  # one array: both scalings are the same for this network
    rows = {image_id: row for row, image_id in enumerate(data.images.ids)}
    predictions = pd.read_csv(folder / "predictions.csv")
    columns = [f"p_{name}" for name in CLASSES]
    tables = list(predictions.groupby(["arm", "split_policy", "preprocessing", "seed"]))
    assert {heads.head_file(*name) for name, _ in tables} == {file.name for file in (folder / "heads").iterdir()}
    for name, part in tables:
        head = heads.Head.read(folder / "heads" / heads.head_file(*name))
        for _, of_subset in part.groupby("subset"):
            chances = head.probabilities(values[[rows[image_id] for image_id in of_subset["image_id"]]])
            np.testing.assert_array_equal(of_subset[columns].to_numpy(np.float32), chances)


def test_a_deleted_cache_is_made_again_unless_the_data_are_others(small_study, tmp_path, monkeypatch):
    _, images = preparation.prepare_images(small_study, tmp_path / "runs")
    before = images.pixels.copy()
    save_study(small_study, tmp_path / "runs" / "study.json")
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "empty"))
    np.testing.assert_array_equal(preparation.read_images(tmp_path / "runs").pixels, before)
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "another"))
    folder = tmp_path / "HAM10000"
    (folder / "ISIC_100.png").write_bytes((folder / "ISIC_110.png").read_bytes())
    with pytest.raises(SkinTLError, match="was the cache deleted"):
        preparation.read_images(tmp_path / "runs")


def test_jax_gives_the_same_features_as_tensorflow(tmp_path, thorough):
    pytest.importorskip("jax", reason="JAX is not installed: KERAS_BACKEND=jax ./run_all.sh installs it")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("compares JAX with TensorFlow: run it with KERAS_BACKEND=tensorflow")
    folder = os.environ.get("SKIN_TL_TEST_WEIGHTS")
    if not folder:
        pytest.skip("real weights are not at hand: name their folder by SKIN_TL_TEST_WEIGHTS")
    names = ("VGG16", "Xception", "ResNet50", "MobileNetV2") if thorough else ("MobileNetV2",)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    code = (
        "import sys, numpy as np; from skin_tl.models.backbones import *; pixels = np.load(sys.argv[1])\n"
        f"for name in {names}:\n"
        "    weights = resolve_weights([name], 'imagenet')['backbones'][name]\n"
        "    model = build_backbone(name, 'native', 96, weights)\n"
        "    np.save(f'{sys.argv[2]}/{name}.npy', np.asarray(model.predict_on_batch(pixels)))\n"
    )
    environment = os.environ | {"SKIN_TL_WEIGHTS": os.path.abspath(folder)}
    for backend in ("tensorflow", "jax"):
        (tmp_path / backend).mkdir()
        command = [sys.executable, "-c", code, tmp_path / "pixels.npy", tmp_path / backend]
        subprocess.run(command, check=True, env=environment | {"KERAS_BACKEND": backend})
    for name in names:
        one, other = (np.load(tmp_path / backend / f"{name}.npy") for backend in ("tensorflow", "jax"))
        assert abs(one - other).max() < 1e-3, name


def test_rows_of_a_split_index_the_images_of_the_array(run):
    _, data, _ = run
    rows = subset_rows(data.splits, "lesion", 1, data.images.ids)
    lesion = data.metadata.set_index("image_id").loc[data.images.ids, "lesion_id"].to_numpy()
    assert not set(lesion[rows["train"]]) & set(lesion[rows["test"]])
    assert not set(lesion[rows["val"]]) & set(lesion[rows["test"]])
