"""The report, from finished runs to HTML and PDF."""

import itertools
import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import fabricated
import nbformat
import numpy as np
import pandas as pd
import pytest
from fabricated import STUDIES, evaluate, fabricate, fabricate_metadata
from hypothesis import given
from hypothesis import strategies as st
from pages import parse, typed_words
from sklearn import metrics as skm

from skin_tl.data.images import damaged_refused
from skin_tl.errors import SkinTLError
from skin_tl.evaluation.study_files import TEXTS
from skin_tl.files import ROOT, write_csv
from skin_tl.models import runs
from skin_tl.registry import BACKBONES
from skin_tl.reporting import figures, rendering
from skin_tl.reporting.facts import Facts
from skin_tl.reporting.report import Report
from skin_tl.reporting.score_tables import AVERAGES, setup_table
from skin_tl.reporting.texts import NARROW_SPACE, Labels, format_number, languages, typeset
from skin_tl.reporting.verdicts import Verdicts
from skin_tl.schema import CLASSES, PROBABILITIES, SETUP
from skin_tl.study import load_study

NOTEBOOK = ROOT / "notebooks" / "3_report.ipynb"
PRESENTATION = {
    "dataset": "ham10000",
    "split_policies": ["lesion", "image"],
    "preprocessings": ["unit", "native"],
    "backbones": ["VGG16", "ResNet50", "Xception"],
}
HOSTILE = "<script>alert(1)</script>*x*](javascript:1)"


@pytest.fixture(scope="module")
def rendered(executed):
    """The executed report notebook rendered: what `executed` gives, page, soup, pdf and its document."""
    language, folder = executed["language"], executed["folder"]
    html_file, pdf_file = folder / f"{language}.html", folder / f"{language}.pdf"
    lay_out, documents = rendering.lay_out, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "lay_out", lambda page: documents.append(lay_out(page)) or documents[-1])
        rendering.render_report(executed["executed"], html_file, pdf_file)
    page = html_file.read_text(encoding="utf-8")
    shown = {"page": page, "soup": parse(page), "pdf": pdf_file.read_bytes(), "document": documents[0]}
    return executed | shown


def notebook_of(pieces):
    """Return a notebook whose cells showed these pieces."""
    cells = [nbformat.v4.new_code_cell() for _ in pieces]
    for cell, piece in zip(cells, pieces, strict=True):
        data, about = piece._repr_mimebundle_()
        cell.outputs = [nbformat.v4.new_output("display_data", data, metadata=about)]
    return nbformat.v4.new_notebook(cells=cells)


# The page --------------------------------------------------------------------------------------------------------


def test_page_asks_the_network_for_nothing(rendered):
    for element in rendered["soup"]:
        for name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster"):
            address = element.get(name) or ""
            if element.tag == "a":
                assert not address.startswith(("javascript", "data")), address
            else:
                assert address.startswith(("data:", "#")) or not address, (element.tag, address)
    styles = "".join(element.text for element in rendered["soup"].all("style"))
    assert "@import" not in styles and "url(" not in styles
    assert not rendered["soup"].all("iframe", "object", "embed")
    (script,) = rendered["soup"].all("script")
    assert not script.attributes and "://" not in script.text


def test_page_is_in_its_language_and_small(rendered):
    assert rendered["soup"].all("html")[0].get("lang") == rendered["language"]
    assert len(rendered["page"].encode()) < 5e6


def test_every_figure_has_a_text_for_those_who_do_not_see_it(rendered):
    figures = rendered["soup"].all("figure")
    assert len(figures) > 10
    for figure in figures:
        pictures = figure.all("img") or [element for element in figure if element.get("role") == "img"]
        assert pictures
        for picture in pictures:
            assert len(picture.get("alt") or picture.get("aria-label")) > 8
        assert figure.all("figcaption")[0].text.strip()
    for drawing in rendered["soup"].all("svg"):
        assert drawing.inside("figure")


