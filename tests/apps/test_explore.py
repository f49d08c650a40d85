"""Exploring finished runs: the tables behind the panels, and the panels without a browser."""

import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from fabricated import fabricate
from pages import parse
from scipy.spatial.distance import jensenshannon
from sklearn import metrics

from skin_tl.apps import explore, studies
from skin_tl.errors import SkinTLError
from skin_tl.evaluation.decisions import decisions_table
from skin_tl.files import ROOT, read_json, write_csv, write_json
from skin_tl.schema import CLASSES, PROBABILITIES

BACKBONES = ["VGG16", "ResNet50"]
CHOICE = {"strategy": "feature_extraction", "backbone": "VGG16", "split_policy": "image", "preprocessing": "native"}
CHOICE |= {"seed": 2}


@pytest.fixture(scope="module")
def fab(tmp_path_factory):
    """A folder with the fabricated runs of a study, split both ways."""
    root = tmp_path_factory.mktemp("explored")
    fabricate(root, "tiny", {"split_policies": ["lesion", "image"], "backbones": BACKBONES})
    return root


@pytest.fixture(scope="module")
def found(fab):
    return studies.open_runs(fab / "runs" / "tiny")


@pytest.fixture(scope="module")
def rows(found):
    return explore.head_table(found.predictions, CHOICE)


@pytest.fixture(scope="module")
def test_rows(fab):
    """The rows of the chosen head as its file has them."""
    table = pd.read_csv(fab / "runs/tiny/feature_extraction/VGG16/predictions.csv")
    chosen = (table["arm"] == "main") & (table["split_policy"] == "image") & (table["seed"] == 2)
    return table[chosen & (table["subset"] == "test")].set_index("image_id").sort_index()


@pytest.fixture
def explorer(fab, monkeypatch):
    from skin_tl.apps.panels import Explorer

    monkeypatch.setenv("SKIN_TL_CACHE", str(fab / "cache"))
    return Explorer("tiny", root=fab)


# Tables -----------------------------------------------------------------------------------------------------------


def test_what_is_told_of_an_image_is_in_its_predictions(rows, test_rows):
    assert rows.index.tolist() == test_rows.index.tolist()
    assert np.array_equal(rows[PROBABILITIES], test_rows[PROBABILITIES])
    assert rows["confidence"].tolist() == test_rows[PROBABILITIES].max(axis=1).tolist()
    assert rows["predicted"].tolist() == test_rows[PROBABILITIES].idxmax(axis=1).str[2:].tolist()
    ours = metrics.log_loss(rows["dx"], rows[PROBABILITIES], labels=list(CLASSES))
    assert rows["loss"].mean() == pytest.approx(ours)


def test_the_confusion_matrix_is_scikit_learns(rows, test_rows):
    said = test_rows[PROBABILITIES].idxmax(axis=1).str[2:]
    counts = explore.confusion(rows)
    assert np.array_equal(counts, metrics.confusion_matrix(test_rows["dx"], said, labels=list(CLASSES)))
    assert explore.head_scores(rows) == {
        "accuracy": metrics.accuracy_score(test_rows["dx"], said),
        "balanced_accuracy": metrics.balanced_accuracy_score(test_rows["dx"], said),
        "macro_f1": metrics.f1_score(test_rows["dx"], said, average="macro"),
    }
    for dx in CLASSES:
        for predicted in CLASSES:
            assert len(explore.in_cell(rows, dx, predicted)) == counts.loc[dx, predicted]
    dx, predicted = explore.worst_cell(counts)
    errors = counts.to_numpy() * (1 - np.eye(len(CLASSES), dtype=int))
    assert dx != predicted and counts.loc[dx, predicted] == errors.max()


@pytest.mark.parametrize("order", explore.SORTS)
def test_images_are_sorted_by_what_is_asked(rows, order):
    column, ascending = explore.SORTS[order]
    cell = explore.in_cell(rows, "nv", "nv", order)
    assert len(cell) > 5 and set(cell["dx"]) == set(cell["predicted"]) == {"nv"}
    values = cell[column].to_numpy()
    assert (np.diff(values) >= 0).all() if ascending else (np.diff(values) <= 0).all()


