"""Exported models give the probabilities of model.keras, or are not kept; their card says what the files say."""

import csv
import importlib
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from copies import copy_project, start
from fabricated import evaluate, fabricate
from in_process import command
from sklearn.metrics import f1_score

from skin_tl.apps import export, model_card
from skin_tl.data.synthetic import draw_dataset
from skin_tl.evaluation.metrics import metrics_table
from skin_tl.evaluation.predictions import read_predictions
from skin_tl.files import ROOT, read_json, write_csv, write_json
from skin_tl.schema import BASELINES, CLASSES
from skin_tl.study import check_study, load_study

keras = pytest.importorskip("keras")

import tiny

from skin_tl.data import preparation
from skin_tl.models import backbones

STUDY = {
    "name": "small",
    "title": "A small study",
    "dataset": "ham10000",
    "image_size": 32,
    "backbones": ["VGG16", "EfficientNetB7"],
    "seeds": [2, 1],
    "weights": "random",
    "max_epochs": 15,
}
"""Its backbones are tiny networks, with the scaling of pixels of those whose names they have."""

TUNED = {
    "name": "tuned",
    "backbones": ["MobileNetV2"],
    "strategies": ["fine_tuning"],
    "seeds": [1],
    "batch": 8,
    "fine_tuning_epochs": 2,
    "max_epochs": 5,
    "l2": [0.01],
    "test_time_augmentation": True,
}
"""Changes to it."""

VGG16, EFFICIENTNET = (Path("runs/small/feature_extraction") / name for name in STUDY["backbones"])
TUNED_RUN = Path("runs/tuned/fine_tuning/MobileNetV2")


def network(name, weights, image_size=224):
    """Build the tiny network; where EfficientNet is asked for, behind layers such as that one scales pixels with."""
    inner = tiny.network(name, weights, image_size)
    if name != "EfficientNetB7":
        return inner
    start = keras.Input((image_size, image_size, 3))
    scaled = keras.layers.Rescaling(1 / 255)(start)
    scaled = keras.layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.052, 0.05, 0.051])(scaled)
    values = keras.layers.Rescaling([2.0, 2.1, 2.2])(scaled)
    for layer in inner.layers[1:]:
        values = layer(values)
    return keras.Model(start, values)


def finish(root, settings):
    """Train a study's runs, as the workflow leaves them, and write its metrics."""
    study, folder = tiny.finish(root, settings)
    tables = []
    for strategy in study.strategies:
        for name in study.backbones:
            predictions = read_predictions(folder / strategy / name / "predictions.csv")
            tables.append(metrics_table(predictions, strategy, name, n_boot=50))
    write_csv(root / "report" / study.name / "metrics.csv", pd.concat(tables))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a folder with the finished runs of two small studies of drawn lesions, which count as HAM10000."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIN_TL_HAM10000", str(draw_dataset(root / "HAM10000", 50, 1, (96, 72), workers=1)))
        patch.setenv("SKIN_TL_CACHE", str(root / "cache"))
        patch.setenv("KERAS_BACKEND", "tensorflow")
        patch.delenv("SKIN_TL_WEIGHTS", raising=False)
        tiny.install(patch.setattr)
        patch.setattr(backbones, "_network", network)
        finish(root, STUDY)
        finish(root, STUDY | TUNED)
        yield root


@pytest.fixture(scope="module")
def packages():
    """Have the packages of exporting: without them a test is skipped, unless they were asked for."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("exporting needs TensorFlow: run it with KERAS_BACKEND=tensorflow")
    for name in {name for names in export.PACKAGES.values() for name in names}:
        if os.environ.get("SKIN_TL_TEST_EXPORT"):
            importlib.import_module(name)
        else:
            pytest.importorskip(name, reason=f"{name} is not installed: SKIN_TL_TEST_EXPORT=1 ./run_all.sh test has it")


@pytest.fixture(scope="module")
def exported(project, packages):
    """Export both studies; return the project's folder."""
    for study in ("small", "tuned"):
        assert command(project, "export", "--study", study) == 0
    return project


@pytest.fixture
def copied(project, tmp_path):
    """Return a copy of the studies, without exported files, that a test may spoil."""
    for name in ("runs", "report"):
        shutil.copytree(project / name, tmp_path / "copy" / name, ignore=shutil.ignore_patterns("export"))
    return tmp_path / "copy"


# --- The files --------------------------------------------------------------------------------------------------------


def by_onnxruntime(path, pixels):
    session = importlib.import_module("onnxruntime").InferenceSession(str(path))
    assert [(given.name, given.type) for given in session.get_inputs()] == [("pixels", "tensor(uint8)")]
    return session.run(None, {"pixels": pixels})[0]


