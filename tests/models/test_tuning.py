"""Whole networks learn from images, a run that was killed ends like one that was not, and what cannot be is refused."""

import contextlib
import errno
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, special
from sklearn.metrics import log_loss

from skin_tl.data.images import ImageSet
from skin_tl.errors import SkinTLError
from skin_tl.explain.explanations import open_model
from skin_tl.files import ROOT
from skin_tl.reporting import watching
from skin_tl.schema import CLASSES
from skin_tl.study import SMOOTHED, check_study, passes_of, save_study

keras = pytest.importorskip("keras")

import tiny

from skin_tl import registry, schema
from skin_tl.models import (
    augmentation,
    backbones,
    checkpoints,
    devices,
    external_predictions,
    heads,
    networks,
    runs,
    training,
    tuning,
)

PLAIN = np.float32([[0, 1, 1, 0, 0, 0, 1, 1]])
SETTINGS = {"name": "x", "title": "x", "dataset": "synthetic", "backbones": ["VGG16"], "seeds": [0]}


def _study(**changes):
    return check_study({**SETTINGS, "strategies": ["fine_tuning", "from_scratch"], **changes})


def _augment(images, views):
    return keras.ops.convert_to_numpy(augmentation.augment(images, np.repeat(np.float32(views), len(images), 0)))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), np.uint8)


# What a step sees


def test_a_view_that_changes_nothing_gives_the_pixels(images):
    np.testing.assert_allclose(_augment(images, PLAIN), images, atol=1e-3)
    views = augmentation.draw_views(5, np.random.default_rng(0), augment=False)
    np.testing.assert_array_equal(views, np.repeat(PLAIN, 5, 0))


def test_transposing_and_mirroring_give_the_eight_flips_and_rotations(images):
    found = [_augment(images, [[t, y, x, 0, 0, 0, 1, 1]]).round() for t in (0, 1) for y in (1, -1) for x in (1, -1)]
    wanted = [np.rot90(images if side else images[:, ::-1], turns, (1, 2)) for side in range(2) for turns in range(4)]
    assert {image.astype(np.uint8).tobytes() for image in found} == {image.tobytes() for image in wanted}
    assert len({image.tobytes() for image in wanted}) == 8


@pytest.mark.parametrize(("down", "right", "below", "beside"), [(0.9, 1.1, 0.05, -0.04), (-1.05, 0.95, 0, 0.03)])
def test_scale_and_shift_are_those_of_an_affine_map(images, down, right, below, beside):
    found = _augment(images, [[0, down, right, below, beside, 0, 1, 1]])
    centre = np.array([4.0, 4.0])
    matrix, shift = np.diag([down, right]), 9 * np.array([below, beside])
    for image, one in zip(images, found, strict=True):
        for channel in range(3):
            options = {"offset": centre - matrix @ centre + shift, "order": 1, "mode": "mirror"}
            wanted = ndimage.affine_transform(image[..., channel].astype(float), matrix, **options)
            np.testing.assert_allclose(one[..., channel], wanted, atol=1e-2)


def test_colours_change_as_drawn():
    image = np.full((1, 4, 4, 3), (200, 100, 60), np.uint8)
    np.testing.assert_allclose(_augment(image, [[0, 1, 1, 0, 0, 0, 1, 0]])[0, 0, 0], 120, atol=1e-3)  # its grey
    np.testing.assert_allclose(_augment(image, [[0, 1, 1, 0, 0, 0, 0, 1]])[0, 0, 0], 120, atol=1e-3)  # its mean
    np.testing.assert_allclose(_augment(image, [[0, 1, 1, 0, 0, 0.1, 1, 1]])[0, 0, 0], [225.5, 125.5, 85.5], atol=1e-3)
    assert _augment(image, [[0, 1, 1, 0, 0, 1, 1, 1]]).max() == 255


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 255))
def test_drawn_views_keep_pixels_in_range_and_even_images_even(seed, value):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (4, 9, 9, 3), np.uint8)
    views = augmentation.draw_views(4, rng)
    assert views.dtype == np.float32 and views.shape == (4, 8)
    changed = keras.ops.convert_to_numpy(augmentation.augment(noise, views))
    assert changed.dtype == np.float32 and changed.shape == noise.shape
    assert np.isfinite(changed).all() and changed.min() >= 0 and changed.max() <= 255
    views[:, 5:] = PLAIN[0, 5:]
    even = keras.ops.convert_to_numpy(augmentation.augment(np.full_like(noise, value), views))
    np.testing.assert_allclose(even, value, atol=1e-2)


