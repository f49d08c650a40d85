"""The figures: what they show, in which words and colours, and that nothing of them is cut off."""

import itertools
import re
import statistics
from functools import cache
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from fabricated import fabricate_metadata
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from simulated import predictions

from skin_tl.data.metadata import class_table
from skin_tl.evaluation.decisions import decisions_table, roc_points
from skin_tl.evaluation.net_benefit import decision_curves
from skin_tl.evaluation.risk import risk_bins
from skin_tl.files import ROOT
from skin_tl.registry import BACKBONES
from skin_tl.reporting import figures
from skin_tl.reporting.drawing import GREY, INK, LEARNED_TEXT, NEW_TEXT, SOFT, contrast_of, ink_on
from skin_tl.reporting.texts import ENGLISH, Labels, languages
from skin_tl.schema import BASELINES, CLASSES, CONFIDENCES, COVERAGE, OUTCOMES, STRATEGIES, SUBSETS

BACKBONE_NAMES = ["VGG16", "Xception", "ResNet50", "EfficientNetB7"]
SCORES = ["accuracy", "balanced_accuracy", "macro_f1"]
PSEUDO = ["ensemble", "majority", "metadata_only", "colour_histogram"]
CROWDS = {"1": ["EfficientNetB7"], "2": BACKBONE_NAMES[::3], "6": list(BACKBONES), "pseudo": ["ResNet50", *PSEUDO]}


@pytest.fixture(scope="module")
def metadata():
    return fabricate_metadata(np.random.default_rng(0))


def score_rows(values=None, n_seeds=3, names=BACKBONE_NAMES):
    """Scores of backbones as ``scores.csv`` has them."""
    rng = np.random.default_rng(0)
    rows = []
    for metric, backbone in itertools.product(SCORES, names):
        value = rng.uniform(0.3, 0.9) if values is None else values[backbone]
        row = {"metric": metric, "backbone": backbone, "value": value, "ci_low": value - 0.08, "ci_high": value + 0.08}
        row |= {"seed_min": value - 0.03, "seed_max": value + 0.03, "n_seeds": n_seeds, "n_images": 2003}
        rows.append(row)
    table = pd.DataFrame(rows)
    if n_seeds == 1:
        table[["seed_min", "seed_max"]] = np.nan
    return table


def flow_tables(policies=("lesion", "image")):
    """The counts of the flow diagram, with something at each stage."""
    stages = ["published", "absent", "read", "shared_pictures", "near_duplicates", "study", "external"]
    images, lesions = [10015, 12, 10003, None, None, 10003, 1511], [None, None, 7470, 3, 20, 7447, None]
    subsets = [
        {"split_policy": policy, "subset": subset, "n_images": n, "n_lesions": n - 500.0}
        for policy in policies
        for subset, n in zip(SUBSETS, (6001.3, 1996.0, 2018.0), strict=True)
    ]
    flow = pd.DataFrame({"stage": stages, "n_images": images, "n_lesions": lesions}, dtype=object)
    return flow, pd.DataFrame(subsets)


def beside_control(table):
    """Put the scores of the same backbones with random weights beside, one that is near and none for a baseline."""
    value = table["value"] - np.where(np.arange(len(table)) % 3, 0.2, 0.01)
    value = value.where(~table["backbone"].isin(BASELINES))
    return table.assign(random_value=value, random_low=value - 0.05, random_high=value + 0.05)


def report_rows(names=BACKBONE_NAMES):
    """Classification reports of backbones as ``classification_reports.csv`` has them."""
    rng = np.random.default_rng(1)
    lines = [*CLASSES, "accuracy", "macro_avg", "weighted_avg"]
    rows = [
        {"backbone": b, "row": row, "f1_score": rng.random(), "support": 2003, "published_f1_score": rng.random()}
        for b, row in itertools.product(names, lines)
    ]
    return pd.DataFrame(rows).assign(published_support=2003)


def confusion_rows(largest=1300.0, backbone="EfficientNetB7"):
    cells = [
        {"backbone": backbone, "dx": dx, "predicted": guess, "n_images": largest if dx == guess else 1 / 3}
        for dx, guess in itertools.product(CLASSES, CLASSES)
    ]
    table = pd.DataFrame(cells)
    return table.assign(share=table["n_images"] / table.groupby("dx")["n_images"].transform("sum"))


def history_rows():
    epochs = np.arange(1, 41)
    parts = [
        pd.DataFrame({"epoch": epochs, "loss": 2 / epochs, "val_loss": 2 / epochs + 0.01 * epochs}).assign(
            split_policy="lesion", preprocessing="native", seed=seed, kept=epochs == epochs.max()
        )
        for seed in (1, 2, 3)
    ]
    return pd.concat(parts, ignore_index=True)


def curve_rows(names=("MobileNetV2",), sizes=(224, 448, 1120, 2241, 4482), strategies=STRATEGIES):
    """Learning curves as ``learning_curves.csv`` has them: each strategy below the one before, more lesions better."""
    rows = [
        {"strategy": strategy, "backbone": name, "n_lesions": n, "value": 0.2 + 0.1 * place - 0.05 * k}
        for k, strategy in enumerate(strategies)
        for name in names
        for place, n in enumerate(sizes)
    ]
    table = pd.DataFrame(rows).assign(metric="macro_f1", n_seeds=3, n_images=2003.0)
    return table.assign(ci_low=table["value"] - 0.06, ci_high=table["value"] + 0.06)


def contrast_rows(factor="preprocessing", levels=("unit", "native"), names=BACKBONE_NAMES):
    pairs = ((0.40, 0.52), (0.55, 0.56), (0.44, 0.55), (0.58, 0.54), (0.47, 0.61), (0.51, 0.50))
    values = dict(zip(names, pairs, strict=False))
    rows = [
        {"factor": factor, "metric": "macro_f1", "backbone": backbone, "level_a": levels[0], "level_b": levels[1]}
        | {"value_a": a, "value_b": b, "difference": b - a, "n_images_a": 2003, "n_images_b": 1990}
        for backbone, (a, b) in values.items()
    ]
    table = pd.DataFrame(rows)
    for end in "ab":
        table[f"rank_{end}"] = table[f"value_{end}"].rank(ascending=False).astype(int)
    return table