def by_litert(path, pixels):
    model = importlib.import_module("ai_edge_litert.interpreter").Interpreter(str(path))
    given, answer = model.get_input_details(), model.get_output_details()
    assert len(given) == 1 and given[0]["dtype"] == np.uint8 and given[0]["shape_signature"].tolist() == [-1, 32, 32, 3]
    model.resize_tensor_input(given[0]["index"], pixels.shape)
    model.allocate_tensors()
    model.set_tensor(given[0]["index"], pixels)
    model.invoke()
    return model.get_tensor(answer[0]["index"])


@pytest.mark.parametrize("run", [VGG16, EFFICIENTNET, TUNED_RUN], ids=lambda run: run.name)
@pytest.mark.parametrize(("file", "give"), [("model.onnx", by_onnxruntime), ("model.tflite", by_litert)])
def test_files_give_the_probabilities_of_model_keras_for_any_number_of_images(exported, run, file, give):
    drawn = preparation.read_images(exported / "runs" / "small").pixels
    noise = np.random.default_rng(5).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    model = keras.models.load_model(exported / run / "model.keras", compile=False)
    seen = []
    for pixels in (drawn[:1], drawn[[7, 40, 55]], noise, drawn[10:27]):
        expected = model.predict_on_batch(np.asarray(pixels))
        found = give(exported / run / "export" / file, np.asarray(pixels))
        assert found.shape == (len(pixels), 7) and found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        seen.append(expected)
    assert np.ptp(np.concatenate(seen), axis=0).max() > 0.05  # not the same for every image


def test_what_is_printed_names_each_file_with_size_and_difference(project, packages, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setattr(export, "N_PER_DIAGNOSIS", 2)
    shutil.rmtree(project / VGG16 / "export", ignore_errors=True)
    assert command(project, "export", "--study", "small", "--backbone", "VGG16", "--format", "litert") == 0
    folder = VGG16 / "export"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"{folder / 'model.tflite'}: ")
    size, difference, n_images = re.search(r"([\d.]+) MB, .* ([\d.e-]+) \((\d+) test images\)", lines[0]).groups()
    assert float(size) == pytest.approx((project / folder / "model.tflite").stat().st_size / 1e6, abs=0.05)
    assert 0 <= float(difference) < 1e-4
    tested = pd.read_csv(project / VGG16 / "predictions.csv").query("arm == 'main' and seed == 2 and subset == 'test'")
    assert int(n_images) == tested["dx"].value_counts().clip(upper=2).sum()
    assert sorted(path.name for path in (project / folder).iterdir()) == ["MODEL_CARD.md", "model.tflite"]
    monkeypatch.setattr(export, "N_PER_DIAGNOSIS", 5)
    # Another format joins the first, which is checked and counted in the card again.
    assert command(project, "export", "--study", "small", "--backbone", "VGG16", "--format", "onnx") == 0
    assert [line.split(":")[0].rsplit("/")[-1] for line in capsys.readouterr().out.splitlines()] == [
        "model.onnx",
        "model.tflite",
    ]
    card = card_of(project, VGG16)
    assert cells(card, "`model.onnx`") and cells(card, "`model.tflite`")


def test_without_the_cache_the_check_takes_random_pixels_and_says_so(copied, packages, monkeypatch, capsys):
    monkeypatch.setenv("SKIN_TL_CACHE", str(copied / "none"))
    assert command(copied, "export", "--study", "small", "--backbone", "VGG16", "--format", "onnx") == 0
    assert "random pixels" in capsys.readouterr().out
    card = (copied / VGG16 / "export" / "MODEL_CARD.md").read_text()
    assert "images of random pixels" in card and "test images, at most" not in card


@pytest.mark.parametrize(("kind", "by"), [("onnx", 0.05), ("litert", np.nan)])
def test_a_file_that_gives_other_probabilities_is_not_kept(copied, packages, monkeypatch, capsys, kind, by):
    convert = export.convert

    def spoil(model, *rest):
        *others, bias = model.head[-1].get_weights()
        model.head[-1].set_weights([*others, bias + np.eye(7, dtype=np.float32)[3] * by])
        convert(model, *rest)

    monkeypatch.setattr(export, "convert", spoil)
    assert command(copied, "export", "--study", "small", "--backbone", "VGG16", "--format", kind) == 1
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    file = copied / VGG16 / "export" / export.FORMATS[kind]
    assert not shown.out and len(lines) == 1 and f"{file} gives other probabilities than model.keras" in lines[0]
    found = float(re.search(r"differ by up to (\S+),", lines[0]).group(1))
    assert np.isnan(found) if np.isnan(by) else 1e-4 < found < 0.05
    assert not (copied / VGG16 / "export").exists() and not list((copied / VGG16).glob(".part*"))