def test_headings_are_in_order_and_linked(rendered):
    soup = rendered["soup"]
    levels = [int(element.tag[1]) for element in soup.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [element.get("id") for element in soup if element.get("id")]
    assert len(ids) == len(set(ids))
    links = [element.get("href") for element in soup.all("a")]
    inside = {link[1:] for link in links if link.startswith("#")}
    assert inside <= set(ids)
    assert {element.get("id") for element in soup.all("h2")} <= inside
    sources = set(pd.read_csv(TEXTS / "references.csv")["url"])  # the only links that lead out
    for link in links:
        assert link.startswith("#") or link in sources or (rendered["folder"] / link).is_file(), link


def test_the_sections_stand_in_the_order_of_the_presentation(rendered):
    order = ["plan", "cnns", "transfer-learning", "transfer-in-cnns", "objectives", "data-set", "set-up", "results"]
    order += ["discussion", "conclusion", "appendix"]
    found = [element.get("id") for element in rendered["soup"].all("h2")]
    assert [name for name in found if name in order] == order


def test_parts_of_the_appendix_are_folded_and_nothing_else_is(rendered):
    main = rendered["soup"].all("main")[0]
    (appendix,) = [section for section in main.all("section") if section.get("aria-labelledby") == "appendix"]
    folds = appendix.all("details")
    assert folds and folds == main.all("details")
    for fold, heading in zip(folds, appendix.all("h3"), strict=True):
        assert "open" not in fold.attributes and fold.all("p")
        assert fold.all("summary")[0].all("h3") == [heading]


def test_folds_are_open_on_paper(rendered):
    """What is folded on a screen is printed."""
    folded = rendered["soup"].all("details")[-1].all("p")[0].text
    printed = "".join(b.text for p in rendered["document"].pages for b in _boxes(p._page_box) if hasattr(b, "text"))
    assert "".join(folded.split()) in "".join(printed.split())


def test_tables_say_what_their_cells_belong_to(rendered):
    tables = rendered["soup"].all("table")
    assert len(tables) > 10
    for table in tables:
        heads = table.all("thead")[0].all("th")
        assert all(head.get("scope") == "col" and head.text.strip() for head in heads)
        for row in table.all("tbody")[0].all("tr"):
            cells = row.all("th", "td")
            assert cells[0].tag == "th" and cells[0].get("scope") == "row"
            assert len(cells) == len(heads)
            assert all(cell.text.strip() for cell in cells)


def test_every_fact_is_a_cell_of_a_table_beside_the_report(rendered):
    folder = rendered["folder"]
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    tables = {name: pd.read_csv(folder / name, dtype={"seed": str}) for name in {f["file"] for f in facts.values()}}
    rows = {}  # by file and columns, all rows of a table by their values in these
    for fact in facts.values():
        file, columns = fact["file"], list(fact["where"])
        if (file, *columns) not in rows:
            keys, cells = tables[file][columns].itertuples(index=False, name=None), tables[file].to_dict("records")
            found = rows[file, *columns] = {}
            for key, row in zip(keys, cells, strict=True):
                found.setdefault(key, []).append(row)
        (row,) = rows[file, *columns][tuple(fact["where"].values())]
        cell = row[fact["column"]]
        assert cell == fact["value"] or cell == pytest.approx(fact["value"], abs=0)
    shown = [element for element in rendered["soup"].all("data") if element.get("data-fact")]
    assert len(shown) > 80
    for element in shown:
        fact = facts[element.get("data-fact")]
        assert element.get("value") == str(fact["value"])


def test_what_is_shown_is_the_value_of_the_fact(rendered):
    for element in rendered["soup"].all("data"):
        text = element.text.replace("\u00a0", " ").replace("−", "-")
        if re.search("[A-Za-z]{2}", element.get("value")) or text.startswith("p "):
            continue
        if rendered["language"] == "fr":
            assert "." not in text
            text = text.replace(",", ".")
        text = text.replace(",", "" if rendered["language"] == "en" else ".").replace(NARROW_SPACE, "")
        scale = 100 if text.endswith("%") else 1
        digits = len(text.rstrip("%").partition(".")[2])
        assert float(text.rstrip("%")) == pytest.approx(scale * float(element.get("value")), abs=0.5001 * 10**-digits)


def test_prose_has_no_typed_number(rendered):
    """Digits stand in facts, tables and drawings, or in names."""
    for element in rendered["soup"].all("p", "li", "figcaption", "h1", "h2", "h3", "h4"):
        if element.inside("table") or element.get("class") == "running" or element.inside("nav"):
            continue
        assert not re.search(r"\d", typed_words(element)), typed_words(element)


def test_banners_say_what_the_study_is_not(rendered, make):
    banners = [e.get("class") for e in rendered["soup"].all("p") if (e.get("class") or "").startswith("banner")]
    assert banners == ["banner synthetic", "banner random"]
    running = rendered["report"].header().page["running"]
    for kind in ("synthetic", "random"):
        assert rendered["report"].texts.caption("banners", kind, "short") in running
    assert running in [e.text for e in rendered["soup"].all("p") if e.get("class") == "running"]
    narrowed = make("fine_tuning", {"dataset": "ham10000", "backbones": ["ResNet50"], "overrides": ["backbones"]})
    header = str(narrowed.header().html)
    assert "banner narrowed" in header and "Not run: the backbones VGG16, Xception and MobileNetV2." in header
    assert "banner synthetic" not in header and "banner random" not in header


@pytest.mark.parametrize(("language", "said"), [("en", "leakage experiment (no)"), ("fr", "(non)")])
def test_a_switch_that_was_changed_is_a_word_of_the_language(make, language, said):
    changes = {"backbones": ["VGG16"], "leakage": False, "overrides": ["leakage"]}
    report = make("switched", changes, language=language)
    header = str(report.header().html)
    assert said in parse(header).text and "False" not in header


@pytest.mark.any_language
def test_same_notebook_same_bytes(rendered, tmp_path):
    rendering.render_report(rendered["executed"], tmp_path / "again.html", tmp_path / "again.pdf")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == rendered["page"]
    assert (tmp_path / "again.pdf").read_bytes() == rendered["pdf"]


@pytest.mark.parametrize("library", [True, False])
def test_fonts_in_the_pdf_have_no_date(monkeypatch, library):
    with damaged_refused():
        import weasyprint.pdf.fonts

    if library and not weasyprint.pdf.fonts.harfbuzz_subset:
        pytest.skip("needs the system's library libharfbuzz-subset")
    if not library:
        monkeypatch.setattr(weasyprint.pdf.fonts, "harfbuzz_subset", None)
    printed = set()
    for now in (1e9, 2e9):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        printed.add(rendering.to_pdf("<p>Some words, and <b>bold</b> ones.</p>"))
    assert len(printed) == 1


def test_lines_on_paper_are_full_though_they_hold_facts():
    said = (
        "<p>Site: the accuracy of {} is lowest for «\xa0{}\xa0» ({}) and highest for «\xa0{}\xa0» ({}). Share: {}.</p>"
    )
    words = [
        f'<data value="{n}">{word}</data>' for n, word in enumerate(["ResNet50", "face", "58%", "trunk", "9%", "1%"])
    ]
    for width in range(200, 600, 25):
        style = f"<style>p {{ width: {width}px }}</style>"
        marked, plain = (style + said.format(*words), style + re.sub("</?data[^>]*>", "", said.format(*words)))
        assert _lines(rendering.lay_out(marked)) == _lines(rendering.lay_out(plain))


def _lines(document):
    lines = [box for page in document.pages for box in _boxes(page._page_box) if type(box).__name__ == "LineBox"]
    return ["".join(box.text for box in _boxes(line) if type(box).__name__ == "TextBox") for line in lines]


def test_dates_stand_in_one_place(rendered):
    page = re.sub(r"<style>.*?</style>|<svg .*?</svg>", "", rendered["page"], flags=re.DOTALL)
    before, after = page.split('id="provenance"')
    assert "2026-" not in before and "2026-01-02" in after
    for name in ("metrics.csv", "facts.json", "scores.csv"):
        assert "2026-01" not in (rendered["folder"] / name).read_text(encoding="utf-8")


# On paper --------------------------------------------------------------------------------------------------------


def _boxes(box):
    yield box
    for child in getattr(box, "children", ()):
        yield from _boxes(child)


def _check_nothing_is_cut_off(document, n_tables):
    tables = {}
    for page in document.pages:
        sheet = page._page_box
        right, bottom = sheet.margin_width() - sheet.margin_right, sheet.margin_height() - sheet.margin_bottom
        for box in _boxes(sheet):
            kind = type(box).__name__
            if kind in ("TableBox", "TableCellBox", "TextBox", "BlockReplacedBox", "InlineReplacedBox"):
                inside = box.position_x + (box.width if kind == "TextBox" else box.margin_width())
                assert inside <= sheet.margin_width(), (kind, getattr(box, "text", ""))
            if kind == "TableBox" and box.element_tag == "table":  # rows of pictures are laid out as tables too
                tables.setdefault(box.element, []).append(box)
                texts = [inner.text for inner in _boxes(box) if type(inner).__name__ == "TextBox"]
                assert box.position_x + box.margin_width() <= right + 1, texts
                assert box.position_y + box.margin_height() <= bottom + 1, texts
    assert len(tables) == n_tables
    for parts in tables.values():  # one that continues on the next page repeats its head there
        assert all(part.children[0].is_header and len(part.children) > 1 for part in parts)


def test_nothing_is_cut_off_on_paper(rendered):
    assert len(rendered["document"].pages) > 8
    _check_nothing_is_cut_off(rendered["document"], len(rendered["soup"].all("table")))


@pytest.mark.parametrize("language", languages())
def test_nothing_is_cut_off_on_paper_with_two_scalings(make, language):
    """The widest tables: two scalings, and times of hours."""
    changes = {"split_policies": ["image"], "backbones": ["ResNet50", "Xception"], "other_splits": 1}
    report = make("wide", PRESENTATION | changes, language)
    times = report.tables["runs.csv"]
    seconds = [name for name in times.columns if name.endswith("_s")]
    times[seconds] = times[seconds].clip(lower=12_345.6)
    times["core_hours"] = 1234.5
    setup = report.main
    pieces = [report.header(), report.text("provenance")]
    pieces += [report.table(name) for name in ("diagnoses", "metadata", "backbones", "subsets", "runs", "fingerprints")]
    pieces += [report.table(name, setup=setup) for name in ("scores", "comparisons", "probabilities", "ranking")]
    pieces += [report.table("classification_report", setup=setup, backbone="ResNet50"), report.table("other_splits")]
    pieces += [report.table("decisions", setup=setup, decision=decision) for decision in ("melanoma", "malignant")]
    pieces += [report.table("effects", column=column) for column in ("arm", "preprocessing")]
    pieces += [report.table("published", setup=setup)]
    page = rendering.to_html(notebook_of(pieces))
    _check_nothing_is_cut_off(rendering.lay_out(page), len(parse(page).all("table")))


@pytest.mark.parametrize("language", languages())
def test_what_transfer_buys_is_not_cut_off_on_paper(make, language):
    report = make("fits_curves", *STUDIES["curves"][:1], language)
    pieces = [report.header(), report.text("transfer_buys"), report.table("costs")]
    _check_nothing_is_cut_off(rendering.lay_out(rendering.to_html(notebook_of(pieces))), 1)


def test_pdf_has_page_numbers_running_header_and_bookmarks(rendered):
    document = rendered["document"]

    def bookmarks(tree):
        for title, _, children, _ in tree:
            yield title
            yield from bookmarks(children)

    headings = [e.text for e in rendered["soup"].all("h1", "h2", "h3")]
    assert list(bookmarks(document.make_bookmark_tree())) == headings
    running = rendered["report"].header().page["running"].replace(" ", "")
    for number, page in enumerate(document.pages, start=1):
        margins = [box for box in _boxes(page._page_box) if type(box).__name__ == "MarginBox"]
        texts = ["".join(b.text for b in _boxes(m) if type(b).__name__ == "TextBox").replace(" ", "") for m in margins]
        assert running.replace("\u00a0", "") in [text.replace("\u00a0", "") for text in texts]
        assert any(re.fullmatch(rf"\D*{number}\D*{len(document.pages)}", text) for text in texts)


# Numbers ---------------------------------------------------------------------------------------------------------


def test_classification_reports_are_those_of_scikit_learn(make, root):
    report = make("presentation", PRESENTATION)
    table = report.tables["classification_reports.csv"]
    for backbone in report.study.backbones:
        predictions = pd.read_csv(root / "runs/presentation/feature_extraction" / backbone / "predictions.csv")
        predictions = predictions[(predictions["subset"] == "test") & (predictions["arm"] == "main")]
        for (policy, preprocessing), part in predictions.groupby(["split_policy", "preprocessing"]):
            expected = []
            for _, of_seed in part.groupby("seed"):
                guess = np.array(CLASSES)[of_seed[[f"p_{dx}" for dx in CLASSES]].to_numpy().argmax(1)]
                result = skm.classification_report(of_seed["dx"], guess, output_dict=True, zero_division=0)
                accuracy = {"f1-score": result["accuracy"], "support": len(of_seed)}
                averages = [accuracy, result["macro avg"], result["weighted avg"]]
                rows = [*(result[dx] for dx in CLASSES), *averages]
                expected.append(
                    [[row.get(n, np.nan) for n in ("precision", "recall", "f1-score", "support")] for row in rows]
                )
            found = table[(table["backbone"] == backbone) & (table["split_policy"] == policy)]
            found = found[found["preprocessing"] == preprocessing]
            assert found["row"].tolist() == [*CLASSES, *AVERAGES]
            columns = ["precision", "recall", "f1_score", "support"]
            np.testing.assert_allclose(found[columns], np.mean(expected, axis=0), atol=1e-12)


def test_confusion_matrices_are_those_of_scikit_learn(make, root):
    report = make("presentation", PRESENTATION)
    predictions = pd.read_csv(root / "runs/presentation/feature_extraction/VGG16/predictions.csv")
    test = predictions[(predictions["subset"] == "test") & (predictions["arm"] == "main")]
    for keys, part in report.tables["confusion.csv"].query("backbone == 'VGG16'").groupby(SETUP):
        rows = test[(test["split_policy"] == keys[1]) & (test["preprocessing"] == keys[2])]
        guess = np.array(CLASSES)[rows[[f"p_{dx}" for dx in CLASSES]].to_numpy().argmax(1)]
        expected = skm.confusion_matrix(rows["dx"], guess, labels=CLASSES) / rows["seed"].nunique()
        found = part.pivot(index="dx", columns="predicted", values="n_images").loc[list(CLASSES), list(CLASSES)]
        np.testing.assert_allclose(found, expected, atol=1e-12)
        shares = part[part["dx"] == part["predicted"]].set_index("dx")["share"]
        reported = report.tables["classification_reports.csv"].set_index([*SETUP, "backbone", "row"])["recall"]
        assert rows["seed"].nunique() > 1
        for dx in CLASSES:  # one number for one thing
            assert shares[dx] == pytest.approx(reported[(*keys, "VGG16", dx)], abs=1e-12)


def test_published_numbers_stand_beside_ours_with_the_difference(make):
    report = make("presentation", PRESENTATION)
    published = pd.read_csv(TEXTS / "published_results.csv").set_index(["backbone", "row"])
    table = report.tables["classification_reports.csv"]
    assert len(table) == 4 * 3 * 10
    for row in table.to_dict("records"):
        theirs = published.loc[(row["backbone"], row["row"])]
        assert row["published_f1_score"] == theirs["f1_score"]
        assert row["f1_score_difference"] == pytest.approx(row["f1_score"] - theirs["f1_score"])
    shown = report.table("published", setup=report.setups[0]).html
    assert str(shown).count("<tr>") == 1 + 3 * 3


def test_subsets_count_images_whose_lesion_is_known_from_training(make):
    report = make("presentation", PRESENTATION)
    splits = report.files.splits
    table = report.tables["subsets.csv"].set_index(["split_policy", "seed", "subset"])
    assert (table.loc["lesion"]["n_images_known"].dropna() == 0).all()
    one = splits[(splits["split_policy"] == "image") & (splits["seed"] == 1)]
    training = one[one["subset"] == "train"].set_index("lesion_id").index
    known = sum(lesion in training for lesion in one[one["subset"] == "test"]["lesion_id"])
    assert known > 0
    assert table.loc[("image", "1", "test"), "n_images_known"] == known


def test_the_conclusion_follows_the_paired_comparison(make):
    """A difference is called significant if, and only if, the paired comparison says so."""
    report = make("presentation", PRESENTATION)
    comparisons = report.tables["comparisons.csv"]
    for row in report.tables["setups.csv"].query("metric == 'macro_f1'").to_dict("records"):
        same = comparisons[(comparisons[[*SETUP, "metric"]] == [row[n] for n in [*SETUP, "metric"]]).all(axis=1)]
        pair = same[same[["backbone_a", "backbone_b"]].isin([row["best"], row["second"]]).all(axis=1)]
        sign = 1 if pair["backbone_a"].iloc[0] == row["best"] else -1
        assert row["lead"] == pytest.approx(sign * pair["difference"].iloc[0])
        assert row["real"] == (pair["p_holm"].iloc[0] < 0.05 and row["lead"] > 0)
    for setup in report.setups:
        text = str(report.text("results_scores_setup", setup=setup).html).split("</p>")[0]
        real, behind = (report.facts[f"best.{setup.key}.macro_f1.{name}"].value for name in ("real", "behind"))
        assert ("), statistically significant." in text) == (real or behind)
        assert ("), not statistically significant." in text) == (not real and not behind)


@pytest.mark.parametrize(("language", "words"), [("en", "in favour of"), ("fr", "en faveur de")])
def test_a_selected_backbone_that_another_beats_on_the_test_subset_is_said_to_be(make, monkeypatch, language, words):
    report = make("presentation", PRESENTATION, language=language)
    key, real = f"best.{report.main.key}.macro_f1", Facts.__getitem__
    assert not any(words in words_of(report, name) for name in ("summary", "conclusion", "slides"))

    def turned(facts, name):
        changes = {f"{key}.lead": -0.02, f"{key}.real": False, f"{key}.behind": True}
        return replace(real(facts, name), value=changes[name]) if name in changes else real(facts, name)

    monkeypatch.setattr(Facts, "__getitem__", turned)
    for name in ("summary", "conclusion", "slides"):
        assert f"{words} {real(report.facts, f'{key}.second').value}" in words_of(report, name)


def test_the_validation_subset_selects_the_backbone_that_the_report_names(make):
    """The test subset ranks: where its first is another, the headline does not move."""
    report = make("presentation", PRESENTATION)
    main = (report.main.strategy, report.main.split_policy, report.main.preprocessing)
    favourite = report.tables["setups.csv"].query("metric == 'macro_f1'").set_index(SETUP).loc[main, "first"]
    changed = report.files.predictions.copy()
    poor = (changed["backbone"] == favourite) & (changed["subset"] == "val")
    changed.loc[poor, PROBABILITIES] = np.eye(len(CLASSES))[CLASSES.index("df")]  # always the rarest diagnosis
    validated = replace(report.files, predictions=changed).validated
    again = setup_table(report.tables["scores.csv"], report.tables["comparisons.csv"], validated)
    again = again.query("metric == 'macro_f1'").set_index(SETUP).loc[main]
    assert again["first"] == again["second"] == favourite != again["best"]
    assert again["gap"] < 0 < again["val_macro_f1"]


# What studies differ in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", languages())
@pytest.mark.parametrize("name", STUDIES)
def test_every_text_fits_every_study(make, name, language):
    changes, options = STUDIES[name]
    report = make(f"fits_{name}", changes, language, **options)
    for file in sorted((TEXTS / language).glob("*.md")):
        # One model of each run is explained, so those texts are for its set-up alone.
        setups = report.explained if file.stem == "appendix_explanations_setup" else report.setups
        left_out = {"transfer_buys": not report.curves, "results_published": not report.published_backbones}
        left_out |= {"appendix_robustness": not report.study.robustness}
        if (left_out | dict.fromkeys(["results_external", "appendix_shift"], not report.external)).get(file.stem):
            continue  # the notebook leaves them out
        measured = {"why_leakage": report.effects("arm"), "why_preprocessing": report.effects("preprocessing")}
        measured["why_split"] = report.study.other_splits > 1
        for setup in setups if file.stem.endswith("_setup") else [None]:
            text = str(report.text(file.stem, **({"setup": setup} if setup else {})).html)
            assert bool(parse(text).text.strip()) == bool(measured.get(file.stem, True)), "left out if it says nothing"
            assert not re.search(r"[{}]|\bNone\b|\bnan\b|  +[.,;]| [.,]", parse(text).text), text


@pytest.mark.parametrize("language", languages())
@pytest.mark.parametrize("name", STUDIES)
def test_what_transfer_buys_stands_in_studies_that_can_tell_alone(make, name, language):
    changes, options = STUDIES[name]
    report = make(f"fits_{name}", changes, language, **options)
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    (cell,) = (cell.source for cell in cells if "transfer_buys" in cell.source)
    shown = []
    names = {"report": report, "figures": figures, "tables": report.tables, "labels": report.labels}
    exec(cell, names | {"display": lambda piece: shown.append(str(piece.html))})
    told = {"strategies": 2, "curves": 3}.get(name, 0)  # without a curve where nothing learned from fewer lesions
    assert len(shown) == told
    page = "".join(shown)
    assert ('id="transfer-buys"' in page) == ('href="#transfer-buys"' in str(report.text("plan").html)) == bool(told)
    assert ('id="figure-learning-curves"' in page) == (told == 3)
    tables = {"learning_curves.csv", "lesions_needed.csv", "costs.csv"}
    assert tables & set(report.tables) == (tables if told else set())
    families = {key.partition(".")[0] for key in report.facts}
    assert families & {"curve", "needed", "gain"} == ({"curve", "needed", "gain"} if told else set())


def test_learning_curves_without_training_from_scratch_name_no_target(make):
    changes = {"backbones": ["Xception"], "train_fractions": [0.5, 1], "leakage": False, "other_splits": 0}
    report = make("one_curve", changes)
    text = str(report.text("transfer_buys").html)
    assert {key.partition(".")[0] for key in report.facts} & {"curve", "needed", "gain"} == {"curve"}
    assert text.count("<li>") == 1 and "curve.least.feature_extraction.lesion.native.Xception" in text


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "the same share of each diagnosis but at least one lesion of each"),
        ("fr", "La part de chaque diagnostic est la même (au moins une lésion)"),
    ],
)
def test_that_a_tiny_part_keeps_a_lesion_of_each_diagnosis_is_said(make, language, said):
    changes = {"backbones": ["Xception"], "train_fractions": [0.001, 1], "leakage": False, "other_splits": 0}
    report = make(f"tiny_part_{language}", changes, language)
    assert report.facts["curve.least.feature_extraction.lesion.native.Xception.n_lesions"].value == len(CLASSES)
    assert said in words_of(report, "transfer_buys")