def test_disagreement_is_the_jensen_shannon_divergence(found, rows):
    tables = [explore.of_head(found.predictions, CHOICE | {"backbone": name}) for name in BACKBONES]
    tables = [table.set_index("image_id").loc[rows.index, PROBABILITIES].to_numpy() for table in tables]
    expected = [jensenshannon(a, b, base=2) ** 2 for a, b in zip(*tables, strict=True)]
    assert rows["disagreement"].to_numpy() == pytest.approx(expected, abs=1e-9)


def test_backbones_that_are_sure_of_different_diagnoses_disagree_most():
    sure = [pd.DataFrame([row], ["a"], PROBABILITIES) for row in np.eye(len(CLASSES))]
    assert explore.disagreement(sure[:2])["a"] == pytest.approx(1)
    assert explore.disagreement(sure[:4])["a"] == pytest.approx(1)
    assert explore.disagreement([sure[0], sure[0]])["a"] == pytest.approx(0)
    assert explore.disagreement(sure[:1]).empty


def test_siblings_are_the_other_images_of_the_lesion(fab, found, rows):
    metadata = pd.read_csv(fab / "runs/tiny/dataset/metadata.csv")
    splits = pd.read_csv(fab / "runs/tiny/dataset/splits.csv").query("split_policy == 'image' and seed == 2")
    told = 0
    for image_id in rows.index:
        lesion = metadata.loc[metadata["image_id"] == image_id, "lesion_id"].item()
        others = set(metadata.loc[metadata["lesion_id"] == lesion, "image_id"]) - {image_id}
        table = explore.siblings(found, image_id, CHOICE)
        assert set(table["image_id"]) == others and table["image_id"].is_monotonic_increasing
        for other, subset in table.to_numpy():
            assert splits.loc[splits["image_id"] == other, "subset"].item() == subset
        told += len(table)
    assert told
    shared = {subset for name in rows.index for subset in explore.siblings(found, name, CHOICE)["subset"]}
    assert "train" in shared  # a split by image leaks
    by_lesion = CHOICE | {"split_policy": "lesion"}
    tested = explore.head_table(found.predictions, by_lesion).index
    assert {subset for name in tested for subset in explore.siblings(found, name, by_lesion)["subset"]} == {"test"}


def test_two_backbones_are_compared_on_one_image(found, rows):
    image_id = rows.index[0]
    table = explore.compare(found.predictions, image_id, CHOICE, BACKBONES)
    for name in BACKBONES:
        of_file = pd.read_csv(found.folder / "feature_extraction" / name / "predictions.csv")
        chosen = (of_file["arm"] == "main") & (of_file["split_policy"] == "image") & (of_file["seed"] == 2)
        row = of_file[chosen & (of_file["subset"] == "test") & (of_file["image_id"] == image_id)]
        assert table[name].tolist() == row[PROBABILITIES].to_numpy()[0].tolist()


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.1, 0.3, 0.5, 0.9, 1.1])
def test_a_threshold_finds_and_misses_what_scikit_learn_counts(found, threshold):
    lesions = explore.lesions_of(found.predictions, CHOICE)
    told = explore.decide(lesions, threshold)
    rows = explore.of_head(found.predictions, CHOICE).groupby("lesion_id")
    score, wanted = rows["p_mel"].mean(), rows["dx"].first() == "mel"
    cleared, flagged, missed, hit = metrics.confusion_matrix(wanted, score >= threshold, labels=[False, True]).ravel()
    assert (told["found"], told["missed"], told["flagged_others"], told["cleared"]) == (hit, missed, flagged, cleared)
    assert told["sensitivity"] == pytest.approx(metrics.recall_score(wanted, score >= threshold))
    assert told["specificity"] == pytest.approx(metrics.recall_score(wanted, score >= threshold, pos_label=False))
    assert told["by_diagnosis"].to_numpy().sum() == len(lesions)
    assert told["by_diagnosis"].loc["mel"].tolist() == [hit, missed]
    assert np.isnan(told["precision"]) if not hit + flagged else told["precision"] == hit / (hit + flagged)