@cache
def decided(skill):
    """ROC points and decisions of an imaginary backbone, as `skin_tl.evaluation.decisions` gives them."""
    table = predictions(np.random.default_rng(7), n_lesions=300, seeds=(1, 2), skill=skill)
    return roc_points(table, "feature_extraction", "?"), decisions_table(table, "feature_extraction", "?", n_boot=50)


def decision_tables(names, decision="melanoma"):
    """ROC points and decisions of backbones."""
    found = [decided(0.6 + 0.2 * place) for place in range(len(names))]
    both = (pd.concat(dict(zip(names, tables, strict=True)), names=["name"]) for tables in zip(*found, strict=True))
    both = [table.reset_index("name").drop(columns="backbone").rename(columns={"name": "backbone"}) for table in both]
    return [table[table["decision"] == decision] for table in both]


def effect_rows(names=BACKBONE_NAMES, column="arm", a="leak_with_siblings", b="leak_without_siblings"):
    """Paired effects as `skin_tl.schema.CONTRAST_COLUMNS` names their columns."""
    rows = []
    for place, backbone in enumerate(names):
        value, difference = 0.45 + 0.037 * place, 0.051 - 0.017 * place
        row = {"backbone": backbone, "column": column, "a": a, "b": b, "metric": "macro_f1", "value_a": value}
        row |= {"value_b": value - difference, "difference": difference, "ci_low": difference - 0.03}
        rows.append(row | {"ci_high": difference + 0.02, "p": 0.04, "n_images": 1494, "n_lesions": 1494})
    return pd.DataFrame(rows)


def external_rows(names=BACKBONE_NAMES):
    rows = []
    for metric, (place, backbone) in itertools.product(("balanced_accuracy", "macro_f1"), enumerate(names)):
        row = {"backbone": backbone, "metric": metric, "internal": 0.7 - 0.041 * place, "external": 0.61 - 0.03 * place}
        row["difference"] = row["external"] - row["internal"]
        row |= {"ci_low": row["difference"] - 0.05, "ci_high": row["difference"] + 0.05}
        rows.append(row | {"n_images_internal": 2003, "n_images_external": 1511})
    return pd.DataFrame(rows)


def spread_rows(names=BACKBONE_NAMES, n_splits=100):
    rng = np.random.default_rng(4)
    rows = [
        {"backbone": backbone, "seed": seed, "value": rng.normal(0.5 + 0.03 * place, 0.012), "n_images": 2003}
        for place, backbone in enumerate(names)
        for seed in range(n_splits)
    ]
    return pd.DataFrame(rows)


SUBGROUPS = {
    "sex": ["female", "male", "unknown"],
    "age": ["0-29", "30-44", "45-59", "60-74", "75+", "unknown"],
    "site": ["abdomen", "acral", "back", "chest", "ear", "face", "foot", "genital", "hand", "lower extremity", "neck"]
    + ["scalp", "trunk", "unknown", "upper extremity"],
    "dx_type": ["confocal", "consensus", "follow_up", "histo"],
}


def subgroup_rows():
    rng = np.random.default_rng(5)
    rows = []
    for variable, names in SUBGROUPS.items():
        for name in names:
            n_lesions, value = int(np.exp(rng.uniform(1, 7.2))), rng.uniform(0.5, 0.7)
            half = min(0.9 / n_lesions**0.5, value, 1 - value)
            row = {"subgroup": f"{variable}={name}", "value": value, "ci_low": value - half, "ci_high": value + half}
            row |= {"n_images": 2 * n_lesions, "n_lesions": n_lesions, "conclusive": n_lesions >= 30 and half < 0.1}
            rows.append(row)
    return pd.DataFrame(rows)


@cache
def one_benefit():
    """Decision curves and bins of risk of an imaginary backbone, as `skin_tl.evaluation` gives them."""
    table = predictions(np.random.default_rng(1), n_lesions=300, seeds=(1, 2))
    curves = decision_curves(table, "feature_extraction", "?", n_boot=50)
    return curves, risk_bins(table, "feature_extraction", "?", n_boot=50)


def benefit_tables(names, decision):
    """Decision curves of one decision, bins of risk, and what stands above these, of backbones."""
    curves, bins = (pd.concat([table.assign(backbone=name) for name in names]) for table in one_benefit())
    values = {name: {"slope": 0.843, "intercept": -0.021, "brier": 0.0594} for name in names}
    return curves[curves["decision"] == decision], bins, values


def calibration_rows(names=BACKBONE_NAMES):
    images = [0, 0, 3, 20, 60, 100, 120, 120, 110, 100, 100, 120, 160, 250, 740]
    rows = []
    for (place, backbone), (number, count) in itertools.product(enumerate(names), enumerate(images)):
        middle = (number + 0.5) / 15
        row = {"backbone": backbone, "confidence_low": number / 15, "confidence_high": (number + 1) / 15}
        row |= {"confidence": middle if count else np.nan, "accuracy": middle * (1 - 0.05 * place) if count else np.nan}
        rows.append(row | {"n_images": count})
    return pd.DataFrame(rows)


def abstention_rows(scores=CONFIDENCES):
    """Risk by coverage, and AUGRC, of one backbone."""
    coverage, curves, values = np.linspace(0, 1, 51), [], []
    for place, score in enumerate(scores):
        risk = 0.22 * coverage ** (3 - 0.4 * place)
        curves.append(pd.DataFrame({"score": score, "coverage": coverage, "risk": risk}))
        for seed in ("1", "2", "all"):
            row = {"score": score, "seed": seed, "n_lesions": 3633}
            values.append({**row, "metric": "augrc", "value": 0.05 + 0.01 * place, "ci_low": 0.047, "ci_high": 0.095})
            values.append({**row, "metric": "error", "value": 0.22, "ci_low": 0.2, "ci_high": 0.24})
    return pd.concat(curves), pd.DataFrame(values)


