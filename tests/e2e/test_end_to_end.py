"""From a study's file to its report through ./run_all.sh, as a user starts it, on a small data set."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from copies import copy_project, start
from fabricated import fabricate
from PIL import Image
from sklearn import metrics

from skin_tl.schema import CLASSES

RUN = Path("runs/small/feature_extraction/MobileNetV2")
PROBABILITIES = [f"p_{name}" for name in CLASSES]


@pytest.fixture
def project(tmp_path, small_study):
    """Return a copy of the project with the small study, split both ways, beside it."""
    changes = {"split_policies": ["lesion", "image"], "max_epochs": 5}
    return copy_project(tmp_path / "a project", small_study.model_copy(update=changes))


def test_a_study_becomes_a_report(project):
    first = start(project)
    assert first.returncode == 0, first.stderr
    assert "random weights" in first.stderr
    report = project / "report" / "small"
    pages = ("report.html", "report.fr.html", "report.pdf", "report.fr.pdf", "slides.html", "slides.fr.html")
    for name in (*pages, "metrics.csv", "facts.json"):
        assert (report / name).stat().st_size > 1000, name
    page = (report / "report.html").read_text()
    assert "random" in page.lower()
    assert not re.search(r"<(script|img|link|iframe)[^>]+(src|href)=[\"']?https?:", page)
    _metrics_are_those_of_the_predictions(project / RUN / "predictions.csv", report / "metrics.csv")

    again = start(project)
    assert again.returncode == 0
    assert "othing to do" in again.stderr + again.stdout

    # a deleted run is done again, with what is computed from it, and nothing else; its numbers are the same
    before = {name: (project / name).read_bytes() for name in (RUN / "predictions.csv", "report/small/metrics.csv")}
    shutil.rmtree(project / RUN)
    third = start(project, "--until", "evaluate")
    assert third.returncode == 0, third.stderr
    done = third.stderr + third.stdout
    assert "training MobileNetV2" in done
    assert not any(words in done for words in ("decoding the images", "computing the features", "drawing the splits"))
    for name, content in before.items():
        assert (project / name).read_bytes() == content, name


def _metrics_are_those_of_the_predictions(predictions_file, metrics_file):
    """Compare metrics.csv with what scikit-learn says of predictions.csv, value by value."""
    predictions = pd.read_csv(predictions_file)
    table = pd.read_csv(metrics_file, dtype={"seed": str})
    table = table[(table["backbone"] == "MobileNetV2") & (table["subgroup"] == "all")]
    for (policy, seed), part in predictions[predictions["subset"] == "test"].groupby(["split_policy", "seed"]):
        rows = table[(table["split_policy"] == policy) & (table["seed"] == str(seed))]
        ours = rows.set_index(["metric", "class"])["value"]
        said = [CLASSES[k] for k in part[PROBABILITIES].to_numpy().argmax(axis=1)]
        precision, recall, f1, support = metrics.precision_recall_fscore_support(
            part["dx"], said, labels=list(CLASSES), zero_division=0
        )
        assert ours["accuracy", "all"] == metrics.accuracy_score(part["dx"], said)
        assert ours["balanced_accuracy", "all"] == metrics.balanced_accuracy_score(part["dx"], said)
        assert ours["macro_f1", "all"] == metrics.f1_score(part["dx"], said, average="macro", zero_division=0)
        assert ours["weighted_f1", "all"] == metrics.f1_score(part["dx"], said, average="weighted", zero_division=0)
        for k, name in enumerate(CLASSES):
            expected = {"precision": precision[k], "recall": recall[k], "f1": f1[k], "support": support[k]}
            for metric, value in expected.items():
                assert ours[metric, name] == value, (metric, name)


def test_an_external_test_set_is_predicted_beside_the_internal_one(project, tmp_path):
    source, wanted = tmp_path / "ISIC2018", ("external=isic2018", "split_policies=lesion", "seeds=1")
    wanted = ("--config", *wanted, "features=all_stages")
    source.mkdir()
    known = sorted((tmp_path / "HAM10000").glob("*.png"))[0]
    colours = np.random.default_rng(1).integers(0, 255, (len(CLASSES), 6, 6, 3), np.uint8)
    for name, picture in zip(CLASSES, colours, strict=True):
        Image.fromarray(picture).resize((40, 40)).save(source / f"test_{name}.png")
    shutil.copy(known, source / "test_known.png")
    labels = pd.DataFrame({"image": [*(f"test_{name}" for name in CLASSES), "test_known"]})
    for k, name in enumerate(CLASSES):
        labels[name.upper()] = [float(k == row) for row in range(len(CLASSES))] + [float(name == CLASSES[0])]
    labels.to_csv(source / "ISIC2018_Task3_Test_GroundTruth.csv", index=False)

    until = ("--until", "external", "external_duplicates")
    first = start(project, *wanted, *until, SKIN_TL_ISIC2018=str(source))
    assert first.returncode == 0, first.stderr
    assert "external images look like an image of the data set" in first.stderr
    external = project / "runs/small/external"
    duplicates = pd.read_csv(external / "duplicates.csv").set_index("image_id")
    assert duplicates.loc["test_known", "nearest_image_id"] == known.stem
    assert (external / "features_MobileNetV2_native.json").is_file()
    assert json.loads((project / RUN / "run.json").read_text())["n_features"] == 192 + 576 + 1280  # of three stages
    table = pd.read_csv(project / RUN / "predictions_isic2018.csv")
    inside = pd.read_csv(project / RUN / "predictions.csv")
    assert table.columns.tolist() == inside.columns.tolist()
    assert len(table) == 8 and set(table["dataset"]) == {"isic2018"} and set(inside["dataset"]) == {"internal"}
    truth = table.drop_duplicates("image_id").set_index("image_id")["dx"].to_dict()
    assert truth == {f"test_{name}": name for name in CLASSES} | {"test_known": CLASSES[0]}

    again = start(project, *wanted, *until, SKIN_TL_ISIC2018=str(source))
    assert again.returncode == 0 and "Nothing to do" in again.stderr


def test_bad_input_ends_in_one_line_and_keeps_what_was_computed(project, tmp_path):
    data = tmp_path / "HAM10000"
    picture = next(data.glob("ISIC_*.png"))
    content = picture.read_bytes()
    picture.write_bytes(content[:100])
    broken = start(project)
    assert broken.returncode != 0
    said = broken.stderr
    assert picture.name in said and "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("error:")]) == 1
    picture.write_bytes(content)
    mended = start(project, "--until", "dataset")
    assert mended.returncode == 0, mended.stderr
    assert json.loads((project / "runs/small/dataset/images.json").read_text())["n_images"] > 0
    splits = project / "runs/small/dataset/splits.csv"
    kept = splits.read_bytes()
    wrong = start(project, "--config", "backbones=MobileNetV3")
    assert wrong.returncode != 0 and "did you mean 'MobileNetV2'" in wrong.stderr
    assert splits.read_bytes() == kept


def test_missing_weights_stop_a_study_that_needs_them(project, monkeypatch, tmp_path):
    (tmp_path / "weights").mkdir()
    stopped = start(
        project,
        *("--until", "weights", "--config", "weights=imagenet"),
        SKIN_TL_WEIGHTS=str(tmp_path / "weights"),
        HTTPS_PROXY="http://127.0.0.1:9",
        https_proxy="http://127.0.0.1:9",
    )
    assert stopped.returncode != 0
    assert "mobilenetv2_notop.weights.h5" in stopped.stderr
    assert "Traceback" not in stopped.stderr


def test_a_report_is_written_again_from_finished_runs_without_networks(tmp_path, small_study):
    copy = copy_project(tmp_path / "copy", small_study)
    fabricate(copy, "made", {"backbones": ["ResNet50"], "seeds": [1], "title": "Made again"})
    for name in ("keras", "tensorflow"):
        (copy / f"{name}.py").write_text("raise ImportError('none is here')")
    done = start(copy, "made", study="report")
    assert done.returncode == 0, done.stderr
    assert [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")] == [
        *(f"report/made/{name}{ending}.html" for name in ("report", "slides") for ending in (".fr", "")),
        *(f"report/made/report{ending}.pdf" for ending in (".fr", "")),
    ]
    assert "Kernel" not in done.stderr
    assert "Made again" in (copy / "report/made/report.fr.html").read_text()
    assert (copy / "report/made/report.pdf").read_bytes().startswith(b"%PDF")
    done = start(copy, "none", study="report")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "runs/none/study.json" in done.stderr