def _batches(study, epoch=0, seed=1, n=40):
    pixels = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    labels = np.repeat(np.arange(7), [2, 3, 4, 5, 6, 8, 12])
    return augmentation.Batches(pixels, labels, np.arange(n), study, seed, epoch), labels


def test_an_epoch_shows_every_image_once_with_its_own_label():
    batches, labels = _batches(_study(batch=8))
    seen = []
    for step in range(len(batches)):
        inputs, wanted, weights = batches[step]
        assert inputs["pixels"].dtype == np.uint8
        rows = inputs["pixels"][:, 0, 0, 0]
        np.testing.assert_array_equal(wanted.argmax(1), labels[rows])
        np.testing.assert_array_equal(wanted.sum(1), 1)
        np.testing.assert_array_equal(weights, 1)
        seen += rows.tolist()
    assert sorted(seen) == list(range(40))


def test_a_small_part_of_the_lesions_makes_fewer_steps_than_the_whole_but_more_than_its_share(
    study, tmp_path, monkeypatch
):
    assert [passes_of(fraction) for fraction in (0.05, 0.1, 0.25, 0.5, 1.0)] == [4, 3, 2, 1, 1]
    epochs, planned, batches, schedule = [], [], augmentation.Batches, networks.make_schedule

    def drawn(pixels, labels, rows, *others):
        drawn = batches(pixels, labels, rows, *others)
        epochs.append((len(drawn), *np.unique(np.unique(rows, return_counts=True)[1])))
        return drawn

    def scheduled(peak, n_steps, n_warmup):
        planned.append(n_steps)
        return schedule(peak, n_steps, n_warmup)

    monkeypatch.setattr(tuning, "Batches", drawn)
    monkeypatch.setattr(networks, "make_schedule", scheduled)
    parts = study.model_copy(update={"train_fractions": [0.25, 1.0], "batch": 2, "from_scratch_epochs": 3})
    tiny.train(parts, "from_scratch", tmp_path)
    (whole, once), (part, twice) = sorted(set(epochs), reverse=True)
    assert (once, twice) == (1, 2) and whole / 4 < part < whole * 3 / 4
    assert sorted(planned) == [3 * part, 3 * whole] and len(epochs) == 6


def test_batches_depend_on_seed_and_epoch_alone():
    def content(**which):
        batches = _batches(_study(batch=8), **which)[0]
        return [batches[step][0][name].tobytes() for step in range(len(batches)) for name in ("pixels", "views")]

    assert content(epoch=3) == content(epoch=3)
    assert content(epoch=3) != content(epoch=4)
    assert content(seed=1) != content(seed=2)


def test_balanced_sampling_and_class_weights_make_diagnoses_count_alike():
    balanced = [_batches(_study(batch=8, imbalance="balanced_sampling"), epoch=epoch) for epoch in range(200)]
    drawn = np.bincount(np.concatenate([labels[batches.order] for batches, labels in balanced]), minlength=7)
    np.testing.assert_allclose(drawn / drawn.sum(), 1 / 7, atol=4 * math.sqrt(6 / 49 / drawn.sum()))
    weighted, labels = _batches(_study(batch=8, imbalance="class_weights"))
    total = [weighted.weights[labels[labels == dx]].sum() for dx in range(7)]
    np.testing.assert_allclose(total, 40 / 7)


# What it learns from them


@pytest.fixture
def guesses():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 30)
    return np.eye(7, dtype=np.float32)[labels], rng.normal(0, 2, (30, 7)).astype(np.float32), labels


def _loss(guesses, **changes):
    loss = networks.make_loss(_study(**changes), np.array([1, 2, 3, 4, 5, 6, 79]))
    return keras.ops.convert_to_numpy(loss(*guesses[:2]))


def test_losses_are_those_that_they_are_named_after(guesses):
    wanted, logits, labels = guesses
    plain = log_loss(labels, special.softmax(logits.astype(float), 1), labels=range(7))
    assert _loss(guesses).mean() == pytest.approx(plain, rel=1e-4)
    smooth = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)(wanted, logits)
    assert _loss(guesses, label_smoothing=0.1).mean() == pytest.approx(float(smooth), rel=1e-4)
    focal = keras.losses.CategoricalFocalCrossentropy(alpha=1, gamma=2, from_logits=True)(wanted, logits)
    assert _loss(guesses, imbalance="focal").mean() == pytest.approx(float(focal), rel=1e-3)
    prior = np.array([1, 2, 3, 4, 5, 6, 79]) / 100
    chances = special.softmax(logits.astype(float), 1) * prior
    adjusted = log_loss(labels, chances / chances.sum(1, keepdims=True), labels=range(7))
    assert _loss(guesses, imbalance="logit_adjusted").mean() == pytest.approx(adjusted, rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.floats(1e-5, 1), st.integers(2, 200), st.floats(0, 0.9))
