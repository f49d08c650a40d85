"""What is published: complete, without pictures, listed, and recomputed from the predictions beside it."""

import functools
import re

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, read_json, write_json, write_text
from skin_tl.reporting import findings, publishing
from skin_tl.reporting.report import Report
from skin_tl.reporting.texts import NARROW_SPACE
from skin_tl.schema import CLASSES, PROBABILITIES

CHANGES = {"backbones": ["VGG16", "ResNet50"], "dataset": "ham10000", "overrides": ["backbones", "images"]}
FIGURE = '<figure id="figure-summary"><div aria-label="Scores &amp; intervals"><svg >drawn</svg></div></figure>'
START, END = (mark.format("findings") for mark in publishing.MARKS)
PUBLISHED = ROOT / "report" / "published"
README = f"before\n{START}outdated\n{END}after\n"


@pytest.fixture
def finished(root, make):
    """A fabricated study of photographs, its pages written: the folder with runs/, report/ and README.md."""
    make("to_publish", CHANGES | {"images": False, "title": "A <study> to share"}).write()
    for ending in publishing.ENDINGS.values():
        write_text(root / f"report/to_publish/report{ending}.html", FIGURE)
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
    own = predictions[(predictions["strategy"] == "feature_extraction") & (predictions["backbone"] == "VGG16")]
    run = pd.read_csv(finished / "runs/to_publish/feature_extraction/VGG16/predictions.csv")
    keys = ["dataset", "arm", "train_fraction", "split_policy", "preprocessing", "seed", "subset", "image_id"]
    both = own.merge(run, on=keys, suffixes=("", "_of_run"))
    assert len(both) == len(own) > 0
    np.testing.assert_allclose(both[PROBABILITIES], both[[f"{name}_of_run" for name in PROBABILITIES]], rtol=1e-8)
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
    tables = {f"to_publish/{file.name}" for file in folder.glob("*.csv")}
    assert len(tables) > 30 and tables | {"to_publish/facts.json", "to_publish/study.json"} <= {*links}
    assert not re.search(r'(src|href)="(https?:|/)', page)
    for ending in publishing.ENDINGS.values():
        assert (folder / f"summary{ending}.svg").read_text() == "<svg >drawn</svg>"
        assert f'src="to_publish/summary{ending}.svg" alt="Scores &amp; intervals"' in page

    readme = " ".join((finished / "README.md").read_text().split())
    assert readme.startswith("before ") and readme.endswith(" after") and "outdated" not in readme
    command = "./run_all.sh /path/to/to_publish.yaml --config backbones=VGG16,ResNet50 images=false"
    assert command in page
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
    write_text(page, FIGURE)


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


def test_the_generated_blocks_of_the_readme_are_those_of_the_published_tables():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == publishing.generated()
    for name in findings.BLOCKS:
        assert publishing.MARKS[0].format(name) in publishing.generated()


def _cells(folder, file, **where):
    """Return the rows of a published table that have these values."""
    table = pd.read_csv(folder / file)
    return table[(table[[*where]] == [*where.values()]).all(axis=1)]


def _signed(value):
    return format(value, "+.2f").replace("-", "−") if round(value, 2) else "0.00"


def _higher_first(row):
    pair = (row.backbone_a, row.backbone_b)
    return "{} over {}".format(*(pair if row.difference > 0 else reversed(pair)))


