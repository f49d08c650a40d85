"""The figures: what they show, in which words and colours, and that nothing of them is cut off."""

import itertools
import re
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from fabricated import fabricate_metadata
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from skin_tl import figures
from skin_tl.backbones import BACKBONES
from skin_tl.study import CLASSES
from skin_tl.texts import Labels, languages

BACKBONE_NAMES = ["VGG16", "Xception", "ResNet50", "EfficientNetB7"]
SCORES = ["accuracy", "balanced_accuracy", "macro_f1"]


@pytest.fixture(scope="module")
def metadata():
    return fabricate_metadata(np.random.default_rng(0))


def score_rows(values=None, n_seeds=3):
    """Scores of four backbones as ``scores.csv`` has them."""
    rng = np.random.default_rng(0)
    rows = []
    for metric, backbone in itertools.product(SCORES, BACKBONE_NAMES):
        value = rng.uniform(0.3, 0.9) if values is None else values[backbone]
        row = {"metric": metric, "backbone": backbone, "value": value, "ci_low": value - 0.08, "ci_high": value + 0.08}
        row |= {"seed_min": value - 0.03, "seed_max": value + 0.03, "n_seeds": n_seeds, "n_images": 2003}
        rows.append(row)
    table = pd.DataFrame(rows)
    if n_seeds == 1:
        table[["seed_min", "seed_max"]] = np.nan
    return table


def report_rows():
    """Classification reports of four backbones as ``classification_reports.csv`` has them."""
    rng = np.random.default_rng(1)
    names = [*CLASSES, "accuracy", "macro_avg", "weighted_avg"]
    rows = [
        {"backbone": b, "row": row, "f1_score": rng.random(), "support": 2003, "published_f1_score": rng.random()}
        for b, row in itertools.product(BACKBONE_NAMES, names)
    ]
    return pd.DataFrame(rows).assign(published_support=2003)


def confusion_rows(largest=1300.0):
    cells = [
        {"backbone": "EfficientNetB7", "dx": dx, "predicted": guess, "n_images": largest if dx == guess else 1 / 3}
        for dx, guess in itertools.product(CLASSES, CLASSES)
    ]
    table = pd.DataFrame(cells)
    return table.assign(share=table["n_images"] / table.groupby("dx")["n_images"].transform("sum"))


def history_rows():
    epochs = np.arange(1, 41)
    parts = [
        pd.DataFrame({"epoch": epochs, "loss": 2 / epochs, "val_loss": 2 / epochs + 0.01 * epochs}).assign(
            split_policy="lesion", preprocessing="native", seed=seed, val_macro_f1=1 - 1 / epochs
        )
        for seed in (1, 2, 3)
    ]
    return pd.concat(parts, ignore_index=True)


def contrast_rows(factor="preprocessing", levels=("unit", "native")):
    values = {"VGG16": (0.40, 0.52), "Xception": (0.55, 0.55), "ResNet50": (0.44, 0.55), "EfficientNetB7": (0.58, 0.54)}
    rows = [
        {"factor": factor, "metric": "macro_f1", "backbone": backbone, "level_a": levels[0], "level_b": levels[1]}
        | {"value_a": a, "value_b": b, "difference": b - a}
        for backbone, (a, b) in values.items()
    ]
    return pd.DataFrame(rows)


def drawn(labels, metadata):
    """Draw every figure of the report, dict of lists of drawings."""
    numbers = {"images": "10,015", "photographs": "1,281,167", "categories": "1,000"}
    made = {
        "cnn_operations": figures.cnn_operations(labels),
        "transfer": figures.transfer(labels, **numbers),
        "class_balance": figures.class_balance(metadata, labels),
        "training_curves": figures.training_curves(history_rows(), labels, title="EfficientNetB7"),
        "scores": figures.scores(score_rows(), SCORES, labels),
        "scores_one_seed": figures.scores(score_rows(n_seeds=1), ["macro_f1"], labels),
        "confusion_matrix": figures.confusion_matrix(confusion_rows(), labels),
        "class_scores": figures.class_scores(report_rows(), labels),
        "published": figures.published(report_rows(), ["accuracy", "macro_avg", "weighted_avg"], labels),
        "contrast": figures.contrast(contrast_rows(), labels),
        "contrast_splits": figures.contrast(contrast_rows("split_policy", ("lesion", "image")), labels),
    }
    return {name: made if isinstance(made, list) else [made] for name, made in made.items()}


@pytest.fixture(scope="module", params=languages())
def all_drawings(request, metadata):
    return drawn(Labels(request.param), metadata)


def texts_of(drawing):
    """Return the texts that are drawn; matplotlib keeps ticks beyond an axis' ends that it does not draw."""
    hidden = set()
    for axes in drawing.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            hidden |= {id(tick.label1) for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    texts = [text for text in drawing.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in texts if id(text) not in hidden]


def test_no_label_is_cut_off(all_drawings):
    for name, drawings in all_drawings.items():
        for drawing in drawings:
            canvas = FigureCanvasAgg(drawing)
            canvas.draw()
            width, height = canvas.get_width_height()
            for text in texts_of(drawing):
                box = text.get_window_extent()
                inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
                assert inside, (name, text.get_text(), box, width, height)


def test_no_two_labels_overlap(all_drawings):
    for name, drawings in all_drawings.items():
        for drawing in drawings:
            FigureCanvasAgg(drawing).draw()
            boxes = [(text.get_window_extent(), text.get_text()) for text in texts_of(drawing)]
            for (one, a), (other, b) in itertools.combinations(boxes, 2):
                width = min(one.x1, other.x1) - max(one.x0, other.x0)
                height = min(one.y1, other.y1) - max(one.y0, other.y0)
                assert width <= 1.5 or height <= 1.5, (name, a, b)


def test_figures_say_how_many(all_drawings):
    """Every figure with data gives its n."""
    for name, drawings in all_drawings.items():
        if name in ("cnn_operations", "transfer") or name.startswith("contrast"):
            continue
        for drawing in drawings:
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
    first = figures.to_svg(figures.class_balance(metadata, labels))
    assert first == figures.to_svg(figures.class_balance(metadata.sample(frac=1, random_state=1), labels))


def test_class_balance_writes_the_counts(metadata):
    drawing = figures.class_balance(metadata)
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


def test_one_backbone_and_one_class_absent_can_be_drawn():
    table = report_rows().query("backbone == 'ResNet50'").copy()
    table.loc[table["row"] == "df", ["f1_score", "support"]] = [np.nan, 0]
    assert figures.to_svg(figures.class_scores(table))
    assert figures.to_svg(figures.scores(score_rows().query("backbone == 'VGG16'"), ["macro_f1"])[0])


# Example pictures ------------------------------------------------------------------------------------------------


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


def test_backbones_have_colours_to_be_read_on_white_and_markers_of_their_own():
    styles = [figures.backbone_style(name) for name in BACKBONES]
    assert len(set(styles)) == len(styles) == len({marker for _, marker in styles})
    for colour, _ in styles:
        assert 1.05 / (_luminance(colour) + 0.05) >= 3  # WCAG 2, graphical objects
    assert figures.backbone_style("SomethingNew")