def test_the_learning_rate_rises_in_a_line_and_falls_along_a_cosine(peak, n_steps, share):
    n_warmup = int(share * n_steps)
    rate = networks.make_schedule(peak, n_steps, n_warmup)
    for step in {0, n_warmup // 2, n_warmup, (n_warmup + n_steps) // 2, n_steps}:
        if step < n_warmup:
            wanted = peak * step / n_warmup
        else:
            wanted = peak * (1 + math.cos(math.pi * (step - n_warmup) / (n_steps - n_warmup))) / 2
        assert float(rate(step)) == pytest.approx(wanted, rel=1e-3, abs=1e-6 * peak)


def test_the_optimizer_is_adamw_with_a_rate_for_each_variable():
    rng = np.random.default_rng(0)
    start, slopes = rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=(4, 2, 3)).astype(np.float32)

    def steps(make):
        variables = [keras.Variable(start), keras.Variable(start)]
        optimizer = make()
        optimizer.build(variables)
        for slope in slopes:
            optimizer.apply([slope, slope], variables)
        return [keras.ops.convert_to_numpy(variable) for variable in variables]

    one, other = steps(lambda: networks.AdamW(0.1, [1, 0.1], [0.3, 0.3], 0.0, 1e6))
    np.testing.assert_allclose(one, steps(lambda: keras.optimizers.AdamW(0.1, weight_decay=0.3))[0], rtol=1e-5)
    np.testing.assert_allclose(other, steps(lambda: keras.optimizers.AdamW(0.01, weight_decay=0.3))[0], rtol=1e-5)
    free = steps(lambda: networks.AdamW(0.1, [1, 1], [0.0, 0.0], 0.0, 1e6))[0]
    np.testing.assert_allclose(free, steps(lambda: keras.optimizers.Adam(0.1))[0], rtol=1e-5)


def test_weights_are_averaged_for_a_while_and_then_as_they_were():
    variable = keras.Variable(np.zeros(3, np.float32))
    optimizer = networks.AdamW(0.1, [1], [0], 0.5, 1e6)
    optimizer.build([variable])
    average = values = None
    for step in range(4):
        optimizer.apply([np.ones(3, np.float32)], [variable])
        values = keras.ops.convert_to_numpy(variable).copy()
        average = values if step == 0 else 0.5 * average + 0.5 * values
    optimizer.finalize_variable_values([variable])  # as `fit` does at its end
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), values)
    with optimizer.averaged([variable]):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), average, rtol=1e-5)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), values)


# Whole runs


@pytest.fixture
def study(small_study, monkeypatch):
    tiny.install(monkeypatch.setattr)
    strategies = ["feature_extraction", "fine_tuning", "from_scratch"]
    return small_study.model_copy(update={**tiny.TUNING, "strategies": strategies})


def _files(folder, *names):
    return {name: (folder / name).read_bytes() for name in names or ("predictions.csv", "history.csv")}


def test_fine_tuning_begins_with_what_the_head_predicts(study, tmp_path):
    data = runs.prepare(study, tmp_path)
    metadata = data.metadata.set_index("image_id").loc[data.images.ids].reset_index()
    weights = data.weights["backbones"]["MobileNetV2"]
    job = heads.Job(study, "fine_tuning", "MobileNetV2", data.images, metadata, weights, tmp_path)
    features = job.features("native")
    rows, labels = np.arange(len(features)), heads.labels_of(metadata)
    head, _ = heads.train_head(features, labels, {"train": rows, "val": rows}, study)
    network = networks.Network(job, "native", 5, head, np.bincount(labels))
    wanted = head.probabilities(features)
    np.testing.assert_allclose(tuning.predict_rows(network.whole, data.images.pixels, rows, 8), wanted, atol=1e-4)
    views = np.repeat(PLAIN, len(rows), 0)
    logits = network.training({"pixels": np.asarray(data.images.pixels), "views": views}, training=True)
    np.testing.assert_allclose(special.softmax(np.asarray(logits), 1), wanted, atol=1e-4)
    learning = {variable.path for variable in network.training.trainable_variables}
    assert any("block_1_conv" in path for path in learning) and any("diagnosis" in path for path in learning)
    assert not any("moving" in path for path in learning)