def test_a_model_that_cannot_be_converted_is_told_in_one_line(copied, packages, monkeypatch, capsys):
    def fail(*_):
        raise ValueError("no such operation\nand much more")

    monkeypatch.setattr(export, "convert", fail)
    assert command(copied, "export", "--study", "tuned") == 1
    shown = capsys.readouterr()
    line = next(line for line in shown.err.splitlines() if line.startswith("error: "))
    assert "model.onnx could not be made and run (no such operation)" in line and not shown.out
    assert not (copied / TUNED_RUN / "export").exists()


# --- The card ---------------------------------------------------------------------------------------------------------


def card_of(root, run):
    return (root / run / "export" / "MODEL_CARD.md").read_text(encoding="utf-8")


def cells(card, first):
    """Return the cells of the row of a table that begins with a text."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line[:1] == "|"]
    return next(row[1:] for row in rows if row[0] == first)


def in_metrics(root, run, seed):
    """Yield name of the card's row, value and interval as the file metrics.csv of a study has them."""
    names = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "ece": "ECE"}
    study, strategy, backbone = run.parts[1:]
    with open(root / "report" / study / "metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            if (row["strategy"], row["backbone"], row["seed"]) != (strategy, backbone, seed):
                continue
            if row["class"] == "all" and row["metric"] in names:
                yield names[row["metric"]], row
            elif row["class"] != "all" and row["metric"] == "f1":
                yield f"F1 of {row['class']}", row


@pytest.mark.parametrize(("run", "seeds"), [(VGG16, ("2", "all")), (TUNED_RUN, ("1",))])
def test_the_card_has_the_metrics_of_metrics_csv(exported, run, seeds):
    card = card_of(exported, run)
    for place, seed in enumerate(seeds):
        rows = list(in_metrics(exported, run, seed))
        assert len(rows) == 4 + len(CLASSES)
        for name, row in rows:
            shown = cells(card, name)
            assert len(shown) == 2 * len(seeds)
            interval = f"{float(row['ci_low']):.3f} to {float(row['ci_high']):.3f}" if row["ci_low"] else "–"
            assert shown[2 * place : 2 * place + 2] == [f"{float(row['value']):.3f}", interval], name
    assert ("eight flips" in card) == (run == TUNED_RUN)


def test_the_card_counts_each_subset_and_names_what_goes_in_and_comes_out(exported):
    card = card_of(exported, VGG16)
    split = pd.read_csv(exported / "runs/small/dataset/splits.csv").query("seed == 2")
    for subset, name in (("train", "training"), ("val", "validation"), ("test", "test")):
        part = split[split["subset"] == subset]
        assert cells(card, name) == [str(len(part)), str(part["lesion_id"].nunique())]
    assert "(n, 32, 32, 3) uint8" in card and "resize((32, 32), Image.Resampling.BICUBIC)" in card
    assert [cells(card, str(place))[0] for place in range(7)] == list(CLASSES)
    assert "not a medical device" in card.split("## ")[0] and "CC BY-NC 4.0" in card
    assert "Random weights" in card.split("## ")[0] and "Synthetic" not in card
    for file in ("model.onnx", "model.tflite"):
        size, _, difference = cells(card, f"`{file}`")
        assert int(size) == (exported / VGG16 / "export" / file).stat().st_size and float(difference) < 1e-4
    assert "{{" not in card and "{%" not in card and "\n\n\n" not in card and card.endswith(".\n")


def test_the_code_of_the_card_runs(exported, tmp_path, monkeypatch):
    """All that is indented is one program, which gives the probabilities of model.keras."""
    card, folder = card_of(exported, VGG16), exported / VGG16 / "export"
    pictures = sorted((exported / "HAM10000").rglob("*.jpg"))[:2]
    monkeypatch.chdir(folder)
    for picture, name in zip(pictures, ("one.jpg", "another.jpg"), strict=True):
        shutil.copy(picture, tmp_path / name)
    code = "\n".join(line[4:] for line in card.splitlines() if line.startswith("    ") or not line)
    inputs, onnx, litert = re.split(r"(?m)^(?=import onnxruntime|from ai_edge)", code)
    names = {"onnx": {}, "litert": {}}
    for kind, program in (("onnx", onnx), ("litert", litert)):
        exec(
            inputs.replace('"one.jpg"', repr(str(tmp_path / "one.jpg"))).replace(
                '"another.jpg"', repr(str(tmp_path / "another.jpg"))
            )
            + program,
            names[kind],
        )
    whole = keras.models.load_model(exported / VGG16 / "model.keras", compile=False)
    expected = whole.predict_on_batch(names["onnx"]["pixels"])
    for kind in names:
        np.testing.assert_allclose(names[kind]["probabilities"], expected, atol=1e-4)


def test_the_card_counts_test_lesions_and_names_what_needs_no_network(exported):
    card = card_of(exported, VGG16)
    split = pd.read_csv(exported / "runs/small/dataset/splits.csv").query("seed == 2 and subset == 'test'")
    table = card.split("| diagnosis | test images |")[1].split("## Metrics")[0]
    dx = pd.read_csv(exported / "runs/small/dataset/metadata.csv").set_index("image_id")["dx"]
    for name, part in split.groupby(split["image_id"].map(dx)):
        assert f"| {name} | {len(part)} | {part['lesion_id'].nunique()} |" in table
    predictions = read_predictions(exported / VGG16 / "predictions.csv").query("arm == 'main' and seed == 2")
    tested = predictions[(predictions["subset"] == "test")]
    guessed = tested[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(1)
    of_mel = (tested["dx"] == "mel").to_numpy()
    found = (guessed[of_mel] == CLASSES.index("mel")).mean()
    assert cells(card, "sensitivity for mel")[0] == f"{found:.3f}"


def test_the_card_s_baselines_are_those_of_the_same_test_subset(tmp_path):
    study = fabricate(tmp_path, "made", {"backbones": ["VGG16"]})
    evaluate(study)
    table = pd.read_csv(tmp_path / "report/made/metrics.csv", dtype={"seed": str})
    shown = model_card.baseline_scores(table, {"split_policy": "lesion", "seed": 2})
    folder = tmp_path / "runs/made"
    assert [row["name"] for row in shown] == ["most frequent diagnosis", "age, sex and site only", "colours only"]
    for row, name in zip(shown, BASELINES, strict=True):
        tested = pd.read_csv(folder / "baseline" / name / "predictions.csv").query("seed == 2 and subset == 'test'")
        guessed = np.array(CLASSES)[tested[[f"p_{dx}" for dx in CLASSES]].to_numpy().argmax(1)]
        assert row["accuracy"] == f"{(guessed == tested['dx']).mean():.3f}"
        assert row["macro_f1"] == f"{f1_score(tested['dx'], guessed, average='macro', zero_division=0):.3f}"


def test_the_temperature_of_the_card_calibrates_the_validation_subset(exported):
    from scipy import optimize, special

    written = pd.read_csv(exported / EFFICIENTNET / "predictions.csv").query(
        "arm == 'main' and seed == 2 and subset == 'val'"
    )
    logits = np.log(written[[f"p_{name}" for name in CLASSES]].to_numpy(float))
    true = [CLASSES.index(dx) for dx in written["dx"]]

    def loss(temperature):
        return -special.log_softmax(logits / temperature, axis=1)[range(len(true)), true].mean()

    best = optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x
    shown = re.search(r"softmax\(log\(p\) / ([\d.]+)\)", card_of(exported, EFFICIENTNET)).group(1)
    assert float(shown) == pytest.approx(best, rel=0.01)


def write_card(root, run):
    """Return the card of a run, whose files need not be there."""
    of = export.finished_runs(root / run.parent.parent, [run.name])[0]
    files = {"onnx": export.Exported(Path("model.onnx"), 1, "0" * 16, 0.0, 3, True)}
    metrics = root / "report" / run.parts[1] / "metrics.csv"
    return export.write_card(of, files, read_predictions(of.folder / "predictions.csv"), metrics)


def test_a_card_tells_of_drawn_images_first(copied, packages):
    for record in (copied / TUNED_RUN / "run.json", copied / "runs/tuned/study.json"):
        content = read_json(record)
        (content if "dataset" in content else content["parameters"])["dataset"] = "synthetic"
        write_json(record, content)
    assert load_study(copied / "runs/tuned/study.json").synthetic
    card = write_card(copied, TUNED_RUN)
    assert "**Synthetic data" in card.split("## ")[0] and "HAM10000" not in card and "fair skin" not in card


def test_a_card_has_no_metrics_of_another_state_of_the_run_or_of_no_report(copied, packages):
    metrics = copied / "report" / "small" / "metrics.csv"
    assert cells(write_card(copied, VGG16), "accuracy")
    table = pd.read_csv(metrics, dtype={"seed": str})
    at = (table["backbone"] == "VGG16") & (table["seed"] == "2") & (table["metric"] == "accuracy")
    table.loc[at, "value"] += 0.001
    write_csv(metrics, table)
    card = write_card(copied, VGG16)
    assert "another state of this run" in card and "| accuracy" not in card
    assert cells(write_card(copied, EFFICIENTNET), "accuracy")
    metrics.unlink()
    card = write_card(copied, VGG16)
    assert "has not been made yet" in card and "`./run_all.sh /path/to/small.yaml`" in card and "| accuracy" not in card


def test_a_number_that_is_none_in_any_batch_is_told():
    zeros = [np.zeros((1, 7)), np.zeros((3, 7))]
    assert export.largest_difference([zeros[0], zeros[1] + 0.25], zeros) == 0.25
    for broken in ([zeros[0] + np.nan, zeros[1]], [zeros[0], zeros[1] * np.nan]):
        assert np.isnan(export.largest_difference(broken, zeros))
    assert export.largest_difference(zeros[:1], zeros) == np.inf


# --- Bad input --------------------------------------------------------------------------------------------------------


def refused(root, capsys, *arguments):
    """Return the one line that says why nothing was exported."""
    assert command(root, "export", *arguments) == 1
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line and not line.startswith("exporting ")]
    assert not shown.out and len(lines) == 1 and lines[0].startswith("error: "), shown.err
    assert not list((root / "runs").glob("*/*/*/export"))
    return lines[0]


def test_what_is_not_there_is_told_with_what_is(copied, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "No study has finished runs" in refused(tmp_path / "empty", capsys)
    assert "No study is named 'smal'" in refused(copied, capsys, "--study", "smal")
    line = refused(copied, capsys, "--study", "small", "--backbone", "VGG16,ResNet50")
    assert "no finished run of 'ResNet50'. Name one of VGG16, EfficientNetB7" in line
    assert "--format=onxx is unknown. Name one of onnx, litert" in refused(copied, capsys, "--format", "onnx,onxx")
    assert "--format" in refused(copied, capsys, "--format", ",")
    assert "No such option '--jsn'" in refused(copied, capsys, "--jsn")


@pytest.mark.parametrize("kind", ["onnx", "litert"])
def test_a_missing_package_is_told_with_what_installs_it(copied, monkeypatch, capsys, kind):
    find, name = importlib.util.find_spec, export.PACKAGES[kind][0]  # the one that is looked for first
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr(importlib.util, "find_spec", lambda of, *rest: None if of == name else find(of, *rest))
    line = refused(copied, capsys, "--study", "tuned", "--format", kind)
    assert name.replace("_", "-") in line and "`./run_all.sh export`" in line and "locks/export.lock" in line


def test_a_cache_that_cannot_be_made_is_refused(copied, monkeypatch, capsys):
    monkeypatch.setenv("SKIN_TL_CACHE", str(copied / TUNED_RUN / "run.json" / "x"))
    assert "SKIN_TL_CACHE=" in refused(copied, capsys, "--study", "tuned")


def test_jax_is_told_to_leave_it_to_tensorflow(copied, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert "KERAS_BACKEND=tensorflow ./run_all.sh export" in refused(copied, capsys, "--study", "tuned")


def test_a_run_of_another_split_is_refused(copied, packages):
    record = copied / TUNED_RUN / "run.json"
    content = read_json(record)
    content["split_fingerprints"]["lesion"]["1"] = "0" * 16
    write_json(record, content)
    with pytest.raises(export.SkinTLError, match="another split"):
        write_card(copied, TUNED_RUN)


# --- From the shell ---------------------------------------------------------------------------------------------------


def test_it_runs_from_the_shell(project, packages, tmp_path):
    if not (ROOT / ".venv" / "installed.export").is_file() and "CONDA_PREFIX" not in os.environ:
        pytest.skip("needs the environment that ./run_all.sh export makes")  # installs nothing by itself
    copy = copy_project(tmp_path / "a project", check_study(STUDY))
    shutil.copytree(project / "runs", copy / "runs", ignore=shutil.ignore_patterns("export"))
    cache = str(project / "cache")
    done = start(copy, "--study", "tuned", "--format", "onnx", study="export", SKIN_TL_CACHE=cache)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{TUNED_RUN / 'export' / 'model.onnx'}: ") and done.stdout.count("\n") == 1
    assert (copy / TUNED_RUN / "export" / "MODEL_CARD.md").is_file()
