"""Baselines: they learn what they are shown, and nothing of the test subset."""

import numpy as np
import pandas as pd
import pytest

from skin_tl.data.splits import draw_splits
from skin_tl.evaluation.metrics import point_metrics
from skin_tl.evaluation.predictions import check_predictions
from skin_tl.models import baselines
from skin_tl.schema import CLASSES, PROBABILITIES


@pytest.fixture(scope="module")
def study():
    """Return metadata whose body site and whose images' colour each go with the diagnosis, splits and images."""
    rng = np.random.default_rng(0)
    rows, images = [], []
    for code, dx in enumerate(CLASSES):
        for number in range(30 if dx == "nv" else 12):
            for view in range(1 + number % 2):
                site = f"site {code}" if number % 4 else "back"
                age = np.nan if number == 1 else 5.0 * code
                rows.append((f"L{code}_{number}", f"I{code}_{number}_{view}", dx, age, "male", site))
                images.append(np.clip(rng.normal([30 * code, 120, 255 - 30 * code], 20, (12, 12, 3)), 0, 255))
    columns = ["lesion_id", "image_id", "dx", "age", "sex", "localization"]
    metadata = pd.DataFrame(rows, columns=columns)
    return metadata, draw_splits(metadata, ["lesion"], [1]), np.array(images).astype(np.uint8)


@pytest.fixture(scope="module")
def predicted(study):
    metadata, splits, images = study
    return {
        "majority": baselines.majority(metadata, splits),
        "metadata_only": baselines.metadata_only(metadata, splits),
        "colour_histogram": baselines.colour_histogram(metadata, splits, images, metadata["image_id"]),
    }


def macro_f1(table):
    return point_metrics(table[table["subset"] == "test"], ["confusion"])["macro_f1", "all"]


def test_predictions_are_a_runs_predictions(study, predicted):
    _, splits, _ = study
    for table in predicted.values():
        check_predictions(table, splits)
        wanted = splits[splits["subset"] != "train"]
        assert len(table) == len(wanted) and set(table["subset"]) == {"val", "test"}


def test_majority_predicts_the_training_shares(study, predicted):
    metadata, splits, _ = study
    train = splits[splits["subset"] == "train"]
    shares = metadata.set_index("image_id").loc[train["image_id"], "dx"].value_counts(normalize=True)
    rows = predicted["majority"]
    np.testing.assert_allclose(rows[PROBABILITIES], np.tile(shares[list(CLASSES)], (len(rows), 1)))


def test_metadata_and_colours_tell_what_goes_with_them(study, predicted):
    metadata, splits, images = study
    floor = macro_f1(predicted["majority"])
    assert macro_f1(predicted["metadata_only"]) > floor + 0.3
    assert macro_f1(predicted["colour_histogram"]) > floor + 0.5
    grey = np.full_like(images, 128)
    assert macro_f1(baselines.colour_histogram(metadata, splits, grey, metadata["image_id"])) == pytest.approx(floor)


def test_order_of_rows_and_images_changes_nothing(study, predicted):
    metadata, splits, images = study
    order = np.random.default_rng(1).permutation(len(metadata))
    again = metadata.iloc[order]
    shuffled = splits.sample(frac=1, random_state=1)
    for name, table in (
        ("metadata_only", baselines.metadata_only(again, shuffled)),
        ("colour_histogram", baselines.colour_histogram(again, shuffled, images[order], again["image_id"])),
    ):
        pd.testing.assert_frame_equal(check_predictions(predicted[name]), check_predictions(table))


def test_labels_of_test_images_are_not_used(study, predicted):
    metadata, splits, _ = study
    tested = metadata["image_id"].isin(splits.loc[splits["subset"] == "test", "image_id"])
    other = baselines.metadata_only(metadata.assign(dx=metadata["dx"].where(~tested, "mel")), splits)
    pd.testing.assert_frame_equal(predicted["metadata_only"][PROBABILITIES], other[PROBABILITIES])


def test_colour_histograms_count_pixels():
    images = np.zeros((70, 4, 4, 3), np.uint8)
    images[1, :2] = 255
    histograms = baselines.colour_histograms(images, levels=2)
    assert histograms.shape == (70, 8)
    np.testing.assert_allclose(histograms[1] ** 2, [0.5, 0, 0, 0, 0, 0, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose((histograms**2).sum(1), 1, atol=1e-6)