@pytest.mark.parametrize("strategy", ["fine_tuning", "from_scratch"])
def test_a_run_keeps_its_contract(study, tmp_path, strategy, monkeypatch):
    study = study.model_copy(update={"leakage": True, "test_time_augmentation": strategy == "from_scratch"})
    folder, data = tmp_path / strategy / "MobileNetV2", runs.prepare(study, tmp_path)
    maps, mapped = [], ImageSet.pixels.fget
    monkeypatch.setattr(ImageSet, "pixels", property(lambda images: maps.append(images) or mapped(images)))
    predictions, history = training.train_run(study, strategy, "MobileNetV2", data, folder)
    assert len(maps) == (3 if strategy == "fine_tuning" else 2)  # features, network, predictions: not for each epoch
    assert predictions.columns.tolist() == training.PREDICTION_COLUMNS
    assert history.columns.tolist() == schema.HISTORY_COLUMNS
    assert set(predictions["arm"]) == {"main"}  # experiments train heads alone
    chances = predictions[[f"p_{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(chances.sum(1), 1, atol=1e-5)
    stages = ["head", "fine_tuning"] if strategy == "fine_tuning" else ["from_scratch"]
    assert history["stage"].unique().tolist() == stages
    assert (history.groupby("stage")["kept"].sum() == 1).all()
    own = heads.last_stage(history)
    assert own["epoch"].tolist() == [1, 2, 3] and own["loss"].gt(0).all()
    written = pd.read_csv(folder / "history.csv")
    assert written["kept"].dtype == bool
    assert [file.name for file in (folder / "models").iterdir()] == ["lesion_native_seed1.keras"]
    assert not (folder / "checkpoints").exists()
    assert json.loads((folder / "run.json").read_text())["timings"]["networks_native_s"] > 0
    # The saved model gives what was predicted.
    whole = open_model(study, strategy, "MobileNetV2", tmp_path)
    test = predictions[predictions["subset"] == "test"]
    rows = [data.images.ids.index(name) for name in test["image_id"]]
    pixels = data.images.pixels[rows]
    turned = [np.rot90(side, k, (1, 2)) for side in (pixels, pixels[:, ::-1]) for k in range(4)]
    views = turned if study.test_time_augmentation else [pixels]
    again = np.mean([np.asarray(whole.predict(np.ascontiguousarray(view), verbose=0)) for view in views], axis=0)
    np.testing.assert_allclose(test[[f"p_{name}" for name in CLASSES]].to_numpy(), again, atol=1e-4)
    if strategy == "fine_tuning":  # external images are predicted in the same way
        monkeypatch.setattr(external_predictions, "read_images", lambda *_: data.images)
        monkeypatch.setattr(external_predictions, "read_metadata_table", lambda *_: data.metadata)
        study = study.model_copy(update={"external": "isic2018"})
        elsewhere = external_predictions.predict_external(study, strategy, "MobileNetV2", tmp_path).set_index(
            "image_id"
        )
        columns = [f"p_{name}" for name in CLASSES]
        np.testing.assert_allclose(elsewhere.loc[test["image_id"], columns].to_numpy(), test[columns], atol=1e-4)


@pytest.mark.parametrize("strategy", ["fine_tuning", "from_scratch"])
def test_networks_learn_from_parts_of_the_lesions_too(study, tmp_path, strategy):
    both = study.model_copy(update={"train_fractions": [0.5, 1.0]})
    plain, _ = tiny.train(study, strategy, tmp_path / "plain")
    predictions, history = tiny.train(both, strategy, tmp_path / "both")
    whole = predictions[predictions["train_fraction"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(whole, plain)
    part = predictions[predictions["train_fraction"] == 0.5]
    assert part["image_id"].tolist() == whole["image_id"].tolist()
    assert not np.allclose(part["p_nv"], whole["p_nv"])
    assert set(history["train_fraction"]) == {0.5, 1.0}
    folder = tmp_path / "both" / strategy / "MobileNetV2"
    names = {"lesion_native_seed1.keras", "lesion_native_seed1_50percent.keras"}
    assert {file.name for file in (folder / "models").iterdir()} == names
    record = json.loads((folder / "run.json").read_text())
    assert record["timings"]["networks_native_fractions_s"] > 0 and record["images_per_second"] > 0
    few = both.model_copy(update={"train_fractions": [0.1, 1.0], "batch": 20})
    with pytest.raises(SkinTLError, match=r"larger than the training subset.*10 % of its lesions"):
        tiny.train(few, strategy, tmp_path / "few")


def test_a_killed_run_ends_like_an_undisturbed_one(study, tmp_path):
    study = study.model_copy(update={"imbalance": "balanced_sampling"})
    tiny.train(study, "from_scratch", tmp_path / "whole")
    folder = tmp_path / "killed"
    save_study(study, folder / "study.json")
    command = [sys.executable, Path(tiny.__file__), folder, "from_scratch"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    steps = len(_training_rows(study, tmp_path)) // study.batch
    killed = subprocess.run([*command, str(2 * steps - 1)], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    run = folder / "from_scratch" / "MobileNetV2"
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["lesion_native_seed1.npz"]
    assert not (run / "predictions.csv").exists()
    resumed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert "going on after epoch 1" in resumed.stderr
    assert _files(run) == _files(tmp_path / "whole" / "from_scratch" / "MobileNetV2")


def _training_rows(study, folder):
    splits = runs.prepare(study, folder).splits
    return splits[(splits["subset"] == "train") & (splits["seed"] == study.seeds[0])]


def test_the_validation_subset_chooses_the_learning_rate(study, tmp_path, monkeypatch):
    rates, reached, alone = [1e-6, 3e-2, 1e-5], {}, {}
    for rate in rates:
        folder = tmp_path / f"{rate:g}"
        single = study.model_copy(update={"from_scratch_rate": [rate]})
        alone[rate], history = tiny.train(single, "from_scratch", folder)
        reached[rate] = history["val_macro_f1"].rolling(SMOOTHED, min_periods=1).mean().max()
        (only,) = json.loads((folder / "from_scratch/MobileNetV2/run.json").read_text())["rates"]
        assert only["kept"] and only["rate"] == rate and only["val_macro_f1"] == pytest.approx(reached[rate])
    best = max(rates, key=reached.get)
    several = study.model_copy(update={"from_scratch_rate": rates})
    run = tmp_path / "several/from_scratch/MobileNetV2"
    with monkeypatch.context() as patch:
        _stop_after(patch, 4)  # in the second of three trainings of three epochs
        with pytest.raises(Stop):
            tiny.train(several, "from_scratch", tmp_path / "several")
    names = {f"lesion_native_seed1_rate{rate}.npz" for rate in ("1e-06", "0.03")}
    assert {file.name for file in (run / "checkpoints").iterdir()} == names
    predictions, history = tiny.train(several, "from_scratch", tmp_path / "several")
    pd.testing.assert_frame_equal(predictions, alone[best])
    tried = json.loads((run / "run.json").read_text())["rates"]
    assert [row["rate"] for row in tried] == rates and [row["rate"] for row in tried if row["kept"]] == [best]
    assert [row["val_macro_f1"] for row in tried] == pytest.approx([reached[rate] for rate in rates])
    assert len(history) == 3 and [row["epochs"] for row in tried] == [3, 3, 3]
    assert not (run / "checkpoints").exists()
    assert {file.name for file in (run / "tensorboard").iterdir()} > {name.removesuffix(".npz") for name in names}


class Stop(Exception):
    """What ends a run in these tests."""


def _stop_after(monkeypatch, n_checkpoints):
    write, written = checkpoints.write_checkpoint, []

    def write_and_stop(*arguments):
        write(*arguments)
        written.append(arguments)
        if len(written) == n_checkpoints:
            raise Stop

    monkeypatch.setattr(tuning, "write_checkpoint", write_and_stop)


@pytest.mark.parametrize("n_checkpoints", [1, 3])
def test_fine_tuning_goes_on_from_its_last_epoch(study, tmp_path, monkeypatch, n_checkpoints):
    study = study.model_copy(update={"unfreeze": "last_block"})
    tiny.train(study, "fine_tuning", tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        _stop_after(patch, n_checkpoints)
        tiny.train(study, "fine_tuning", tmp_path / "stopped")
    tiny.train(study, "fine_tuning", tmp_path / "stopped")
    run = Path("fine_tuning") / "MobileNetV2"
    assert _files(tmp_path / "stopped" / run) == _files(tmp_path / "whole" / run)


def test_a_checkpoint_of_something_else_is_refused_with_the_reason(study, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stop):
        _stop_after(patch, 1)
        tiny.train(study, "from_scratch", tmp_path)
    file = next(tmp_path.glob("from_scratch/MobileNetV2/checkpoints/*"))
    for changes, told in (
        ({"from_scratch_rate": [0.5]}, "another training: from_scratch_rate was 0.001, is 0.5"),
        ({"image_size": 48}, "image_size was 32, is 48"),
    ):
        with pytest.raises(SkinTLError, match=told) as error:
            tiny.train(study.model_copy(update=changes), "from_scratch", tmp_path)
        assert str(file) in str(error.value)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "FORMAT", 0)
        with pytest.raises(SkinTLError, match=r"another training: format was [1-9]\d*, is 0"):
            tiny.train(study, "from_scratch", tmp_path)
    drawn = runs.prepare(study, tmp_path)
    swapped = drawn.splits.assign(subset=drawn.splits["subset"].replace({"val": "test", "test": "val"}))
    other = runs.Prepared(drawn.metadata, swapped, drawn.experiments, drawn.images, drawn.weights)
    with pytest.raises(SkinTLError, match="another training: split was"):
        training.train_run(study, "from_scratch", "MobileNetV2", other, file.parent.parent)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(SkinTLError, match="damaged"):
        tiny.train(study, "from_scratch", tmp_path)


def test_what_was_learned_is_kept_until_the_run_is_written(study, tmp_path, monkeypatch):
    """A full disk or a kill after the last epoch costs predictions, not the training."""
    expected, _ = tiny.train(study, "from_scratch", tmp_path / "whole")

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_json", stopped)
        with pytest.raises(KeyboardInterrupt):
            tiny.train(study, "from_scratch", tmp_path)
    run = tmp_path / "from_scratch" / "MobileNetV2"
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["lesion_native_seed1.npz"]
    monkeypatch.setattr(tuning, "Batches", None)  # nothing is trained again
    predictions, _ = tiny.train(study, "from_scratch", tmp_path)
    pd.testing.assert_frame_equal(predictions, expected)
    assert not (run / "checkpoints").exists()


def test_no_space_for_a_checkpoint_is_said_and_leaves_none_half_written(study, tmp_path, monkeypatch):
    def full(file, **arrays):
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(SkinTLError, match=r"lesion_native_seed1\.npz: no space left"):
        tiny.train(study, "from_scratch", tmp_path)
    assert not list(tmp_path.glob("from_scratch/MobileNetV2/checkpoints/*"))


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_weights(study, tmp_path, monkeypatch):
    class Broken(augmentation.Batches):
        def __getitem__(self, step):
            inputs, wanted, weights = super().__getitem__(step)
            broken = self.draw == (1, 1) and step >= 2
            return inputs, wanted, weights * np.float32(np.nan) if broken else weights

    monkeypatch.setattr(tuning, "Batches", Broken)
    told = r"not a number at step 3 of epoch 2\. Lower `from_scratch_rate` \(0\.001\)"
    with pytest.raises(SkinTLError, match=told) as error:
        tiny.train(study, "from_scratch", tmp_path)
    file = tmp_path / "from_scratch/MobileNetV2/last_good/lesion_native_seed1.keras"
    assert str(file) in str(error.value) and "epoch 1" in str(error.value)
    whole = keras.models.load_model(file)
    assert all(np.isfinite(weight).all() for weight in whole.get_weights())
    assert not list(tmp_path.glob("from_scratch/MobileNetV2/checkpoints/*"))  # a lower rate is not refused


def test_a_rate_whose_loss_is_no_number_loses_the_search_and_not_the_run(study, tmp_path, monkeypatch):
    several = study.model_copy(update={"from_scratch_rate": [1e-3, 1e-2]})
    real = networks.Network

    class Broken(real):
        def __init__(self, job, *arguments):
            super().__init__(job, *arguments)
            self.breaks = job.study.from_scratch_rate == [1e-2]

        def with_averages(self):
            if self.breaks:  # what predicts is broken, and no loss has told of it
                self.whole.set_weights([np.full_like(weight, np.nan) for weight in self.whole.get_weights()])
                return contextlib.nullcontext()
            return super().with_averages()

    monkeypatch.setattr(networks, "Network", Broken)
    predictions, _ = tiny.train(several, "from_scratch", tmp_path / "several")
    monkeypatch.setattr(networks, "Network", real)
    alone, _ = tiny.train(study, "from_scratch", tmp_path / "alone")
    pd.testing.assert_frame_equal(predictions, alone)
    tried = json.loads((tmp_path / "several/from_scratch/MobileNetV2/run.json").read_text())["rates"]
    assert [(row["rate"], row["kept"], row["val_macro_f1"] is None) for row in tried] == [
        (1e-3, True, False),
        (1e-2, False, True),
    ]
    monkeypatch.setattr(networks, "Network", Broken)
    with pytest.raises(SkinTLError, match=r"not a number at step \d+ of epoch 1\. Lower `from_scratch_rate` \(0\.01\)"):
        tiny.train(study.model_copy(update={"from_scratch_rate": [1e-2]}), "from_scratch", tmp_path / "none")

    class AllBroken(Broken):
        def __init__(self, job, *arguments):
            super().__init__(job, *arguments)
            self.breaks = True

    monkeypatch.setattr(networks, "Network", AllBroken)
    with pytest.raises(SkinTLError, match=r"So it was with all of 0\.001, 0\.01\."):
        tiny.train(several, "from_scratch", tmp_path / "all")


def test_a_strategy_that_the_study_does_not_have_is_refused(study, tmp_path):
    with pytest.raises(SkinTLError, match="no strategy 'finetuning'; it has feature_extraction"):
        tiny.train(study, "finetuning", tmp_path)


# How it computes, and where


def test_a_network_learns_in_bfloat16_and_is_kept_in_float32(study, tmp_path):
    histories = {}
    for precision in ("float32", "bfloat16"):
        folder = tmp_path / precision
        _, histories[precision] = tiny.train(study.model_copy(update={"precision": precision}), "from_scratch", folder)
        run = folder / "from_scratch/MobileNetV2"
        assert json.loads((run / "run.json").read_text())["precision"] == precision
        whole = keras.models.load_model(run / "models" / "lesion_native_seed1.keras")
        assert {layer.dtype_policy.name for layer in [*whole.layers, *backbones.network_of(whole).layers]} == {
            "float32"
        }
        assert {weight.dtype for weight in whole.weights} <= {"float32", "uint32"}  # a dropout layer keeps its seed
    losses = [history["loss"].to_numpy() for history in histories.values()]
    # bfloat16 keeps 8 bits of a number: nearly the same, and not the same.
    np.testing.assert_allclose(*losses, rtol=0.05)
    assert np.all(np.abs(losses[0] - losses[1]) > 1e-6)


def test_bfloat16_is_what_auto_means_on_a_gpu_alone(monkeypatch):
    monkeypatch.setattr(devices, "gpus", lambda: ["gpu:0"])
    assert devices.precision_of(_study()) == "bfloat16"
    assert devices.precision_of(_study(device="cpu")) == devices.precision_of(_study(precision="float32")) == "float32"
    monkeypatch.setattr(devices, "gpus", lambda: [])
    assert (
        devices.precision_of(_study()) == "float32" and devices.precision_of(_study(precision="bfloat16")) == "bfloat16"
    )


def test_a_deterministic_study_tells_the_backends_before_they_begin(monkeypatch):
    monkeypatch.delenv("TF_DETERMINISTIC_OPS", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_other=1")
    devices.hold_to_determinism(_study())
    assert "TF_DETERMINISTIC_OPS" not in os.environ and os.environ["XLA_FLAGS"] == "--xla_other=1"
    for _ in range(2):
        devices.hold_to_determinism(_study(deterministic=True))
        assert os.environ["TF_DETERMINISTIC_OPS"] == "1"
        assert os.environ["XLA_FLAGS"] == "--xla_other=1 --xla_gpu_deterministic_ops=true"


# What a person sees of it


def _logged(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def test_tensorboard_shows_each_epoch_once_even_after_a_kill(study, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stop):
        _stop_after(patch, 2)
        tiny.train(study, "from_scratch", tmp_path)
    _, history = tiny.train(study, "from_scratch", tmp_path)
    events = _logged(tmp_path / "from_scratch/MobileNetV2/tensorboard/lesion_native_seed1")
    for name in ("loss", "accuracy", "macro_f1"):
        for subset, column in (("training", name), ("validation", f"val_{name}")):
            scalars = events.Scalars(f"{name}/{subset}")
            assert [scalar.step for scalar in scalars] == [1, 2, 3]
            np.testing.assert_allclose([scalar.value for scalar in scalars], history[column], rtol=1e-6)
    pictures = events.Images("confusion_matrix/validation")
    assert [picture.step for picture in pictures] == [1, 2, 3] and min(picture.width for picture in pictures) > 300


def test_curves_in_a_notebook_follow_the_training_and_go_at_its_end(study, tmp_path, monkeypatch):
    import IPython.display

    shown = []

    class Handle:
        def update(self, drawing):
            shown.append(drawing)

    monkeypatch.setattr(IPython.display, "display", lambda drawing, display_id: shown.append(drawing) or Handle())
    data = runs.prepare(study, tmp_path)
    curves = watching.LiveCurves("MobileNetV2", "from_scratch")
    training.train_run(study, "from_scratch", "MobileNetV2", data, tmp_path / "from_scratch/MobileNetV2", curves)
    *drawings, last = shown
    lengths = [len(drawing.axes[0].lines[0].get_xdata()) for drawing in drawings]
    assert lengths == [1, 2, 3] and last.data == ""
    training.train_run(study, "feature_extraction", "MobileNetV2", data, tmp_path / "heads", curves)
    assert len(shown) == 4  # heads are trained in seconds


# What cannot be


def test_a_batch_larger_than_the_training_subset_is_refused(study, tmp_path):
    n = len(_training_rows(study, tmp_path))
    with pytest.raises(SkinTLError, match=rf"`batch: {n + 1}` is larger than the training subset, {n} images"):
        tiny.train(study.model_copy(update={"batch": n + 1}), "from_scratch", tmp_path)


def test_a_gpu_that_is_not_there_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(devices, "gpus", lambda: [])
    with pytest.raises(SkinTLError, match="finds no GPU") as error:
        devices.on_device(_study(device="gpu"))
    assert "\n" not in str(error.value) and "nvidia-smi" not in str(error.value)
    with devices.on_device(_study()), devices.on_device(_study(device="cpu")):
        pass


@pytest.mark.parametrize(
    ("batch", "begun", "told"),
    [
        (32, False, r"Try `batch: 16`\."),
        (32, True, r"Try `batch: 16`, and delete .*checkpoints: what is in it belongs to batches of 32"),
        (1, False, r"Try a smaller `image_size`\."),
    ],
)
def test_running_out_of_memory_names_what_to_try(tmp_path, batch, begun, told):
    job = heads.Job(_study(batch=batch), "from_scratch", "MobileNetV2", None, None, {}, tmp_path)
    if begun:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "lesion_native_seed1.npz").touch()
    with pytest.raises(SkinTLError, match=told), tuning.enough_memory(job):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12884901888 bytes.")
    with pytest.raises(ValueError, match="else"), tuning.enough_memory(job):
        raise ValueError("something else")


@pytest.mark.parametrize(
    ("changes", "key", "told"),
    [
        ({"strategies": ["feature_extraction"], "unfreeze": "all"}, "unfreeze", "fine_tuning"),
        ({"strategies": ["from_scratch"], "unfreeze": "last_block"}, "unfreeze", "fine_tuning"),
        ({"strategies": ["feature_extraction"], "batch": 16}, "batch", "fine_tuning and from_scratch"),
        ({"strategies": ["fine_tuning"], "from_scratch_rate": 0.1}, "from_scratch_rate", "from_scratch"),
        ({"strategies": ["fine_tuning"], "leakage": True}, "leakage", "feature_extraction"),
        ({"strategies": ["fine_tuning"], "warmup_epochs": 30}, "warmup_epochs", "`fine_tuning_epochs`, 30"),
        ({"strategies": ["from_scratch"], "imbalance": "smote"}, "imbalance", "logit_adjusted"),
        ({"strategies": ["from_scratch"], "device": "tpu"}, "device", "gpu"),
        ({"strategies": ["from_scratch"], "batch": 0}, "batch", "greater than or equal to 1"),
        ({"strategies": ["from_scratch"], "precision": "float16"}, "precision", "bfloat16"),
    ],
)
def test_settings_that_contradict_each_other_are_named(changes, key, told):
    with pytest.raises(SkinTLError, match=f"`{key}`") as error:
        check_study({**SETTINGS, **changes})
    assert told in str(error.value)


def test_a_setting_runs_the_strategies_again_that_it_has_an_effect_on():
    changed = _study(backbone_share=0.5)
    strategies = ("feature_extraction", "fine_tuning", "from_scratch")
    again = [name for name in strategies if changed.training_settings(name) != _study().training_settings(name)]
    assert again == ["fine_tuning"]
    assert all("device" not in _study().training_settings(name) for name in strategies)


@pytest.mark.parametrize("name", registry.BACKBONES)
def test_the_last_block_is_the_end_of_every_backbone(name):
    with keras.StatelessScope():  # no value of a weight is drawn
        network = backbones._network(name, None, 96)
    networks._unfreeze(network, registry.BACKBONES[name].last_block)
    learns = [layer.trainable for layer in network.layers if layer.weights]
    assert learns == sorted(learns) and not learns[0] and learns[-1]  # from its first layer to the network's end
    share = sum(math.prod(v.shape) for v in network.trainable_variables) / network.count_params()
    assert 0.02 < share < 0.7, (
        f"the layers that `last_block` names hold {share:.0%} of {name}'s weights, hardly a block"
    )