def test_the_answer_of_the_readme_is_computed_from_the_published_tables():
    """The best backbone, what pretrained weights add, the best baseline, melanomas, and the presentation's faults."""
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    folder = PUBLISHED / "ham10000"
    best = _cells(folder, "setups.csv", metric="macro_f1").nlargest(1, "val_macro_f1")["best"].item()
    scores = _cells(folder, "scores.csv", metric="macro_f1").set_index("backbone")
    interval = "{value:.2f} ({ci_low:.2f}–{ci_high:.2f})"
    assert f"selects **{best}**, whose macro F1 on lesions outside the training set is " in readme
    assert f"is {interval.format(**scores.loc[best])};" in readme
    lead = _cells(folder, "setups.csv", metric="macro_f1").nlargest(1, "val_macro_f1").iloc[0]
    ends = f"by {_signed(lead.lead)} ({_signed(lead.lead_low)} to {_signed(lead.lead_high)})"
    significant = "" if lead.lead_low > 0 or lead.lead_high < 0 else "not "
    assert f"differs from {lead.second}, the next backbone, {ends}, which is {significant}statistically" in readme
    pairs = _cells(folder, "comparisons.csv", metric="macro_f1")
    apart = [_higher_first(row) for row in pairs.itertuples() if row.p_holm < 0.05]
    assert all(pair in readme.partition("Significant differences: ")[2].partition(". ")[0] for pair in apart)
    baseline = scores[scores["kind"] == "baseline"]["value"].idxmax()
    assert f") reaches {interval.format(**scores.loc[baseline])}." in readme
    gain = _cells(folder, "effects.csv", metric="macro_f1", backbone=best, column="weights").iloc[0]
    shown = f"by {_signed(gain.difference)} ({_signed(gain.ci_low)} to {_signed(gain.ci_high)})"
    assert f"{shown} against the same frozen backbone with random weights" in readme
    assert f"which is {'' if gain.ci_low > 0 or gain.ci_high < 0 else 'not '}statistically significant" in readme
    own = {"dataset": "internal", "arm": "main", "seed": "all", "decision": "melanoma", "point": "sensitivity_95"}
    decisions = _cells(folder, "decisions.csv", backbone=best, **own).set_index("metric")
    percent = "{value:.0%} ({ci_low:.0%}–{ci_high:.0%})"
    assert f"detects {percent.format(**decisions.loc['sensitivity'])} of the melanomas" in readme
    assert f"flags {percent.format(**decisions.loc['flagged_benign_share'])} of the benign lesions" in readme

    tuning = folder.parent / "fine_tuning"
    whole = _cells(tuning, "scores.csv", metric="macro_f1").set_index(["strategy", "backbone"])
    setups = _cells(tuning, "setups.csv", metric="macro_f1", strategy="fine_tuning")
    selected = setups.nlargest(1, "val_macro_f1")["best"].item()
    before, after = (whole.loc[(name, selected), "value"] for name in ("feature_extraction", "fine_tuning"))
    said = f"`), validation selects {selected}: macro F1 {after:.2f}, frozen {selected} {before:.2f}."
    assert said in readme
    assert ("Fine-tuning (not converged)" in readme) != _cells(tuning, "endings.csv")["flat"].item()
    shown = readme.partition("Fine-tuning (`fine_tuning`): ")[2].partition("Not covered")[0]
    backbones = whole.loc["fine_tuning"].query("kind == 'backbone'")
    found = [f"{row.Index} {interval.format(**row._asdict())}" for row in backbones.itertuples()]
    assert len(found) > 1 and all(text in shown for text in found)
    pairs = _cells(tuning, "comparisons.csv", metric="macro_f1", strategy="fine_tuning")
    apart = [_higher_first(row) for row in pairs.itertuples() if row.p_holm < 0.05]
    assert f"Significant differences: {', '.join(apart) or 'none'}." in shown

    shown = readme.partition("in `ham10000` (native scaling), by ")[2].partition(". ")[0]
    leakage = _cells(folder, "effects.csv", metric="macro_f1", tested="all", column="arm")
    assert len(leakage) == shown.count(" for ") >= 3
    for row in leakage.itertuples():
        note = "" if row.ci_low > 0 or row.ci_high < 0 else ", not significant"
        ends = f"{_signed(row.ci_low)} to {_signed(row.ci_high)}{note}"
        assert f"{_signed(row.difference)} ({ends}) for {row.backbone}" in shown

    folder = PUBLISHED / "presentation"
    effects = _cells(folder, "effects.csv", metric="macro_f1", tested="all")
    for row in effects[effects["column"].isin(["arm", "preprocessing"])].itertuples():
        side = 1 if row.column == "arm" else -1  # the presentation's side less the other
        ends = sorted([side * row.ci_low, side * row.ci_high])
        note = "" if ends[0] > 0 or ends[1] < 0 else ", not significant"
        shown = f"{_signed(side * row.difference)} ({' to '.join(map(_signed, ends))}{note}) for {row.backbone}"
        assert shown in readme or (
            row.ci_low == row.ci_high and f"0.00 (the same scaling) for {row.backbone}" in readme
        )


LONGEST_SUMMARY = {"en": 120, "fr": 150}
"""Words; French needs a quarter more of them to say the same."""


@pytest.mark.parametrize("language", LONGEST_SUMMARY)
@pytest.mark.parametrize("name", [file.parent.name for file in PUBLISHED.glob("*/study.json")])
def test_the_summary_of_a_published_study_is_short(name, language, tmp_path):
    report = Report(str(PUBLISHED / name / "study.json"), language, tmp_path)
    text = re.sub("<[^>]*>", "", str(report.text("summary").html).partition("</h2>")[2])
    words = [word for word in text.replace(NARROW_SPACE, "").split() if any(map(str.isalnum, word))]
    assert 60 < len(words) <= LONGEST_SUMMARY[language], len(words)