def test_at_the_threshold_of_validation_the_figures_are_the_reports(found):
    threshold = explore.threshold_of_validation(found.predictions, CHOICE)
    told = explore.decide(explore.lesions_of(found.predictions, CHOICE), threshold)
    head = found.predictions[
        (found.predictions["strategy"] == CHOICE["strategy"]) & (found.predictions["backbone"] == "VGG16")
    ]
    table = decisions_table(head, "feature_extraction", "VGG16", n_boot=2)
    chosen = (table["split_policy"] == "image") & (table["seed"] == "2") & (table["decision"] == "melanoma")
    values = table[chosen & (table["point"] == "sensitivity_95")].set_index("metric")["value"]
    assert threshold == values["threshold"]
    for name in ("sensitivity", "specificity", "missed"):
        assert told[name] == pytest.approx(values[name]), name


def test_the_nearest_lesions_are_of_training_and_each_told_once(fab, found, rows, monkeypatch):
    monkeypatch.setenv("SKIN_TL_CACHE", str(fab / "cache"))
    ids = found.images.ids
    rng = np.random.default_rng(0)
    centres = {lesion: rng.normal(size=12) for lesion in found.metadata["lesion_id"].unique()}
    features = np.stack([centres[found.metadata.loc[name, "lesion_id"]] for name in ids])
    features = (features + rng.normal(0, 0.05, features.shape)).astype(np.float32)
    split, leaked = explore.subsets(found.splits, CHOICE), 0
    for image_id in rows.index:
        table = explore.nearest_lesions(found, features, image_id, CHOICE, 4)
        assert len(table) == 4 and table["lesion_id"].is_unique and table["distance"].is_monotonic_increasing
        assert set(split[table["image_id"]]) == {"train"}
        lesion = found.metadata.loc[image_id, "lesion_id"]
        trained = "train" in explore.siblings(found, image_id, CHOICE)["subset"].tolist()
        assert (table["lesion_id"][0] == lesion) == trained  # images of a lesion have all but the same features here
        assert table["same_lesion"].tolist() == [name == lesion for name in table["lesion_id"]]
        leaked += trained
    assert leaked


# Finding runs -----------------------------------------------------------------------------------------------------


def test_finished_studies_are_found(fab, found, tmp_path):
    assert studies.finished_studies(fab) == {"tiny": fab / "runs" / "tiny"}
    assert studies.study_folder(str(fab / "runs/tiny/study.json")) == fab / "runs" / "tiny"
    assert studies.study_folder("tiny", root=tmp_path) is None
    names = found.predictions.groupby("strategy", sort=False)["backbone"].unique().map(list).to_dict()
    assert names["feature_extraction"] == [*BACKBONES, "ensemble"]
    assert set(names["baseline"]) == {"majority", "metadata_only", "colour_histogram"}
    assert set(found.predictions["arm"]) == {"main"} and set(found.predictions["dataset"]) == {"internal"}


def test_a_study_without_runs_says_what_to_run(tmp_path):
    with pytest.raises(SkinTLError, match=r"no finished run. Run `./run_all.sh ham10000` first"):
        studies.quick_run("ham10000", root=tmp_path)
    with pytest.raises(SkinTLError, match="holds no finished run"):
        studies.open_runs(tmp_path / "runs" / "demo")