@pytest.mark.parametrize("language", languages())
def test_what_a_study_sets_itself_and_sizes_that_weights_do_not_know_are_named(make, language):
    changes = {"backbones": ["ResNet50", "Xception"], "strategies": ["fine_tuning"], "image_size": 224, "l2": [0.1]}
    changes |= {"max_epochs": 300, "patience": 40}  # as they are by default
    changes |= {"fine_tuning_epochs": 2, "leakage": False, "other_splits": 0}
    report = make("own_settings", changes, language=language)
    (named,) = re.findall(r": ([^:]*)\.$", words_of(report, "appendix_training"))
    assert re.split(r"\s*; ", named) == [report.labels(f"setting.{key}") for key in ("l2", "fine_tuning_epochs")]
    told = words_of(report, "limits")
    (sizes,) = re.findall(r"(\w+) (?:was pretrained on|a été préentraînée sur) .*? (\d+) pixels", told)
    assert sizes == ("Xception", "299")
    usual = make("fits_lesion", *STUDIES["lesion"][:1], language=language)  # ResNet50 and VGG16 as they were made
    assert not re.search("pretrained on|préentraînée sur", words_of(usual, "limits"))


@pytest.mark.parametrize(
    ("language", "side", "said"),
    [
        ("en", 1, "Its maps are uniform"),
        ("fr", 1, "Ses cartes sont uniformes"),
        ("en", 2, "No correlation is computed"),  # a network that sees nothing any more once it is shuffled
        ("fr", 2, "Aucune corrélation n’est calculée"),
    ],
)
def test_maps_without_a_place_are_called_even_and_others_not(root, make, language, side, said):
    name = f"even{side}_{language}"
    study = fabricate(root, name, {"backbones": ["ResNet50", "VGG16"], "seeds": [1]})
    file = root / "runs" / name / "feature_extraction/VGG16/explanations/images.csv"
    write_csv(file, pd.read_csv(file).assign(map_side=side, likeness=np.nan, middle=np.nan))
    evaluate(study)
    report = make(name, None, language)
    told = re.sub("<[^>]*>", "", str(report.text("appendix_explanations_setup", setup=report.explained[0]).html))
    assert told.count(said) == 1 and told.index("VGG16 ") < told.index(said)
    assert ("Its maps are uniform" in told or "Ses cartes sont uniformes" in told) == (side == 1)