@pytest.mark.parametrize(("width", "reduced"), [(200, True), (450, True), (600, False)])
def test_the_index_page_says_whether_images_were_reduced(finished, width, reduced):
    folder = publishing.publish("to_publish", finished)
    facts = read_json(folder / "facts.json")
    sizes = {"image_size.1.width": width, "image_size.1.height": 150, "literature.width": 600, "literature.height": 450}
    write_json(folder / "facts.json", facts | {key: {"value": value} for key, value in sizes.items()})
    publishing.list_published(finished)
    page = " ".join((folder.parent / "index.html").read_text().split())  # with one kind of space
    assert (f"The images were reduced from 600 × 450 to {width} × 150 pixels." in page) == reduced
    assert (f"Les images ont été réduites de 600 × 450 à {width} × 150 pixels." in page) == reduced


def test_a_report_of_several_commits_is_said_to_be_put_together(finished):
    folder = publishing.publish("to_publish", finished)
    assert "Put together" not in (folder.parent / "index.html").read_text()
    table = pd.read_csv(folder / "runs.csv")
    table["git_commit"] = [f"commit{row}" for row in range(len(table))]
    table.to_csv(folder / "runs.csv", index=False)
    publishing.list_published(finished)
    page = (folder.parent / "index.html").read_text()
    assert " at commits commit0, commit1" in page and ", versions commit0, commit1" in page


def test_backbones_that_were_not_run_are_named_with_the_reason(monkeypatch):
    study = findings.Published(PUBLISHED / "presentation")
    monkeypatch.setattr(study, "study", study.study.model_copy(update={"backbones": ["VGG16"]}))
    assert study.not_run == ["Xception", "ResNet50", "EfficientNetB7"]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert re.search(r"Not run: EfficientNetB7 in .*? \(weights unavailable\)", readme)


def test_a_fact_that_is_not_published_is_an_error():
    with pytest.raises(SkinTLError, match=r"ham10000/facts\.json has no fact `score\.none`\. Publish the study again"):
        findings.Published(PUBLISHED / "ham10000").number("score.none")


TYPED = {"1", "−1", "72"}
"""Numbers of README's blocks that no study measured: the range of a scaling, a study's key."""


def test_every_number_of_the_generated_blocks_is_a_cell_of_a_published_table(monkeypatch):
    """What the template asks for is followed to its cell; no other number stands in the blocks."""
    asked, shown = {}, set(TYPED)

    class Recording(findings.Published):
        def value(self, key):
            asked[self.folder, key] = super().value(key)
            shown.add(str(asked[self.folder, key]))
            return asked[self.folder, key]

        @property
        def core_hours(self):
            cells = pd.read_csv(self.folder / "runs.csv").set_index("backbone")["core_hours"]
            shown.update(f"{value:.1f}" for value in cells)
            return super().core_hours

    number = findings.Labels.number
    monkeypatch.setattr(
        findings.Labels, "number", lambda self, value, spec: shown.add(text := number(self, value, spec)) or text
    )
    monkeypatch.setattr(findings, "Published", Recording)
    text = "\n".join(findings.blocks().values())
    assert len(asked) > 50
    for (folder, key), value in asked.items():
        fact = _facts(folder)[key]
        rows = _table(folder / fact["file"])
        for column, wanted in fact["where"].items():
            rows = rows[rows[column].map(_plain) == _plain(wanted)]
        (cell,) = rows[fact["column"]]
        assert _plain(cell) == _plain(value), key

    shown.add(number(findings.ENGLISH, findings.CONFIDENCE, ".0%"))
    text = re.sub(
        r"`[^`]*`|\]\([^)]*\)|!\[[^\]]*|^    .*$|\(tensorflow .*?cores\)\)",
        "",
        text,
        flags=re.M,
    )
    words = re.sub(r"\b[A-Za-z]+\d+\w*", "", text)  # VGG16, F1
    assert {*re.findall(r"[+−]?\d+(?:\.\d+)?%?", words)} <= shown


@functools.cache
def _facts(folder):
    return read_json(folder / "facts.json")


@functools.cache
def _table(file):
    return pd.read_csv(file, dtype=str)


def _plain(value):
    """Return a cell or a value in one form: numbers as float, all else as text."""
    try:
        return str(value) if isinstance(value, bool) else float(value)
    except ValueError:
        return str(value)