def set_rows(backbone="ResNet50", datasets=("internal",)):
    """Coverage and size of prediction sets; one diagnosis without lesions."""
    rows = []
    for dataset, (place, dx) in itertools.product(datasets, enumerate(["all", *CLASSES])):
        coverage, size = (0.95 - 0.06 * place) * (1 if dataset == "internal" else 0.9), 1.5 + 0.7 * place
        row = {"backbone": backbone, "dataset": dataset, "class": dx, "seed": "all", "n_lesions": 3633 // (1 + place)}
        for metric, value, half in (("coverage", coverage, 0.05), ("size", size, 0.4)):
            row |= {"metric": metric, "value": value, "ci_low": value - half, "ci_high": value + half}
            missing = dict.fromkeys(("value", "ci_low", "ci_high"), np.nan) if dx == "vasc" else {}
            rows.append(row | missing | ({"n_lesions": 0} if dx == "vasc" else {}))
    return pd.DataFrame(rows)


def drawn_results(labels, names):
    """Draw every figure that names backbones, dict of lists of drawings."""
    kinds = {name: "ensemble" if name == "ensemble" else "baseline" for name in PSEUDO}
    scored = score_rows(names=names).assign(kind=lambda table: table["backbone"].map(kinds).fillna("backbone"))
    made = {
        "training_curves": figures.training_curves(history_rows(), labels, title=names[-1]),
        "scores": figures.scores(scored, SCORES, labels),
        "scores_control": figures.scores(beside_control(scored), SCORES, labels),
        "confusion_matrix": figures.confusion_matrix(confusion_rows(backbone=names[-1]), labels),
        "class_scores": figures.class_scores(report_rows(names), labels),
        "published": figures.published(report_rows(names), ["macro_avg"], labels),
        "published_classes": figures.published_classes(report_rows(names), labels),
        "contrast": figures.contrast(contrast_rows(names=names), labels),
        "rank_changes": figures.rank_changes(contrast_rows(names=names), labels),
        "effects": figures.effects(effect_rows(names), labels),
        "effects_scaling": figures.effects(effect_rows(names, "preprocessing", "native", "unit"), labels),
        "split_spread": figures.split_spread(spread_rows(names), labels),
        "external": figures.external(external_rows(names), labels, winners=0.885),
        "learning_curves": figures.learning_curves(curve_rows(names[-1:]), labels),
        "subgroups": figures.subgroups(subgroup_rows(), labels, 0.6, names[-1], "macro_f1"),
        "calibration": figures.calibration(calibration_rows(names), labels, dict.fromkeys(names, 0.061)),
    }
    for decision in ("melanoma", "malignant"):
        points, decisions = decision_tables(names, decision)
        made[f"roc_{decision}"] = figures.roc(points, decisions, labels)
        made[f"operating_points_{decision}"] = figures.operating_points(decisions, labels)
        curves, bins, values = benefit_tables(names, decision)
        made[f"decision_curves_{decision}"] = figures.decision_curves(curves, names[-1], 2, labels)
        made["risk"] = figures.risk(bins, values, labels)
    return {name: made if isinstance(made, list) else [made] for name, made in made.items()}


def drawn(labels, metadata):
    """Draw every figure of the report, dict of lists of drawings."""
    numbers = {"images": "10,015", "photographs": "1,281,167", "categories": "1,000"}
    made = {
        "cnn_operations": figures.cnn_operations(labels),
        "transfer": figures.transfer(labels, **numbers),
        "transfer_tuned": figures.transfer(labels, ["fine_tuning", "from_scratch"], **numbers),
        "transfer_both": figures.transfer(labels, ["feature_extraction", "fine_tuning"], **numbers),
        "class_balance": figures.class_balance(class_table(metadata), labels),
        "flow": figures.flow(*flow_tables(), labels),
        "scores_one_seed": figures.scores(score_rows(n_seeds=1), ["macro_f1"], labels),
        "published": figures.published(report_rows(), ["accuracy", "macro_avg", "weighted_avg"], labels),
        "risk_coverage": figures.risk_coverage(*abstention_rows(), labels),
        "prediction_sets": figures.prediction_sets(set_rows(), labels),
        "prediction_sets_external": figures.prediction_sets(set_rows(datasets=("isic2018", "internal")), labels),
        "contrast_splits": figures.contrast(contrast_rows("split_policy", ("lesion", "image")), labels),
    }
    made = {name: made if isinstance(made, list) else [made] for name, made in made.items()}
    return drawn_results(labels, BACKBONE_NAMES) | made


CASES = [
    # French words are the longer ones: what has room for them has room for English ones.
    pytest.param((language, crowd), marks=[pytest.mark.slow] if language == "en" and crowd != "all" else [])
    for language, crowd in itertools.product(languages(), ["all", *CROWDS])
]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def all_drawings(request, metadata):
    """Every figure with four backbones, and those of results with fewer, more and other ones; laid out."""
    language, crowd = request.param
    labels = Labels(language)
    made = drawn(labels, metadata) if crowd == "all" else drawn_results(labels, CROWDS[crowd])
    for drawing in itertools.chain(*made.values()):
        FigureCanvasAgg(drawing).draw()
    return made


def texts_of(drawing):
    """Return the texts that are drawn; matplotlib keeps ticks beyond an axis' ends that it does not draw."""
    hidden = set()
    for axes in drawing.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
            hidden |= {id(label) for tick in ticks for label in (tick.label1, tick.label2)}
    for legend in drawing.legends:
        hidden |= set() if legend.get_visible() else {id(text) for text in legend.findobj(Text)}
    texts = [text for text in drawing.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in texts if id(text) not in hidden]


def test_no_label_is_cut_off(all_drawings):
    for name, drawings in all_drawings.items():
        for drawing in drawings:
            width, height = drawing.canvas.get_width_height()
            for text in texts_of(drawing):
                box = text.get_window_extent()
                inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
                assert inside, (name, text.get_text(), box, width, height)


def test_decision_curves_are_those_of_the_table():
    curves, _, _ = benefit_tables(["VGG16", "ResNet50"], "melanoma")
    curves = curves.assign(net_benefit=curves["net_benefit"] + np.where(curves["backbone"] == "VGG16", 0.01, 0))
    drawing = figures.decision_curves(curves, "ResNet50", 2)
    lines = [line.get_xydata() for line in drawing.axes[0].lines]
    assert len(lines) == 4  # two backbones, all and none
    for line, name in zip(lines, ["VGG16", "ResNet50"], strict=False):
        part = curves[curves["backbone"] == name]
        np.testing.assert_allclose(line, part[["threshold_percent", "net_benefit"]] / [100, 1])
    np.testing.assert_allclose(lines[2][:, 1], part["refer_all"])
    assert not lines[3][:, 1].any()
    (band,) = drawing.axes[0].collections
    ends = band.get_paths()[0].vertices[:, 1]
    assert ends.min() == pytest.approx(part["ci_low"].min()) and ends.max() == pytest.approx(part["ci_high"].max())


def test_risk_leaves_empty_bins_out_and_shows_every_outcome():
    _, bins, values = benefit_tables(["VGG16"], "melanoma")
    bins = bins.assign(n_lesions=bins["n_lesions"].where(bins.index != 3, 0), risk=bins["risk"].where(bins.index != 3))
    (drawing,) = figures.risk(bins, values)
    above, below = drawing.axes
    assert len(above.lines[1].get_xdata()) == (bins["n_lesions"] > 0).sum() < len(bins)
    assert len(below.patches) == len(OUTCOMES)
    for patch, outcome in zip(below.patches, reversed(OUTCOMES), strict=True):
        np.testing.assert_allclose(patch.get_data().values, bins[outcome])
    assert "slope 0.84, intercept −0.02, Brier score 0.059" in shown(drawing)


def test_the_flow_leaves_out_what_nothing_leaves_by():
    table, subsets = flow_tables(["lesion"])
    table.loc[table["stage"] == "absent", "n_images"] = 0
    words = " | ".join(shown(figures.flow(table[table["stage"] != "external"], subsets)))
    assert "n = 20 lesions" in words and "n = 6,001 images" in words
    assert "not in the table" not in words and "external" not in words and "Split by image" not in words


def test_no_two_labels_overlap(all_drawings):
    for name, drawings in all_drawings.items():
        for drawing in drawings:
            boxes = [(text.get_window_extent(), text.get_text()) for text in texts_of(drawing)]
            for (one, a), (other, b) in itertools.combinations(boxes, 2):
                width = min(one.x1, other.x1) - max(one.x0, other.x0)
                height = min(one.y1, other.y1) - max(one.y0, other.y0)
                assert width <= 1.5 or height <= 1.5, (name, a, b)


def test_figures_say_how_many(all_drawings):
    """Every figure with data gives its n."""
    for name, drawings in all_drawings.items():
        if name == "cnn_operations" or name.startswith(("transfer", "contrast")):
            continue
        for drawing in drawings[::2] if name.startswith(("effects", "external")) else drawings:  # n stands at the left
            assert any(re.search(r"n\s?=\s?", text.get_text()) for text in texts_of(drawing)), name


def test_svg_is_inline_deterministic_and_its_ids_are_its_own(metadata):
    labels = Labels("en")
    again = drawn(labels, metadata)
    seen = set()
    for name, drawings in drawn(labels, metadata).items():
        for place, drawing in enumerate(drawings):
            svg = figures.to_svg(drawing, f"{name}-{place}")
            root = ElementTree.fromstring(svg)
            ids = [element.get("id") for element in root.iter() if element.get("id")]
            assert len(ids) == len(set(ids)) and not seen & set(ids)
            seen |= set(ids)
            used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
            assert {a or b for a, b in used} <= set(ids)
            assert not re.search(r"<style|<!--|<metadata|<script|style=|20\d\d-\d\d", svg)
            assert "viewBox" in root.attrib
            assert svg == figures.to_svg(again[name][place], f"{name}-{place}")
    first = figures.to_svg(figures.class_balance(class_table(metadata), labels))
    shuffled = class_table(metadata.sample(frac=1, random_state=1))
    assert first == figures.to_svg(figures.class_balance(shuffled, labels))


def test_class_balance_writes_the_counts(metadata):
    drawing = figures.class_balance(class_table(metadata))
    shown = {text.get_text() for text in texts_of(drawing)}
    for dx in CLASSES:
        part = metadata[metadata["dx"] == dx]
        assert {str(len(part)), str(part["lesion_id"].nunique())} <= shown
    assert any(str(metadata["lesion_id"].nunique()) in text and str(len(metadata)) in text for text in shown)


def test_confusion_matrix_writes_counts_and_shares():
    shown = [text.get_text() for text in texts_of(figures.confusion_matrix(confusion_rows()))]
    assert shown.count("1,300") == 7 and shown.count("100%") == 7
    assert shown.count("0.3") == 42


def test_confusion_matrix_leaves_absent_diagnoses_empty():
    table = confusion_rows()
    table.loc[table["dx"] == "df", ["n_images", "share"]] = [0.0, np.nan]
    shown = [text.get_text() for text in texts_of(figures.confusion_matrix(table))]
    assert shown.count("100%") == 6 and "nan" not in " ".join(shown)


def test_scores_are_ordered_and_written():
    values = {"VGG16": 0.41, "Xception": 0.63, "ResNet50": 0.52, "EfficientNetB7": 0.74}
    (drawing,) = figures.scores(score_rows(values), ["macro_f1"])
    names = [label.get_text() for label in drawing.axes[0].get_yticklabels()]
    assert names == ["VGG16", "ResNet50", "Xception", "EfficientNetB7"]
    assert {"0.410", "0.630", "0.520", "0.740"} <= {text.get_text() for text in texts_of(drawing)}


def test_a_hollow_marker_shows_the_same_backbone_with_random_weights():
    values = {"VGG16": 0.41, "ResNet50": 0.52, "majority": 0.3}
    (drawing,) = figures.scores(beside_control(score_rows(values, names=list(values))), ["macro_f1"])
    found = markers(drawing)
    full, hollow = ([(x, y) for x, y, colour in found if (to_rgb(colour) == (1, 1, 1)) == empty] for empty in (0, 1))
    expected = [pytest.approx(values[name] - (0.01 if name == "VGG16" else 0.2)) for name in ("VGG16", "ResNet50")]
    assert [x for x, _ in hollow] == expected
    assert [round(y + 0.34) for _, y in hollow] == [y for _, y in full][1:]  # in the rows of the backbones alone
    assert {"pretrained on ImageNet", "random weights"} <= {*shown(drawing)}
    assert {f"{x:.3f}" for x, _ in hollow} <= {*shown(drawing)}
    (without,) = figures.scores(score_rows(values, names=list(values)), ["macro_f1"])
    assert all(to_rgb(colour) != (1, 1, 1) for *_, colour in markers(without)) and "random weights" not in shown(
        without
    )


def test_markers_below_show_the_same_backbones_by_other_strategies():
    values, others = {"VGG16": 0.61, "majority": 0.3}, {"feature_extraction": 0.42, "from_scratch": 0.53}
    tables = {name: score_rows({"VGG16": value}, names=["VGG16"]) for name, value in others.items()}
    (drawing,) = figures.scores(
        score_rows(values, names=list(values)), ["macro_f1"], strategy="fine_tuning", others=tables
    )
    of_backbone = [(x, y) for x, y, _ in markers(drawing) if y > 0.4]
    assert [x for x, _ in sorted(of_backbone, key=lambda one: -one[1])] == pytest.approx([0.61, 0.42, 0.53])
    assert {"fine-tuning", "feature extraction", "training from scratch", "0.420", "0.530"} <= {*shown(drawing)}
    colours = [colour for x, _, colour in markers(drawing) if x in (0.61, 0.42, 0.53)]
    assert len({to_rgb(colour) for colour in colours}) == 3


def test_one_backbone_and_one_class_absent_can_be_drawn():
    table = report_rows().query("backbone == 'ResNet50'").copy()
    table.loc[table["row"] == "df", ["f1_score", "support"]] = [np.nan, 0]
    assert figures.to_svg(figures.class_scores(table))
    assert figures.to_svg(figures.scores(score_rows().query("backbone == 'VGG16'"), ["macro_f1"])[0])


# Results ---------------------------------------------------------------------------------------------------------


def shown(drawing):
    """Return what is written in a drawing, line breaks as spaces."""
    return [" ".join(text.get_text().split()) for text in texts_of(drawing)]


def markers(drawing):
    """Return the single markers that are drawn: x, y and the colour inside."""
    lines = [line for line in drawing.axes[0].lines if line.get_marker() not in ("None", "|")]
    lines = [line for line in lines if len(line.get_xdata()) == 1]
    return [(line.get_xdata()[0], line.get_ydata()[0], line.get_markerfacecolor()) for line in lines]


def intervals(drawing):
    """Return the ends of the horizontal strokes without markers, by row."""
    strokes = {}
    for line in drawing.axes[0].lines:
        x, y = line.get_xdata(), line.get_ydata()
        if line.get_marker() == "None" and len(x) == 2 and y[0] == y[1] and x[0] != x[1]:
            strokes[y[0]] = tuple(x)
    return strokes


def row_heights(drawing):
    """Return how far above the lower edge each named row is, in inches."""
    axes = drawing.axes[0]
    return {
        label.get_text(): axes.transData.transform((0, tick))[1] / drawing.dpi
        for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    }


@pytest.mark.parametrize("language", languages())
def test_pseudo_backbones_are_named_in_words(language):
    labels = Labels(language)
    names = {labels(f"backbone.{name}") for name in PSEUDO}
    for name, drawings in drawn_results(labels, ["ResNet50", *PSEUDO]).items():
        text = " ".join(itertools.chain(*map(shown, drawings)))
        assert not re.search(r"majority|metadata|histogram", text), name
        # Figures of one backbone, here the last.
        alone = ("training_curves", "confusion_matrix", "learning_curves", "subgroups")
        assert (labels("backbone.colour_histogram") in text) if name in alone else all(n in text for n in names), name


def test_scores_part_the_kinds_with_baselines_in_grey_at_the_bottom():
    values = {"VGG16": 0.5, "ResNet50": 0.4, "ensemble": 0.45, "majority": 0.6, "colour_histogram": 0.3}
    kinds = {"VGG16": "backbone", "ResNet50": "backbone", "ensemble": "ensemble"}
    table = score_rows(values, names=list(values))
    table["kind"] = table["backbone"].map(kinds).fillna("baseline")
    (drawing,) = figures.scores(table, ["macro_f1"])
    names = [" ".join(label.get_text().split()) for label in drawing.axes[0].get_yticklabels()]
    assert names == ["colours only", "most frequent diagnosis", "ResNet50", "VGG16", "ensemble"]
    drawn_at = {y: colour for _, y, colour in markers(drawing)}
    assert len({to_rgb(drawn_at[place]) for place in (0, 1)}) == 1
    red, green, blue = to_rgb(drawn_at[0])
    assert red == green == blue
    parts = [line for line in drawing.axes[0].lines if list(line.get_xdata()) == [0, 1]]
    assert sorted(int(np.floor(line.get_ydata()[0])) for line in parts) == [1, 3]
    (drawing,) = figures.scores(table.drop(columns="kind"), ["macro_f1"])
    assert drawing.axes[0].get_yticklabels()[-1].get_text().split()[0] == "most"


def roc_rows(curves, auc=0.8125, low=0.7, high=0.9):
    """ROC points of one backbone (lists of false and true positive rates, by seed) and its decisions."""
    tables = []
    for seed, (false, true) in curves.items():
        names = {"backbone": "VGG16", "decision": "melanoma", "seed": seed, "threshold": 0.5}
        tables.append(pd.DataFrame({"false_positive_rate": false, "true_positive_rate": true, **names}))
    cells = {("any", "roc_auc"): auc, ("diagnosis", "tested"): 20}
    cells |= {("sensitivity_95", "sensitivity"): 0.9, ("sensitivity_95", "specificity"): 0.7}
    rows = [
        {"backbone": "VGG16", "decision": "melanoma", "seed": "all", "point": point, "metric": metric, "value": value}
        for (point, metric), value in cells.items()
    ]
    return pd.concat(tables), pd.DataFrame(rows).assign(ci_low=low, ci_high=high, n_lesions=310)


def test_roc_is_the_mean_of_the_seeds_true_positive_rates():
    points, decisions = roc_rows({"1": ([0, 0, 1], [0, 0.5, 1]), "2": ([0, 0.5, 0.5, 1], [0, 0.5, 0.75, 1])})
    drawing = figures.roc(points, decisions)
    curve = max(drawing.axes[0].lines, key=lambda line: len(line.get_xdata()))
    x, y = np.array(curve.get_xdata()), np.array(curve.get_ydata())
    assert (x[0], y[0]) == (0, 0) and (x[-1], y[-1]) == (1, 1)
    at = {rate: y[np.flatnonzero(np.isclose(x, rate))[-1]] for rate in (0, 0.25, 0.5, 0.75)}
    assert at == pytest.approx({0: 0.25, 0.25: (0.625 + 0.25) / 2, 0.5: 0.75, 0.75: (0.875 + 0.875) / 2})
    assert (0.3, 0.9) in [(round(x, 9), y) for x, y, _ in markers(drawing)]
    assert "VGG16: 0.812 (0.700–0.900)" in shown(drawing)
    assert any("n = 310 different lesions, seeds: 2, 20 melanomas per seed" in text for text in shown(drawing))
    french = shown(figures.roc(points, decisions, Labels("fr")))
    assert any("per lesion" in text for text in shown(drawing)) and any("par lésion" in text for text in french)
    assert "VGG16 : 0,812 (0,700–0,900)" in french and any("310 lésions" in text for text in french)


def test_roc_draws_the_selected_backbone_on_top():
    points, decisions = roc_rows({"1": ([0, 0.5, 1], [0, 0.9, 1])})
    other = {"backbone": "ResNet50"}
    points, decisions = (pd.concat([table, table.assign(**other)]) for table in (points, decisions))
    for selected in ("VGG16", "ResNet50"):
        drawing = figures.roc(points, decisions, selected=selected)
        lines = [line for line in drawing.axes[0].lines if len(line.get_xdata()) > 100]
        top = max(lines, key=lambda line: line.get_zorder())
        assert (
            top.get_color() == figures.backbone_style(selected)[0] and len({line.get_zorder() for line in lines}) == 2
        )


def test_roc_without_interval_threshold_and_second_seed():
    points, decisions = roc_rows({"1": ([0, 0.5, 1], [0, 0.9, 1])}, low=np.nan, high=np.nan)
    drawing = figures.roc(points, decisions[decisions["point"] != "sensitivity_95"])
    assert "VGG16: 0.812" in shown(drawing) and not any("threshold" in text for text in shown(drawing))
    assert len(markers(drawing)) == 1  # what tells the curves apart where no operating point does


def operating_rows(ends=True):
    cells = {
        ("diagnosis", "missed"): (12 + 1 / 3, 8, 17.5),
        ("sensitivity_95", "missed"): (3, 1, 6.5),
        ("diagnosis", "flagged_benign_share"): (0.04, 0.03, 0.05),
        ("sensitivity_95", "flagged_benign_share"): (0.366, 0.33, 0.4),
        ("diagnosis", "flagged_benign"): (8, 6, 10),
        ("sensitivity_95", "flagged_benign"): (73.2, 66, 80),
    }
    for point in ("diagnosis", "sensitivity_95"):
        cells |= {(point, "tested"): (20, np.nan, np.nan), (point, "benign"): (200, np.nan, np.nan)}
    columns = ["value", "ci_low", "ci_high"]
    rows = [dict(zip(["point", "metric", *columns], (*key, *values), strict=True)) for key, values in cells.items()]
    table = pd.DataFrame(rows).assign(backbone="ResNet50", decision="malignant", seed="all", n_lesions=20)
    return table if ends else table.assign(ci_low=np.nan, ci_high=np.nan)


def test_operating_points_write_what_is_missed_and_flagged():
    missed, flagged = figures.operating_points(operating_rows())
    assert {"12.3 (62%)", "3.0 (15%)"} <= set(shown(missed)) and {"4% (8)", "37% (73)"} <= set(shown(flagged))
    assert {round(x, 6) for x, _, _ in markers(missed)} == {12.333333, 3}
    assert {x for x, _, _ in markers(flagged)} == {0.04, 0.366}
    assert set(intervals(missed).values()) == {(8, 17.5), (1, 6.5)}
    assert set(intervals(flagged).values()) == {(0.03, 0.05), (0.33, 0.4)}
    hollow = [x for x, _, face in markers(missed) if to_rgb(face) == (1, 1, 1)]
    assert len(hollow) == 1 and round(hollow[0]) == 12  # the point `diagnosis`
    assert any(
        "malignant or in situ/premalignant lesions missed number and share, n = 20 per seed" in text
        for text in shown(missed)
    )
    assert any("n = 200 per seed" in text for text in shown(flagged))
    missed, flagged = figures.operating_points(operating_rows(), Labels("fr"))
    assert {"12,3 (62 %)", "3,0 (15 %)"} <= set(shown(missed)) and "37 % (73)" in shown(flagged)


def test_operating_points_without_intervals_and_with_one_point():
    table = operating_rows(ends=False)
    missed, _ = figures.operating_points(table[table["point"] == "diagnosis"])
    assert intervals(missed) == {} and len(markers(missed)) == 1
    assert "12.3 (62%)" in shown(missed) and not any("threshold" in text for text in shown(missed))


def test_effects_show_both_values_and_the_difference_in_level_rows():
    table = effect_rows()
    values, difference = figures.effects(table)
    for drawing in (values, difference):
        FigureCanvasAgg(drawing).draw()
    assert row_heights(values) == pytest.approx(row_heights(difference), abs=0.02)
    assert list(row_heights(values)) == BACKBONE_NAMES  # the largest value at the top
    row = table.iloc[0]
    assert {"0.450", "0.399"} <= set(shown(values)) and {"+0.051", "0.000"} <= set(shown(difference))
    assert {(round(x, 3), y) for x, y, _ in markers(values)} >= {(0.45, 0), (0.399, 0)}
    faces = {round(x, 3): to_rgb(face) for x, y, face in markers(values) if y == 0}
    assert faces[0.399] == (1, 1, 1) != faces[0.45]
    assert intervals(difference)[0] == (row["ci_low"], row["ci_high"])
    zero = [line for line in difference.axes[0].lines if list(line.get_xdata()) == [0, 0]]
    assert len(zero) == 1
    assert any("test lesions also in training minus test lesions not in training" in text for text in shown(difference))
    assert "−0,019" not in shown(difference) and "+0,051" in shown(figures.effects(table, Labels("fr"))[1])


def test_effects_without_intervals():
    _, difference = figures.effects(effect_rows(["VGG16"]).assign(ci_low=np.nan, ci_high=np.nan))
    assert intervals(difference) == {} and "+0.051" in shown(difference)


def test_external_draws_the_winners_beside_balanced_accuracy_alone():
    drawings = figures.external(external_rows(), winners=0.885)
    assert len(drawings) == 4
    lines = [[line for line in drawing.axes[0].lines if list(line.get_xdata()) == [0.885] * 2] for drawing in drawings]
    assert [len(found) for found in lines] == [1, 0, 0, 0]
    assert "winners of the challenge: 0.885" in shown(drawings[0])
    assert drawings[0].axes[0].get_xlim()[1] > 0.885
    assert {"0.700", "0.610"} <= set(shown(drawings[0])) and "−0.090" in shown(drawings[1])
    faces = {x: to_rgb(face) for x, y, face in markers(drawings[0]) if y == 3}
    assert faces[0.7] == (1, 1, 1) != faces[0.61]
    without = figures.external(external_rows(["VGG16"]).query("metric == 'balanced_accuracy'"))
    assert len(without) == 2 and not any("winners" in text for text in shown(without[0]))


def test_learning_curves_have_a_panel_per_backbone_and_a_line_per_strategy():
    table = curve_rows(["VGG16", "ResNet50"])
    drawings = figures.learning_curves(table)
    assert [drawing.axes[0].get_title() for drawing in drawings] == ["VGG16", "ResNet50"]
    for drawing in drawings:
        (axes,) = drawing.axes
        assert axes.get_xscale() == "log"
        assert [line.get_label() for line in axes.lines] == [Labels("en")(f"strategy.{name}") for name in STRATEGIES]
        for line, strategy in zip(axes.lines, STRATEGIES, strict=True):
            own = table[(table["strategy"] == strategy) & (table["backbone"] == axes.get_title())]
            np.testing.assert_allclose(line.get_ydata(), own["value"])
            np.testing.assert_allclose(line.get_xdata(), own["n_lesions"], rtol=0.1)
        ends = [segment[:, 1] for bars in axes.collections for segment in bars.get_segments()]
        assert len(ends) == 15 and np.ptp(ends, axis=1) == pytest.approx(0.12)


def test_learning_curves_leave_out_numbers_without_room_but_never_the_last():
    (drawing,) = figures.learning_curves(curve_rows(sizes=(100, 900, 950, 1000), strategies=["from_scratch"]))
    FigureCanvasAgg(drawing).draw()
    shown = [text for text in texts_of(drawing) if text.get_text() in ("100", "900", "950", "1,000")]
    assert {text.get_text() for text in shown} == {"100", "1,000"}


def test_rank_changes_put_the_best_on_top_at_both_ends():
    values = {"VGG16": (0.4, 0.5, 2, 1), "Xception": (0.6, 0.45, 1, 2), "ResNet50": (0.3, 0.45, 3, 2)}
    rows = [
        {"backbone": backbone, "factor": "preprocessing", "metric": "macro_f1", "level_a": "unit", "level_b": "native"}
        | {"n_images_a": 1511, "n_images_b": 1490}
        | dict(zip(("value_a", "value_b", "rank_a", "rank_b"), numbers, strict=True))
        for backbone, numbers in values.items()
    ]
    drawing = figures.rank_changes(pd.DataFrame(rows))
    ends = sorted(drawing.axes[0].texts, key=lambda text: (text.get_position()[0] > 0.5, -text.get_position()[1]))
    left = ["1. Xception 0.600", "2. VGG16 0.400", "3. ResNet50 0.300"]
    assert [text.get_text() for text in ends] == [*left, "1. VGG16 0.500", "2. ResNet50 0.450", "2. Xception 0.450"]
    starts = {tuple(line.get_ydata()) for line in drawing.axes[0].lines}
    assert starts == {(2, 3), (3, 1), (1, 2)}
    for name, size in (("scaling to −1…1", "1,511"), ("native scaling", "1,490")):
        assert f"{name} n = {size} test images" in shown(drawing)


def test_split_spread_writes_mean_deviation_and_extremes():
    table = spread_rows(["VGG16", "majority"], n_splits=5)
    drawing = figures.split_spread(table, Labels("fr"))
    for backbone, part in table.groupby("backbone"):
        values = list(part["value"])
        numbers = [statistics.mean(values), statistics.stdev(values), min(values), max(values)]
        wanted = [f"{value:.3f}".replace(".", ",") for value in numbers]
        assert any(re.findall(r"\d,\d{3}", text) == wanted for text in shown(drawing)), backbone
    dots = [line for line in drawing.axes[0].lines if len(line.get_xdata()) == 5]
    assert sorted(np.concatenate([line.get_xdata() for line in dots])) == sorted(table["value"])
    assert any("n = 5 découpages, 2 003 images" in text for text in shown(drawing))


def test_split_spread_of_one_split_has_no_deviation():
    text = shown(figures.split_spread(spread_rows(["VGG16"], n_splits=1)))
    assert not any("SD" in part or "nan" in part for part in text)
    assert any(re.fullmatch(r"0\.\d{3}", part) for part in text)


def test_subgroups_are_grouped_and_say_which_allow_a_conclusion():
    table = subgroup_rows()
    drawing = figures.subgroups(table.sample(frac=1, random_state=2), ENGLISH, 0.6, "Xception", "macro_f1")
    axes, right = drawing.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    headings = ["sex", "age (years)", "body site", "how diagnosed"]
    bold = [label.get_text() for label in axes.get_yticklabels() if label.get_fontweight() == "bold"]
    assert bold == headings
    ages = names[names.index("age (years)") + 1 : names.index("body site")]
    assert ages == ["0–29", "30–44", "45–59", "60–74", "75 and over", "unknown"]
    sites = names[names.index("body site") + 1 : names.index("how diagnosed")]
    sizes = table.set_index("subgroup")["n_lesions"]
    order = sizes[[f"site={name}" for name in SUBGROUPS["site"] if name != "unknown"]].sort_values(ascending=False)
    assert sites == [*order.index.str.removeprefix("site="), "unknown"]
    found = {round(y): (x, to_rgb(face)) for x, y, face in markers(drawing)}
    heights = dict(zip(axes.get_yticks(), names, strict=True))
    numbers = dict(zip(right.get_yticks(), [label.get_text() for label in right.get_yticklabels()], strict=True))
    female = table.set_index("subgroup").loc["sex=female"]
    (place,) = [place for place, name in heights.items() if name == "female"]
    assert found[place][0] == female["value"] and numbers[place] == str(female["n_lesions"])
    assert len(found) == len(table)
    assert sum(face == (1, 1, 1) for _, face in found.values()) == (~table["conclusive"]).sum() > 0
    assert [line.get_xdata()[0] for line in axes.lines if list(line.get_xdata()) == [0.6, 0.6]] == [0.6]
    assert "all test images: 0.600" in shown(drawing)


def test_subgroups_without_interval():
    table = subgroup_rows().assign(ci_low=np.nan, ci_high=np.nan, conclusive=False)
    drawing = figures.subgroups(table.iloc[:2], ENGLISH, 0.6, "VGG16", "recall_mel")
    assert intervals(drawing) == {} and len(markers(drawing)) == 2
    assert any(text.startswith("recall of melanoma") for text in shown(drawing))


def test_published_classes_write_the_difference_of_each_diagnosis():
    table = report_rows(["VGG16", "ConvNeXtTiny"]).assign(f1_score=0.5, published_f1_score=0.25)
    table.loc[table["row"] == "df", ["f1_score", "support"]] = [np.nan, 0]  # no test image
    table.loc[table["row"] == "mel", ["support", "published_support", "published_f1_score"]] = [223, 221, 0.6]
    table.loc[table["row"] == "vasc", "published_f1_score"] = np.nan
    table.loc[table["backbone"] == "ConvNeXtTiny", "published_f1_score"] = np.nan  # nothing was published of it
    (drawing,) = figures.published_classes(table)
    text = shown(drawing)
    assert "VGG16" in text and text.count("+0.25") == 4 and text.count("−0.10") == 1
    assert "melanoma (mel, n = 223 | 221)" in text and "nan" not in " ".join(text)
    assert len(drawing.axes[0].get_yticklabels()) == len(CLASSES)


def test_calibration_leaves_empty_bins_out_and_marks_full_ones_larger():
    table = calibration_rows(["VGG16", "Xception"])
    drawing = figures.calibration(table, ece={"VGG16": 0.0214})
    areas = drawing.axes[0].collections[0]
    part = table[(table["backbone"] == "VGG16") & (table["n_images"] > 0)]
    assert np.allclose(areas.get_offsets(), part[["confidence", "accuracy"]])
    order = np.argsort(part["n_images"].to_numpy(), kind="stable")
    assert (np.diff(areas.get_sizes()[order]) >= 0).all() and np.ptp(areas.get_sizes()) > 0
    text = shown(drawing)
    assert "VGG16: ECE 0.021" in text and "Xception" in text
    assert any("n = 2,003 test images" in line for line in text)


# Example pictures ------------------------------------------------------------------------------------------------


def test_risk_coverage_has_a_line_per_score_and_ends_at_the_error():
    drawing = figures.risk_coverage(*abstention_rows(CONFIDENCES[:2]))
    (axes,) = drawing.axes
    *lines, at_random = axes.lines
    assert len(lines) == 2
    assert all(line.get_ydata()[-1] == pytest.approx(0.22) for line in lines)
    assert at_random.get_xydata().tolist() == [[0, 0], [1, 0.22]]
    texts = [text.get_text() for text in texts_of(drawing)]
    assert "largest probability: 0.050 (0.047–0.095)" in texts and "entropy: 0.060 (0.047–0.095)" in texts


def test_prediction_sets_mark_the_nominal_coverage_and_leave_absent_diagnoses_empty():
    coverage, size = figures.prediction_sets(set_rows(datasets=("isic2018", "internal")))
    assert any(set(line.get_xdata()) == {COVERAGE} for line in coverage.axes[0].lines)
    for drawing in (coverage, size):
        markers = [line for line in drawing.axes[0].lines if line.get_marker() not in ("None", None)]
        assert len(markers) == 2 * 7  # of eight rows one has no lesion
        assert sum(line.get_markerfacecolor() == "white" for line in markers) == 7
    texts = [text.get_text() for text in texts_of(coverage)]
    assert texts.count("95%") == 1 and "vasc (0)" in texts


def test_examples_are_of_different_lesions_and_do_not_depend_on_row_order(metadata):
    chosen = figures.choose_examples(metadata, 5)
    assert list(chosen) == list(CLASSES)
    table = metadata.set_index("image_id")
    for dx, ids in chosen.items():
        assert (table.loc[ids, "dx"] == dx).all() and len(ids) == 5
        assert table.loc[ids, "lesion_id"].is_unique
    assert chosen == figures.choose_examples(metadata.sample(frac=1, random_state=3), 5)


def test_example_pictures_show_the_right_rows(metadata):
    import base64
    import io

    from PIL import Image

    ids = sorted(metadata["image_id"])
    pixels = np.zeros((len(ids), 16, 16, 3), np.uint8)
    pixels[:] = (np.arange(len(ids)) % 200)[:, None, None, None]
    images = SimpleNamespace(ids=ids, pixels=pixels)
    for pictures in figures.example_pictures(images, metadata, 3).values():
        for image_id, uri in pictures:
            picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
            assert picture.size == (160, 120)
            assert abs(np.asarray(picture).mean() - ids.index(image_id) % 200) < 2
    assert "image/png" in figures.example_grid(images, metadata, n_examples=2)._repr_mimebundle_()


# Colours ---------------------------------------------------------------------------------------------------------


def _luminance(colour):
    channels = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(channels, [0.2126, 0.7152, 0.0722]))