@pytest.mark.parametrize(
    ("language", "size", "share"),
    [
        ("en", "last feature map has 2 × 2 cells", "middle"),
        ("fr", "dernière carte de caractéristiques a 2 × 2 cases", "milieu"),
    ],
)
def test_maps_too_coarse_for_a_middle_have_no_share_of_it(root, make, monkeypatch, language, size, share):
    """Nor is the share explained where no backbone has one; a finer one keeps it."""
    monkeypatch.setenv("SKIN_TL_CACHE", str(root / "cache"))

    def shown(name, sides):
        study = fabricate(root, name, {"backbones": list(sides), "seeds": [1]})
        for backbone, side in sides.items():
            file = study.parent / "feature_extraction" / backbone / "explanations" / "images.csv"
            table = pd.read_csv(file)
            write_csv(file, table.assign(map_side=side, middle=table["middle"] if side > 2 else np.nan))
        evaluate(study)
        report = make(name, None, language)
        setup = report.explained[0]
        told = words_of(report, "appendix_explanations_setup", setup=setup)
        return (
            text.replace("\N{NO-BREAK SPACE}", " ")
            for text in (
                told,
                str(report.table("confident_errors", setup=setup).html),
                str(report.explanations(setup, "VGG16").html),
            )
        )

    told, table, pictures = shown(f"coarse_{language}", {"VGG16": 2})
    assert told.count(size) == 1 and "25" not in told
    assert told.count(share) == 1 and share not in table and share not in pictures  # in the reason alone
    side = f"2 × 2 {size.split()[-1]}"
    assert pictures.count(side) > 3
    told, table, pictures = shown(f"finer_{language}", {"VGG16": 7, "ResNet50": 2})
    assert told.count(size) == 1 and told.count(share) == 3
    assert share in table and share in pictures and side not in pictures


@pytest.mark.parametrize(
    ("language", "said"), [("en", "applies to whole networks only"), ("fr", "ne s’applique qu’aux réseaux entiers")]
)
def test_that_heads_learn_without_what_is_done_about_rare_diagnoses_is_said(make, language, said):
    changes = {"backbones": ["ResNet50"], "strategies": ["feature_extraction", "fine_tuning"]}
    changes |= {"leakage": False, "other_splits": 0}
    assert said not in words_of(make("same_loss", changes, language=language), "limits")
    report = make("other_loss", changes | {"imbalance": "focal"}, language=language)
    assert said in words_of(report, "limits")
    focal = {"en": "The focal loss reduces", "fr": "La perte focale réduit"}[language]
    assert focal in words_of(report, "appendix_training")