def test_runs_made_by_hand_are_put_together(fab, tmp_path):
    """The notebook 2_train leaves single runs and no study.json."""
    import shutil

    folder = tmp_path / "runs" / "interactive" / "tiny"
    shutil.copytree(fab / "runs" / "tiny", folder)
    shutil.rmtree(folder / "baseline")
    (folder / "study.json").unlink()
    parameters = read_json(fab / "runs/tiny/study.json")
    for name in BACKBONES:
        file = folder / "feature_extraction" / name / "run.json"
        write_json(file, read_json(file) | {"parameters": parameters | {"backbones": [name]}})
    assert studies.study_folder("tiny", root=tmp_path) == folder
    assert studies.finished_studies(tmp_path) == {"interactive/tiny": folder}
    together = studies.open_runs(folder)
    assert sorted(together.study.backbones) == sorted(BACKBONES)
    assert set(together.predictions["backbone"]) == {*BACKBONES, "ensemble"}
    assert sorted(read_json(folder / "study.json")["backbones"]) == sorted(BACKBONES)


@pytest.mark.parametrize("strategy", ["fine_tuning", "from_scratch"])
def test_whole_networks_trained_by_hand_are_opened_though_their_study_has_experiments(fab, tmp_path, strategy):
    """The demo has; 2_train trains one strategy of it at a time."""
    import shutil

    folder = tmp_path / "runs" / "interactive" / "tiny"
    shutil.copytree(fab / "runs" / "tiny", folder)
    shutil.rmtree(folder / "baseline")
    (folder / "feature_extraction").rename(folder / strategy)
    (folder / "study.json").unlink()
    asked = ["feature_extraction", strategy]
    parameters = read_json(fab / "runs/tiny/study.json") | {"strategies": asked, "leakage": True, "other_splits": 5}
    for name in BACKBONES:
        file = folder / strategy / name / "run.json"
        write_json(file, read_json(file) | {"strategy": strategy, "parameters": parameters | {"backbones": [name]}})
    opened = studies.open_runs(folder)
    assert opened.study.strategies == [strategy] and opened.study.overrides == parameters["overrides"]
    assert set(opened.predictions["strategy"]) == {strategy}


def test_panels_stay_with_a_study_when_another_cannot_be_opened(explorer, monkeypatch):
    def gone(_):
        raise SkinTLError("the images are gone")

    before = explorer.found, explorer._pictures
    with monkeypatch.context() as patch:
        patch.setattr(explore, "pictures_of", gone)
        with pytest.raises(SkinTLError, match="are gone"):
            explorer._read(explorer.found.folder)
    assert (explorer.found, explorer._pictures) == before


# Panels -----------------------------------------------------------------------------------------------------------


def shown_images(html):
    return [element.get("data-image") for element in parse(str(html)).all("figure", "div") if element.get("data-image")]


def cards(explorer):
    return [parse(str(slot.children[0].value)).all("figure")[0].get("data-image") for slot in explorer._cards.children]


def test_a_click_on_a_cell_shows_its_images_and_no_others(explorer):
    explorer._choices["split"].value = ("image", "native")
    explorer._choices["seed"].value = 2
    assert explorer.choice == CHOICE
    file = pd.read_csv(explorer.found.folder / "feature_extraction/VGG16/predictions.csv")
    file = file[(file["arm"] == "main") & (file["split_policy"] == "image") & (file["seed"] == 2)]
    file = file[file["subset"] == "test"].assign(predicted=lambda t: t[PROBABILITIES].idxmax(axis=1).str[2:])
    for (dx, predicted), part in file.groupby(["dx", "predicted"]):
        button = explorer._buttons[dx, predicted]
        assert button.description == str(len(part)) and not button.disabled
        button.click()
        seen = cards(explorer)
        while not explorer._after.disabled:
            explorer._after.click()
            seen += cards(explorer)
        assert sorted(seen) == sorted(part["image_id"])
        assert explorer.image in set(part["image_id"])
    empty = [cell for cell, button in explorer._buttons.items() if button.disabled]
    assert len(empty) == len(CLASSES) ** 2 - file.groupby(["dx", "predicted"]).ngroups


def test_a_closer_look_shows_the_image_its_siblings_and_two_backbones(explorer):
    explorer.show("nv", "nv")
    explorer._slots[1].children[1].click()
    image_id = cards(explorer)[1]
    others = explore.siblings(explorer.found, image_id, explorer.choice)["image_id"].tolist()
    assert explorer.image == image_id
    assert shown_images(explorer._picture.value) == [image_id, *others]
    columns = [e.get("data-backbone") for e in parse(str(explorer._comparison.value)).all("div")]
    assert [name for name in columns if name] == BACKBONES
    explorer._pair[1].value = "ensemble"
    assert 'data-backbone="ensemble"' in explorer._comparison.value