# Machado, Oliveira and Fernandes (2009), severity 1, in linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_diagnoses_can_be_told_apart_by_colour(deficiency):
    seen = {}
    for dx, colour in figures.DIAGNOSES.items():
        linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)])
        linear = np.clip(np.asarray(DEFICIENCIES[deficiency]) @ linear, 0, 1)
        seen[dx] = _lab(linear)
    assert list(seen) == list(CLASSES)
    nearest = min(np.linalg.norm(seen[a] - seen[b]) for a, b in itertools.combinations(seen, 2))
    assert nearest > 10  # CIELAB; about 2 is just noticeable


def _lab(linear):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_words_on_colours_can_be_read():
    for colour in itertools.product(np.linspace(0, 1, 9), repeat=3):
        found = _luminance(ink_on(colour)), _luminance(colour)
        assert (max(found) + 0.05) / (min(found) + 0.05) >= 4.49  # WCAG AA
    assert ink_on("white") == INK and ink_on("black") == "white"
    for colour in (INK, SOFT, GREY, LEARNED_TEXT, NEW_TEXT):
        assert contrast_of(colour, "white") == pytest.approx(1.05 / (_luminance(colour) + 0.05), abs=0.01)
        assert contrast_of(colour, "white") >= 4.5


@pytest.mark.parametrize("file", sorted((ROOT / "skin_tl/reporting/figures").glob("*.py")), ids=lambda file: file.stem)
def test_colours_are_named_in_one_place(file):
    source = file.read_text(encoding="utf-8")
    assert not re.search(r"#[0-9a-fA-F]{6}\b|set_theme|rcParams", source)


def test_backbones_have_colours_to_be_read_on_white_and_markers_of_their_own():
    styles = [figures.backbone_style(name) for name in [*BACKBONES, *PSEUDO]]
    assert len(set(styles)) == len(styles) == len({marker for _, marker in styles})
    for colour, _ in styles:
        assert 1.05 / (_luminance(colour) + 0.05) >= 3  # WCAG 2, graphical objects
    assert figures.backbone_style("SomethingNew")