@pytest.mark.parametrize(("language", "said"), [("en", "last three stages"), ("fr", "trois derniers étages")])
def test_that_heads_get_the_features_of_several_stages_is_said(make, language, said):
    changes = {"backbones": ["ResNet50"], "features": "all_stages", "views": 4}
    several = make("several_stages", changes, language=language)
    assert said in words_of(several, "set_up_head")
    assert ("4 views of each image" if language == "en" else "4 vues de chaque image") in words_of(
        several, "set_up_head"
    )
    assert said not in words_of(make("fits_one", *STUDIES["one"][:1], language=language), "set_up_head")


@pytest.mark.parametrize(
    ("language", "larger", "nothing", "fewer"),
    [
        (
            "en",
            "more epochs may increase these numbers",
            "not defined; its macro F1 from scratch",
            "Not tested: whether fewer than",
        ),
        (
            "fr",
            "ces nombres sont peut-être sous-estimés",
            "non défini ; son F1 macro à partir de zéro",
            "Non testé : l’entraînement sur moins de",
        ),
    ],
)
def test_lesions_are_saved_only_against_networks_that_learned(
    root, make, monkeypatch, language, larger, nothing, fewer
):
    report, backbones = (
        make("fits_curves", *STUDIES["curves"][:1], language=language),
        STUDIES["curves"][0]["backbones"],
    )
    told = words_of(report, "transfer_buys")
    assert nothing not in told and len(re.findall("%", told)) > 2
    key, real = f"from_scratch.{report.main.split_policy}.{report.main.preprocessing}", Facts.__getitem__
    bad_ones = {f"score.{key}.{name}.macro_f1.low": 0.01 for name in backbones}

    def bad(facts, name):
        return replace(real(facts, name), value=bad_ones[name]) if name in bad_ones else real(facts, name)

    assert fewer not in words_of(report, "conclusion")
    assert fewer in words_of(make("fits_one", *STUDIES["one"][:1], language=language), "conclusion")
    flat = real(report.facts, "ending.from_scratch.flat")
    monkeypatch.setitem(report.facts, "ending.from_scratch.late_gain", replace(flat, value=0.05))
    monkeypatch.setitem(report.facts, "ending.from_scratch.flat", replace(flat, value=False))
    assert larger in words_of(report, "transfer_buys") and larger not in told
    monkeypatch.setattr(Facts, "__getitem__", bad)
    # Another, since the verdicts of a report are decided once.
    report = Report(str(root / "runs/fits_curves/study.json"), language, root / "report/fits_curves")
    assert words_of(report, "transfer_buys").count(nothing) == len(backbones)


@pytest.mark.parametrize(
    ("lesion", "around", "told"),
    [
        (-0.1, -0.1, "cannot be separated here"),
        (-0.1, 0.1, "Only the loss without the lesion is statistically significant"),
        (0.1, -0.1, "may use something other than the lesion"),
    ],
)
def test_what_masks_show_follows_from_their_intervals(make, monkeypatch, lesion, around, told):
    report = make("fits_lesion", *STUDIES["lesion"][:1])
    key = f"robustness.{report.main.strategy}.{report.best(report.main)}."
    for name, high in (("no_lesion", lesion), ("no_surroundings", around)):
        end = f"{key}{name}.0.macro_f1.high"
        monkeypatch.setitem(report.facts, end, replace(report.facts[end], value=high))
        start = f"{key}{name}.0.macro_f1.low"
        monkeypatch.setitem(report.facts, start, replace(report.facts[start], value=-0.2))
    assert told in words_of(report, "appendix_robustness")


UNSEARCHED = {"en": "The learning rate was not tuned", "fr": "Le taux d’apprentissage n’a pas été optimisé"}


@pytest.mark.parametrize("language", ["en", "fr"])
def test_several_learning_rates_are_shown_with_what_each_reached(make, language):
    rates = [0.001, 0.003, 0.01]
    changes = {"strategies": ["fine_tuning", "from_scratch"], "backbones": ["VGG16", "Xception"], "seeds": [1, 2, 3]}
    changes |= {"leakage": False, "other_splits": 0, "fine_tuning_rate": rates, "from_scratch_rate": rates}
    report = make("rates", changes, language)
    assert report.rates_compared
    table = str(report.table("rates").html)
    cells = [re.sub("<[^>]*>", "", cell).replace(",", ".") for cell in re.findall("<td.*?</td>", table)]
    rows = [cells[i : i + 6] for i in range(0, len(cells), 6)]
    assert len(rows) == 2 * 2 * 3
    wanted = [[f"{rate:g}", f"{0.5 - rate:.3f}", "20", "3", "3" if rate == 0.003 else "0"] for rate in rates]
    assert [row[1:] for row in rows if row[0] == "Xception"] == wanted * 2
    words = words_of(report, "appendix_training").replace(",", ".")
    assert ("0.001 to 0.01" if language == "en" else "0.001 à 0.01") in words
    assert ("each of 3 learning rates" if language == "en" else "chacun des 3 taux") in words
    assert UNSEARCHED[language] not in words_of(report, "limits")


@pytest.mark.parametrize("language", languages())
def test_one_learning_rate_is_said_not_to_have_been_searched_for(make, language):
    changes = {"strategies": ["from_scratch"], "backbones": ["VGG16"], "leakage": False, "other_splits": 0}
    report = make("one_rate", changes, language=language)
    assert not report.rates_compared
    assert UNSEARCHED[language] in words_of(report, "limits")


@pytest.mark.parametrize(("rise", "told"), [(0.0, "the curves had flattened"), (0.02, "more epochs may increase it")])
def test_whether_the_curves_of_networks_flattened_is_measured(root, make, rise, told):
    changes = {"strategies": ["from_scratch"], "backbones": ["VGG16"], "leakage": False, "other_splits": 0}
    changes |= {"from_scratch_epochs": 20, "seeds": [1, 2]}
    study = fabricate(root, f"rise_{100 * rise:.0f}", changes)
    file = root / "runs" / f"rise_{100 * rise:.0f}" / "from_scratch/VGG16/history.csv"
    history = pd.read_csv(file)
    parts = []
    for (seed,), part in history.groupby(["seed"]):
        part = part.head(18 if seed == 1 else 20)
        part = pd.concat([part] + [part.tail(1)] * (20 - len(part))) if seed == 2 else part
        parts.append(part.assign(epoch=np.arange(1, len(part) + 1), val_macro_f1=0.4 + rise * np.arange(len(part))))
    write_csv(file, pd.concat(parts))
    evaluate(study)
    report = make(f"rise_{100 * rise:.0f}", None)
    words = words_of(report, "appendix_training")
    assert "early stopping ended 1 of 2 trainings" in words and told in words
    assert report.facts["ending.from_scratch.late_gain"].value == pytest.approx(rise * 4)


