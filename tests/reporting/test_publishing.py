"""What is published: complete, without pictures, listed, and recomputed from the predictions beside it."""

import re

import pandas as pd
import pytest
from sklearn import metrics

from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, read_json, write_json, write_text
from skin_tl.reporting import publishing
from skin_tl.schema import CLASSES, PROBABILITIES

CHANGES = {"backbones": ["VGG16", "ResNet50"], "dataset": "ham10000", "overrides": ["backbones", "images"]}
README = "before\n" + publishing.MARKS[0] + "old\n" + publishing.MARKS[1] + "after\n"


@pytest.fixture
def finished(root, make):
    """A fabricated study of photographs, its pages written: the folder with runs/, report/ and README.md."""
    make("to_publish", CHANGES | {"images": False, "title": "A <study> to share"}).write()
    for ending in publishing.ENDINGS.values():
        write_text(root / f"report/to_publish/report{ending}.html", "<p>a page</p>")
    write_text(root / "README.md", README)
    return root


def test_a_published_report_is_complete_and_its_scores_follow_from_its_predictions(finished):
    folder = publishing.publish("to_publish", finished)
    assert folder == finished / "report/published/to_publish"
    source = finished / "report/to_publish"
    for file in (*source.glob("*.csv"), *source.glob("*.html"), source / "facts.json"):
        assert (folder / file.name).read_bytes() == file.read_bytes()
    assert read_json(folder / "study.json")["backbones"] == ["VGG16", "ResNet50"]

    predictions = pd.read_csv(folder / "predictions.csv.xz")
    assert set(predictions.loc[predictions["arm"] != "main", "subset"]) <= {"test"}
    scores = pd.read_csv(folder / "metrics.csv", dtype={"seed": str})
    scores = scores[(scores["metric"] == "macro_f1") & (scores["seed"] != "all") & (scores["subgroup"] == "all")]
    checked = 0
    for row in scores[scores["dataset"] == "internal"].itertuples():
        keys = ["arm", "strategy", "backbone", "split_policy", "preprocessing", "train_fraction"]
        own = predictions[(predictions["subset"] == "test") & (predictions["seed"] == int(row.seed))]
        own = own[(own[keys] == [getattr(row, key) for key in keys]).all(axis=1)]
        said = [CLASSES[k] for k in own[PROBABILITIES].to_numpy().argmax(axis=1)]
        assert row.value == pytest.approx(metrics.f1_score(own["dx"], said, average="macro", zero_division=0))
        checked += 1
    assert checked >= 2 * 3  # backbones and baselines, for each seed


def test_it_is_listed_in_both_languages_and_in_the_readme(finished):
    folder = publishing.publish("to_publish", finished)
    page = (folder.parent / "index.html").read_text()
    assert "A &lt;study&gt; to share" in page
    links = re.findall(r'href="([^"#]+\.[a-z]+)"', page)
    assert {"to_publish/report.html", "to_publish/report.fr.html"} <= {*links}
    assert all((folder.parent / link).is_file() for link in links)
    assert not re.search(r'(src|href)="(https?:|/)', page)

    readme = " ".join((finished / "README.md").read_text().split())
    assert readme.startswith("before ") and readme.endswith(" after") and "old" not in readme
    command = "./run_all.sh /path/to/to_publish.yaml --config backbones=VGG16,ResNet50 images=false"
    assert command in readme and command in page
    scores = pd.read_csv(folder / "scores.csv").query("metric == 'macro_f1'").set_index("backbone")
    for name in ("VGG16", "ResNet50", "ensemble", "colour_histogram"):
        interval = "{value:.2f} ({ci_low:.2f}–{ci_high:.2f})".format(**scores.loc[name])
        assert interval in readme and interval in page
        assert interval.replace(".", ",") in page  # in French


@pytest.mark.parametrize("language", [*publishing.ENDINGS])
def test_pages_with_pictures_of_the_data_set_are_not_published(finished, language):
    page = finished / f"report/to_publish/report{publishing.ENDINGS[language]}.html"
    write_text(page, '<img src="data:image/jpeg;base64,AAAA">')
    with pytest.raises(SkinTLError, match=r"licence forbids.*--config images=false"):
        publishing.publish("to_publish", finished)
    write_text(page, "<p>a page</p>")


def test_a_study_that_shows_pictures_is_not_published(finished):
    study = finished / "runs/to_publish/study.json"
    settings = read_json(study)
    write_json(study, settings | {"images": True})
    with pytest.raises(SkinTLError, match=r"licence forbids"):
        publishing.publish("to_publish", finished)
    write_json(study, settings)


def test_a_report_that_is_not_finished_is_not_published(finished):
    page = finished / "report/to_publish/report.fr.html"
    content = page.read_text()
    page.unlink()
    with pytest.raises(SkinTLError, match=r"report\.fr\.html is missing.*run_all\.sh"):
        publishing.publish("to_publish", finished)
    write_text(page, content)


def test_the_findings_of_the_readme_are_those_of_the_published_tables():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert publishing.MARKS[0] + publishing.findings() + publishing.MARKS[1] in readme