def test_the_slider_reaches_the_threshold_of_validation(explorer, monkeypatch):
    for threshold in (3e-7, 0.2):
        monkeypatch.setattr(explore, "threshold_of_validation", lambda *_, value=threshold: value)
        explorer._prepare_threshold()
        assert explorer._slider.value == pytest.approx(threshold)
    monkeypatch.undo()
    explorer._prepare_threshold()


def test_moving_the_threshold_moves_the_figures(explorer):
    def figures():
        page = parse(str(explorer._decision.value))
        table = next(e for e in page.all("table") if e.get("class") == "skin-two")
        return [int(cell.text) for cell in table.all("td")]

    seen = []
    for threshold in (0.01, 0.2, 0.6):
        explorer._slider.value = threshold
        told = explore.decide(explore.lesions_of(explorer.found.predictions, explorer.choice), threshold)
        seen.append(figures())
        assert seen[-1] == [told["found"], told["missed"], told["flagged_others"], told["cleared"]]
    assert seen[0] != seen[1] != seen[2]
    explorer._of_validation.click()
    assert explorer.flagged_from == explore.threshold_of_validation(explorer.found.predictions, explorer.choice)


def test_every_head_can_be_chosen(explorer):
    for strategy in ("feature_extraction", "baseline"):
        explorer._choices["strategy"].value = strategy
        for _, backbone in explorer._choices["backbone"].options:
            explorer._choices["backbone"].value = backbone
            assert explorer.choice["backbone"] == backbone
            rows = explore.head_table(explorer.found.predictions, explorer.choice)
            assert sum(int(b.description) for b in explorer._buttons.values() if not b.disabled) == len(rows)
    explorer.find_nearest()
    assert "Choose a backbone" in explorer._neighbours.value


def test_what_comes_from_the_metadata_is_escaped(fab, tmp_path, monkeypatch):
    import shutil

    from skin_tl.apps.panels import Explorer

    evil = '<script>alert("x")</script>'
    shutil.copytree(fab, tmp_path / "evil")
    for name in ("metadata", "splits"):
        file = tmp_path / f"evil/runs/tiny/dataset/{name}.csv"
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        if name == "metadata":
            table["localization"], table["sex"], table["dx_type"] = evil, "<b>sex", evil
        write_csv(file, table.assign(lesion_id=table["lesion_id"] + evil))
    for file in (tmp_path / "evil/runs/tiny").glob("*/*/predictions.csv"):
        table = pd.read_csv(file, dtype={"lesion_id": str})
        write_csv(file, table.assign(lesion_id=table["lesion_id"] + evil))
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "evil/cache"))
    explorer = Explorer("tiny", root=tmp_path / "evil")
    pages = [explorer._picture, explorer._shown, explorer._summary, *(slot.children[0] for slot in explorer._slots)]
    text = "".join(str(page.value) for page in pages)
    assert "<script" not in text and "<b>sex" not in text and "&lt;script&gt;" in text


def test_the_panels_speak_both_languages(fab, explorer, monkeypatch):
    from skin_tl.apps.panels import Explorer

    monkeypatch.setenv("SKIN_TL_CACHE", str(fab / "cache"))
    french = Explorer("tiny", language="fr", root=fab)
    assert "images de test" in french._summary.value and "test images" in explorer._summary.value
    for panel in ("choose", "matrix", "lesion", "nearest", "threshold", "own_image"):
        assert getattr(french, panel)().children