@pytest.mark.parametrize("language", languages())
def test_conclusions_rest_on_the_strategy_that_the_validation_subset_puts_first(root, make, language):
    changes = {"backbones": ["VGG16"], "strategies": ["feature_extraction", "fine_tuning", "from_scratch"]}
    name = f"validated_{language}"
    study = fabricate(root, name, changes | {"leakage": False, "other_splits": 0})
    names = [f"p_{dx}" for dx in CLASSES]
    for strategy, subset in (("fine_tuning", "val"), ("from_scratch", "test")):
        file = root / "runs" / name / strategy / "VGG16" / "predictions.csv"
        table = pd.read_csv(file)
        rows = table["subset"] == subset
        table.loc[rows, names] = 0.94 * np.eye(7)[[CLASSES.index(dx) for dx in table.loc[rows, "dx"]]] + 0.06 / 7
        write_csv(file, table)
    evaluate(study)
    report = make(name, None, language)
    scores = report.tables["scores.csv"].query("metric == 'macro_f1' and backbone == 'VGG16'").set_index("strategy")
    assert scores.loc["from_scratch", "value"] == 1 > scores.loc["fine_tuning", "value"]
    assert report.main.strategy == "fine_tuning"
    rest = {"en": "rest on {}, the transfer strategy", "fr": "s’appuient sur la stratégie « {} »"}[language]
    told = words_of(report, "set_up_head").replace(NARROW_SPACE, " ").replace("\u00a0", " ")
    assert rest.format(report.labels("strategy.fine_tuning")) in told
    # The same network from random weights scores higher on the test subset: nothing is claimed for transfer.
    texts = {name: words_of(report, name).replace("\u00a0", " ") for name in ("summary", "conclusion", "slides")}
    better = {
        "en": (
            "Pretraining does not help",
            "Not in this way. Training from scratch",
            "Not in this way. Training from scratch",
        ),
        "fr": (
            "n’est pas utile",
            "Pas ici : l’entraînement à partir de zéro",
            "Pas ici : l’entraînement à partir de zéro",
        ),
    }
    for text, words in zip(texts.values(), better[language], strict=True):
        assert words in text.replace(NARROW_SPACE, " ")
    claims = {"en": r"Pretraining helps|Yes\b", "fr": r"est utile|Oui\b"}
    assert not re.search(claims[language], " ".join(texts.values()))


def test_transfer_is_judged_by_training_from_scratch_where_the_study_has_it(root, make):
    changes = {"backbones": ["VGG16"], "strategies": ["feature_extraction", "fine_tuning", "from_scratch"]}
    study = fabricate(root, "judged", changes | {"leakage": False, "other_splits": 0})
    file, names = root / "runs/judged/fine_tuning/VGG16/predictions.csv", [f"p_{dx}" for dx in CLASSES]
    table = pd.read_csv(file)
    table[names] = 0.94 * np.eye(7)[[CLASSES.index(dx) for dx in table["dx"]]] + 0.06 / 7
    write_csv(file, table)
    evaluate(study)
    report = make("judged", None)
    assert Verdicts(report).control["names"] == ["VGG16"]  # the other comparator, which comes second
    summary, conclusion = (words_of(report, name) for name in ("summary", "conclusion"))
    assert "Yes, in comparison with training from scratch." in conclusion
    for text in (summary.partition("Transfer.")[2], conclusion.partition("Yes, in comparison")[2]):
        assert 0 < text.index("from scratch") < text.index("random weights")


def test_a_repetition_that_selects_another_backbone_is_said_beside_the_answer(make):
    report = make("presentation", PRESENTATION)
    key, best = report.reproduction.key, report.best(report.main)
    assert report.reproduction != report.main
    selected = report.facts[f"best.{key}.macro_f1.best"].value
    table = report.tables["comparisons.csv"].query("metric == 'macro_f1' and dataset == 'internal' and arm == 'main'")
    table = table[(table["split_policy"] == "image") & (table["preprocessing"] == "unit") & table["real"]]
    ahead = {
        row.backbone_a if row.difference > 0 else row.backbone_b
        for row in table.itertuples()
        if best == (row.backbone_b if row.difference > 0 else row.backbone_a)
    }
    conclusion, summary = words_of(report, "conclusion"), words_of(report, "summary")
    said = conclusion.partition("With the presentation’s set-up")[2].partition(". ")[0]
    assert f"the validation set selects {selected}" in said
    assert {name for name in report.study.backbones if name in said.partition(selected)[2] and name != best} == ahead
    assert (f"with the presentation’s scaling: {selected}" in summary) == (selected != best)


def test_main_results_rest_on_all_training_lesions(make):
    report = make("fits_curves", *STUDIES["curves"][:1])
    rows = report.files.predictions.query("subset == 'test' and backbone == 'VGG16' and strategy == 'fine_tuning'")
    whole = rows[rows["train_fraction"] == 1]
    assert len(whole) * 3 == len(rows)
    names = [f"p_{dx}" for dx in CLASSES]
    right = [np.array(CLASSES)[part[names].to_numpy().argmax(1)] == part["dx"] for _, part in whole.groupby("seed")]
    found = report.tables["scores.csv"].query(
        "backbone == 'VGG16' and strategy == 'fine_tuning' and metric == 'accuracy'"
    )
    assert found["value"].tolist() == [pytest.approx(np.mean([part.mean() for part in right]))]
    metrics = report.tables["metrics.csv"].query(
        "backbone == 'VGG16' and strategy == 'fine_tuning' and subgroup == 'all'"
    )
    metrics = metrics[
        (metrics["class"] == "all") & metrics["metric"].isin(["macro_f1", "balanced_accuracy", "accuracy"])
    ]
    counts = metrics.dropna(subset=["ci_low", "ci_high"]).groupby("train_fraction").size()
    assert counts.to_dict() == {0.1: 9, 0.4: 9, 1.0: 9}  # three scores of two seeds and their mean
    for table in ("confusion.csv", "decisions.csv", "subgroups.csv", "roc.csv", "training.csv"):
        assert set(report.tables[table].get("train_fraction", [1])) == {1}


@pytest.mark.parametrize("language", languages())
@pytest.mark.parametrize(("name", "changes"), [("shared", {}), ("shared_real", {"dataset": "ham10000"})])
def test_a_report_without_pictures_shows_none_and_says_so(make, monkeypatch, name, changes, language):
    overrides = ["images", "title"]
    changes = {"images": False, "overrides": overrides, "seeds": [1], "backbones": ["VGG16", "ResNet50"]} | changes
    report = make(name, changes, language)
    assert not report.pictures and make("fits_demo").pictures
    monkeypatch.setattr(runs, "read_images", lambda folder: pytest.fail("the images are read"))
    pieces = [report.header(), report.text("data_set"), report.examples(), report.slides()]
    cells = [nbformat.v4.new_code_cell() for _ in pieces]
    for cell, piece in zip(cells, pieces, strict=True):
        data, about = piece._repr_mimebundle_()
        cell.outputs = [nbformat.v4.new_output("display_data", data, metadata=about)]
    page = rendering.to_html(nbformat.v4.new_notebook(cells=cells))
    said = {"en": "This report shows no image", "fr": "Ce rapport ne montre aucune image"}[language]
    assert said in parse(page).text and "figure-examples" not in page
    assert "banner narrowed" not in page, "neither leaving pictures out nor another title narrows anything"
    deck = pieces[-1].slides["html"]
    assert "#figure-class-balance" in deck and "#figure-examples" not in deck


def test_one_seed_shows_no_spread_and_says_so(make):
    report = make("fits_one", *STUDIES["one"][:1])
    assert report.tables["scores.csv"]["seed_sd"].isna().all()
    assert "SD over seeds" not in str(report.table("scores", setup=report.main).html)
    assert "one seed" in str(report.text("discussion").html)


def test_presentation_s_parameter_counts_are_checked(make):
    report = make("presentation", PRESENTATION)
    table = report.tables["backbones.csv"]
    assert (table["parameters_difference"] == 0).all()
    assert "agree exactly with" in str(report.text("set_up").html)
    assert report.facts["literature.parameters.VGG16"].value == 138_357_544


def words_of(report, name, **context):
    return " ".join(re.sub("<[^>]*>", "", str(report.text(name, **context).html)).split())


@pytest.mark.parametrize("language", languages())
def test_the_summary_says_what_other_strategies_reach(make, language):
    report = make("fits_strategies", *STUDIES["strategies"][:1], language=language)
    scores = report.tables["scores.csv"].query("metric == 'macro_f1' and split_policy == 'lesion'")
    best = report.facts["best.feature_extraction.lesion.native.macro_f1.best"].value
    told = words_of(report, "summary").replace("\N{NO-BREAK SPACE}", " ")
    values = scores[scores["backbone"] == best].set_index("strategy")["value"]
    for strategy in ("fine_tuning", "from_scratch"):
        names = [report.labels(f"strategy.{name}") for name in (report.main.strategy, strategy)]
        (sentence,) = [part for part in re.split(r"(?<=[a-z])\.", told) if all(name in part for name in names)]
        for name in (report.main.strategy, strategy):
            assert f"{values[name]:.2f}" in sentence.replace(",", ".")


@pytest.mark.parametrize("skill", [-1.0, 2.0])
def test_transfer_is_answered_by_the_same_backbone_with_random_weights(make, monkeypatch, skill):
    monkeypatch.setattr(fabricated, "SKILL", {"ResNet50": skill})
    changes = {"dataset": "ham10000", "backbones": ["ResNet50"], "seeds": [1], "random_control": True}
    report = make(f"control-{10 * skill + 10:.0f}", changes)
    key = "effect.weights.all.feature_extraction.lesion.ResNet50.macro_f1"
    better = report.facts[f"{key}.low"].value > 0
    assert better == (skill > 0)
    assert ("Pretraining helps." in words_of(report, "summary")) == better
    assert ("Pretraining does not help." in words_of(report, "summary")) == (report.facts[f"{key}.high"].value < 0)
    yes = "Yes, in comparison with the same frozen backbone with random weights."
    assert (yes in words_of(report, "conclusion")) == better == (yes in words_of(report, "slides"))


@pytest.mark.parametrize(
    ("skill", "of_summary", "of_conclusion"),
    [
        (-1.0, "The network is not better", "Hardly"),
        (0.0, "Their intervals overlap", "Open: the intervals of network"),
        (2.0, "Their intervals do not overlap", "Yes, in comparison with a baseline"),
    ],
)
def test_what_is_said_of_transfer_rests_on_intervals(make, monkeypatch, skill, of_summary, of_conclusion):
    monkeypatch.setattr(fabricated, "SKILL", {"ResNet50": skill})
    changes = {"dataset": "ham10000", "backbones": ["ResNet50"], "seeds": [1], "random_control": False}
    report = make(f"skill-{10 * skill + 10:.0f}", changes)
    scores = report.tables["scores.csv"].query("metric == 'macro_f1'").set_index("backbone")
    ours = scores.loc["ResNet50"]
    baseline = scores[scores["kind"] == "baseline"].sort_values("value").iloc[-1]
    expected = 2 if ours["ci_low"] > baseline["ci_high"] else int(ours["value"] > baseline["value"])
    assert expected == [-1.0, 0.0, 2.0].index(skill)
    assert of_summary in words_of(report, "summary")
    assert of_conclusion in words_of(report, "conclusion")
    in_part = "In part: macro F1 is clearly higher than the best baseline’s, but many lesions are misclassified."
    assert (in_part in words_of(report, "conclusion")) == (expected == 2)
    of_slides = words_of(report, "slides").split("From a general model to a specific one?")[1].split("To the class")[0]
    assert ("Yes" in of_slides, "Hardly" in of_slides) == (expected == 2, expected == 0)


def test_with_balanced_diagnoses_accuracy_does_not_overstate_performance(make, monkeypatch):
    usual = make("fits_one", *STUDIES["one"][:1])
    always = "always answers “naevus” therefore has a high accuracy"
    assert always in words_of(usual, "data_set")
    assert "Accuracy overstates performance" in words_of(usual, "discussion")
    monkeypatch.setattr(fabricated, "N_LESIONS", dict.fromkeys(CLASSES, 20))
    report = make("balanced", {"backbones": ["ResNet50"], "seeds": [1]}, seed=3)
    scores = report.tables["scores.csv"].query("backbone == 'ResNet50'").set_index("metric")["value"]
    assert scores["accuracy"] < scores["macro_f1"]
    assert "Accuracy does not overstate performance" in words_of(report, "discussion")
    assert "Accuracy overstates performance" not in words_of(report, "discussion")
    share = report.facts["data.nv.share_images"].value
    assert share < 0.2 and f"Naevi are {share:.0%} of the images" in words_of(report, "data_set")
    assert always not in words_of(report, "data_set")


def test_the_presentation_is_not_said_to_have_what_it_lacks(make, monkeypatch):
    monkeypatch.setitem(fabricated.PARAMETERS, "MobileNetV2", (2_257_984, 3_538_984, 1280))
    monkeypatch.setitem(fabricated.SKILL, "MobileNetV2", 1.5)
    monkeypatch.setitem(fabricated.BATCHES, "MobileNetV2", 32)
    tuned = {"strategies": ["fine_tuning"], "leakage": False, "other_splits": 0}
    report = make("other_network", {"backbones": ["MobileNetV2"]} | tuned)
    set_up = words_of(report, "set_up")
    assert "MobileNetV2 as Keras provides it" in set_up and "numbers of parameters" not in set_up
    assert "VGG16, ResNet50, Xception and EfficientNetB7 are not part of this study" in set_up
    assert "this study measures" not in words_of(report, "why")
    summary = words_of(report, "summary")
    assert "pretrained on ImageNet, fine-tuned" in summary and "new head" not in summary
    mixed = make("other_networks", {"backbones": ["MobileNetV2", "VGG16"]} | tuned)
    assert "numbers of parameters agree exactly" in words_of(mixed, "set_up")
    whole = make("presentation", PRESENTATION)
    assert "effects of leakage, scaling and another split are measured below" in words_of(whole, "why")


# Bad input -------------------------------------------------------------------------------------------------------


def test_strings_of_the_metadata_are_escaped(root):
    metadata = fabricate_metadata(np.random.default_rng(1))
    metadata.loc[0, "localization"] = HOSTILE
    metadata.loc[1, "dx_type"] = HOSTILE
    study = fabricate(root, "hostile", {"title": HOSTILE, "backbones": ["ResNet50"]}, metadata=metadata)
    evaluate(study)
    report = Report(str(study), "en", root / "report" / "hostile")
    pieces = [report.header(), report.table("metadata"), report.text("limits")]
    assert str(pieces[1].html).count("&lt;script&gt;") == 2
    page = rendering.to_html(notebook_of(pieces))
    assert "<script>alert" not in page
    assert parse(page).all("title")[0].text == HOSTILE == parse(page).all("h1")[0].text


def test_a_study_shows_the_title_it_has_in_every_language(rendered):
    """Of a study of the project, another title than its file's has no translation; with its own, it has one."""
    title, name = rendered["report"].study.title, rendered["report"].study.name
    assert load_study(name).title != title  # the study `demo`, as it is after `--config title=…`
    assert rendered["report"].header().page["title"] == title
    labels = Labels("fr")
    for file in (ROOT / "studies").glob("*.yaml"):
        assert labels.known("title", load_study(file).title) != load_study(file).title


def copied_texts(folder):
    return Path(shutil.copytree(TEXTS, folder / "text"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda texts: (texts / "en" / "limits.md").unlink(), "limits.md is missing"),
        (lambda texts: (texts / "en" / "limits.md").write_text('{{ fact("no.such", "d") }}'), "no fact `no.such`"),
        (lambda texts: (texts / "en" / "limits.md").write_text("{{ absent }}"), "'absent' is undefined"),
        (lambda texts: (texts / "en" / "limits.md").write_text("{% if %}"), "limits.md"),
        (lambda texts: (texts / "en" / "limits.md").write_text('{{ label("no.such") }}'), "no label `no.such`"),
    ],
)
def test_a_gap_in_the_texts_fails(make, tmp_path, spoil, message):
    make("fits_demo")
    study = make("fits_demo").files.folder / "study.json"
    texts = copied_texts(tmp_path)
    spoil(texts)
    report = Report(str(study), "en", tmp_path, texts)
    with pytest.raises(SkinTLError, match=message):
        report.text("limits")


@pytest.mark.parametrize(("file", "message"), [("labels.yaml", "labels.yaml"), ("captions.yaml", "captions.yaml")])
def test_a_missing_file_of_words_fails(make, tmp_path, file, message):
    study = make("fits_demo").files.folder / "study.json"
    texts = copied_texts(tmp_path)
    (texts / "en" / file).unlink()
    with pytest.raises(SkinTLError, match=message):
        Report(str(study), "en", tmp_path, texts)


def test_a_missing_caption_fails(make):
    report = make("fits_demo")
    with pytest.raises(SkinTLError, match="no `figures: unheard_of: alt`"):
        report.figure("unheard_of", [])