def test_a_trained_study_shows_near_lesions_and_predicts_an_image(small_study, tmp_path, monkeypatch):
    from skin_tl.apps.panels import Explorer
    from skin_tl.explain.explanations import open_model
    from skin_tl.models import runs
    from skin_tl.models.training import train_run
    from skin_tl.study import save_study

    study = small_study.model_copy(update={"seeds": [1], "max_epochs": 5})
    folder = tmp_path / "runs" / "small"
    save_study(study, folder / "study.json")
    data = runs.prepare(study, folder)
    name = ("feature_extraction", "MobileNetV2")
    train_run(study, *name, data, folder.joinpath(*name))
    open_model(study, *name, folder).save(folder.joinpath(*name, "model.keras"))
    explorer = Explorer("small", root=tmp_path)
    assert explorer.rows["disagreement"].isna().all()  # one backbone has none to disagree with

    explorer.find_nearest()
    split = explore.subsets(explorer.found.splits, explorer.choice)
    near = shown_images(explorer._neighbours.value)
    assert len(near) == 6 and set(split[near]) == {"train"}
    explorer.look(explorer.rows.index[-1])  # once the features are there, they follow the image
    assert len(shown_images(explorer._neighbours.value)) == 6

    image_id = explorer.rows.index[0]
    explorer.predict(f"{image_id}.png", tmp_path / "HAM10000")
    page = str(explorer._own.value)
    assert explorer.labels("explore.not_a_diagnosis") in page and "random weights" in page
    assert page.count("data:image/png") == 1 + 1 + 5  # the image, Grad-CAM and the nearest lesions
    predictions = pd.read_csv(folder / "feature_extraction/MobileNetV2/predictions.csv").set_index("image_id")
    said = predictions.loc[image_id, PROBABILITIES].astype(float).idxmax().removeprefix("p_")  # calibration keeps it
    assert f"says: {explorer.labels(f'diagnosis.{said}')};" in page
    assert "This very image" not in page
    for subset, told in (("train", "training set"), ("val", "validation set")):
        known = split.index[split == subset][0]
        explorer.predict(f"{known}.png", tmp_path / "HAM10000")
        page = str(explorer._own.value)
        assert f"This very image, {known}, is in the" in page and told in page

    content = (tmp_path / "HAM10000" / f"{image_id}.png").read_bytes()
    explorer._upload.value = ({"name": "../a.png", "type": "image/png", "size": 9, "content": content, **_NOW},)
    assert "a.png" in explorer._own.value and explorer.labels("explore.not_a_diagnosis") in explorer._own.value
    explorer.predict("")
    assert "No image is named" in explorer._own.value
    (tmp_path / "a.png").write_bytes(b"no image")
    explorer.predict("a.png", tmp_path)
    assert 'role="alert"' in explorer._own.value and "is not an image" in explorer._own.value

    from skin_tl.apps import prediction

    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "another"))
    monkeypatch.delenv("SKIN_TL_HAM10000")
    prediction.load_predictor.cache_clear()
    explorer.predict(f"{image_id}.png", tmp_path / "HAM10000")
    page = str(explorer._own.value)
    assert "Left out: nearest lesions" in page and "SKIN_TL_HAM10000 is not set" in page
    assert f"says: {explorer.labels(f'diagnosis.{said}')};" in page
    assert page.count("data:image/png") == 1 + 1 and "nearest known" not in page and "nan" not in page
    prediction.load_predictor.cache_clear()


_NOW = {"last_modified": datetime.now(UTC)}


# The notebook -----------------------------------------------------------------------------------------------------


def test_the_notebook_is_short_calls_with_prose_around():
    notebook = json.loads((ROOT / "notebooks" / "4_explore.ipynb").read_text(encoding="utf-8"))
    cells = notebook["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code[0]["metadata"]["tags"] == ["parameters"] and notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in code:
        assert not cell["outputs"] and len(cell["source"]) <= 5
        assert not any(line.lstrip().startswith(("def ", "class ", "lambda")) for line in cell["source"])
    for place, cell in enumerate(cells):
        if cell["cell_type"] == "code" and cell is not code[0] and cell is not code[1]:
            assert cells[place - 1]["cell_type"] == cells[place + 1]["cell_type"] == "markdown"