def test_unknown_language_fails(make):
    study = make("fits_demo").files.folder / "study.json"
    with pytest.raises(SkinTLError, match=r"no language 'xx'.*Choose one of .*en"):
        Report(str(study), "xx")


def test_without_runs_the_message_names_the_command(root):
    with pytest.raises(SkinTLError, match=r"Run `\./run_all\.sh /path/to/nothing\.yaml` first"):
        Report(str(root / "runs" / "nothing" / "study.json"))
    with pytest.raises(SkinTLError, match=r"Run `\./run_all\.sh ham10000` first"):  # one below studies/
        Report(str(root / "runs" / "ham10000" / "study.json"))


@pytest.mark.parametrize("file", ["run.json", "predictions.csv", "history.csv"])
def test_a_missing_file_of_a_run_is_named(root, file):
    study = fabricate(root, f"without_{file[:3]}", {"backbones": ["VGG16"], "seeds": [1]})
    (study.parent / "feature_extraction" / "VGG16" / file).unlink()
    with pytest.raises(SkinTLError, match=rf"VGG16.{file} is missing.*run_all\.sh \S*without_"):
        Report(str(study), "en", root / "report" / "x")


def test_without_metrics_they_are_computed_beside_the_tables(root, tmp_path):
    study = fabricate(root, "by_hand", {"backbones": ["VGG16"], "seeds": [1]})
    report = Report(str(study), "en", tmp_path / "out")
    assert (tmp_path / "out" / "metrics.csv").is_file()
    assert report.write() == tmp_path / "out"
    beside = Report(str(study), "en", root / "runs")
    assert beside.folder == root / "report" / "by_hand"
    assert {"facts.json", "scores.csv"} <= {file.name for file in (tmp_path / "out").iterdir()}


def notebook_with(*outputs):
    cell = nbformat.v4.new_code_cell()
    cell.outputs = list(outputs)
    return nbformat.v4.new_notebook(cells=[cell])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (notebook_with(), "shows no report"),
        (notebook_with(nbformat.v4.new_output("error", ename="KeyError", evalue="'x'", traceback=[])), "KeyError"),
        (None, "is missing"),
    ],
)
def test_no_page_is_written_of_a_notebook_without_report(tmp_path, content, message):
    notebook = tmp_path / "report.ipynb"
    if content is not None:
        nbformat.write(content, notebook)
    with pytest.raises(SkinTLError, match=message):
        rendering.render_report(notebook, tmp_path / "report.html", tmp_path / "report.pdf")
    assert not list(tmp_path.glob("*.html")) + list(tmp_path.glob("*.pdf"))


# Languages -------------------------------------------------------------------------------------------------------


def _keys(content, prefix=""):
    if not isinstance(content, dict):
        return {prefix}
    return set().union(*(_keys(value, f"{prefix}.{key}") for key, value in content.items()))


@pytest.mark.parametrize("language", languages())
def test_languages_have_the_same_parts(language):
    import yaml

    names = {file.name for file in (TEXTS / "en").iterdir()}
    assert {file.name for file in (TEXTS / language).iterdir()} == names
    for name in ("labels.yaml", "captions.yaml", "checklists.yaml"):
        ours, english = (yaml.safe_load((TEXTS / code / name).read_text(encoding="utf-8")) for code in (language, "en"))
        ours, english = (
            {k for k in _keys(c) if not k.startswith((".localization", ".title"))} for c in (ours, english)
        )
        assert ours == english
    for name in sorted(n for n in names if n.endswith(".md")):
        headings = [
            re.findall(r"^(#+) .*\{(?:\{ \")?#(.*?)\}", (TEXTS / c / name).read_text(), re.M) for c in (language, "en")
        ]
        assert headings[0] == headings[1], name


@pytest.mark.parametrize("language", languages())
def test_labels_are_text(language):
    import yaml

    content = yaml.safe_load((TEXTS / language / "labels.yaml").read_text(encoding="utf-8"))
    assert all(isinstance(k, str) for k in content)
    for group in content.values():
        for key, word in group.items() if isinstance(group, dict) else ():
            assert isinstance(key, str) and isinstance(word, str), (key, word)


@given(st.floats(-1e7, 1e7), st.sampled_from(["en", "fr"]), st.sampled_from([",.2f", "+.3f", ".0f", ",d", ".1%"]))
def test_written_numbers_read_back(value, language, spec):
    text = format_number(value, spec, language)
    assert "-" not in text and " " not in text
    plain = text.replace("−", "-").replace(NARROW_SPACE, "")
    plain = plain.replace(",", ".") if language == "fr" else plain.replace(",", "")
    scale = 100 if spec.endswith("%") else 1
    digits = int(re.search(r"\.(\d)", spec)[1]) if "." in spec else 0
    assert float(plain.rstrip("%")) == pytest.approx(scale * value, abs=0.51 * 10**-digits, rel=1e-12)


def test_numbers_are_written_as_each_language_does():
    assert format_number(10015, ",d", "en") == "10,015"
    assert format_number(10015.5, ",.1f", "fr") == f"10{NARROW_SPACE}015,5"
    assert format_number(0.5, ".0%", "en") == "50%"
    assert format_number(0.5, ".0%", "fr") == f"50{NARROW_SPACE}%"
    assert format_number(-0.001, "+.2f") == "0.00"
    assert format_number(1e-5, "g") == "0.00001" and format_number(1e-5, "g", "fr") == "0,00001"
    assert format_number(float("nan"), ".2f") == "–"


def test_intervals_and_their_ends_are_parted_as_each_language_does(make):
    for language, mark in (("en", r"\d;"), ("fr", rf"\d{NARROW_SPACE};")):
        report = make("fits_demo", None, language)
        for name in ("scores", "comparisons"):
            cells = re.search("<tbody.*</tbody>", str(report.table(name, setup=report.main).html), re.DOTALL)[0]
            table = parse(cells).text
            assert ";" in table and table.count(";") == len(re.findall(mark, table)), name


def test_french_spaces_do_not_break():
    assert typeset("Quoi ? « Rien » : 5 %", "fr") == "Quoi\u202f? «\u00a0Rien\u00a0»\u00a0: 5\u202f%"
    assert typeset("What ? : 5 %", "en") == "What ? : 5 %"
    assert typeset("200 × 150", "fr") == typeset("200 × 150", "en") == "200\u00a0×\u00a0150"
    assert typeset("le F1 macro, l'AUC ROC", "fr") == "le F1\u00a0macro, l’AUC\u00a0ROC"
    assert typeset("l'image", "fr") == "l’image" and typeset("the seeds' sizes", "en") == "the seeds’ sizes"


def test_a_missing_label_names_its_file():
    with pytest.raises(SkinTLError, match=r"labels\.yaml has no label `metric\.unheard_of`"):
        Labels("en")("metric.unheard_of")


# The notebook ----------------------------------------------------------------------------------------------------


def test_the_notebook_is_short_calls_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"]
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code:
        assert not cell.outputs and cell.execution_count is None
        assert len(cell.source.splitlines()) <= 15
        assert not re.search(r"^\s*(def|class|lambda)\b", cell.source, re.MULTILINE)


def test_sources_are_those_of_what_a_study_used(make):
    """The data set with its licence always; networks, ISIC 2018 and ImageNet where they are used."""

    def sources(report):
        return dict(re.findall(r'([^>]*) <a href="([^"]*)">', report.text("references").html))

    found = sources(make("presentation", PRESENTATION))
    assert "doi:10.7910/DVN/DBW86T, CC BY-NC 4.0" in " ".join(found)
    table = pd.read_csv(TEXTS / "references.csv").set_index("key")["url"]
    study = make("presentation", PRESENTATION).study
    assert {*BACKBONES} <= {*table.index}, "report/text/references.csv lacks the paper of a backbone"
    for key in BACKBONES:
        assert (table[key] in found.values()) == (key in study.backbones)
    assert table["isic2018"] not in found.values() and table["gradcam"] in found.values()
