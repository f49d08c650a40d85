"""The synthetic data set: the same bytes from the same seed, HAM10000's layout and shares, siblings that are alike."""

import csv
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skin_tl.data.dataset import read_folder
from skin_tl.data.synthetic import count_images, draw_dataset, draw_lesion, lesions_per_type
from skin_tl.data.synthetic_lesions import TYPES
from skin_tl.schema import CLASSES

SIZE = (80, 60)
LESIONS = 35
N_LESIONS = 240
"""Of the demo's data set."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a small data set, drawn once."""
    return draw_dataset(tmp_path_factory.mktemp("drawn") / "small", LESIONS, seed=3, size=SIZE, workers=1)


@pytest.fixture(scope="module")
def table(folder):
    """Return its table as strings."""
    with open(folder / "HAM10000_metadata.csv", newline="", encoding="utf-8") as stream:
        return pd.DataFrame(list(csv.DictReader(stream)))


@pytest.fixture(scope="module")
def pictures(folder):
    """Return its pictures by image id, (60, 80, 3) float each."""
    return {path.stem: np.asarray(Image.open(path), float) for path in folder.rglob("*.jpg")}


def _bytes(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_types_are_the_diagnoses_of_the_project():
    assert tuple(TYPES) == CLASSES


def test_same_seed_gives_same_bytes_with_any_number_of_workers(folder, tmp_path):
    again = draw_dataset(tmp_path / "again", LESIONS, seed=3, size=SIZE, workers=2)
    assert _bytes(again) == _bytes(folder)


@given(st.integers(35, 3000))
def test_lesions_per_type_add_up_and_leave_no_type_short(n_lesions):
    counts = lesions_per_type(n_lesions)
    assert sum(counts.values()) == n_lesions
    assert min(counts.values()) >= min(10, n_lesions // 7)


def test_shares_of_the_full_set_are_those_of_ham10000():
    lesions = {"bkl": 727, "mel": 614, "bcc": 327, "akiec": 228}  # of 7,470; bcc, akiec, vasc and df are raised to 10
    counts = lesions_per_type(N_LESIONS)
    for dx, count in lesions.items():
        assert counts[dx] / N_LESIONS == pytest.approx(count / 7470, abs=0.02)
    assert counts["df"] == counts["vasc"] == 10
    assert counts["nv"] == N_LESIONS - sum(counts[dx] for dx in CLASSES if dx != "nv") > 0.65 * N_LESIONS


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
def test_full_set_has_about_as_many_pictures_per_lesion_as_ham10000(seed):
    assert count_images(seed=seed) / N_LESIONS == pytest.approx(10015 / 7470, abs=0.12)


def test_folder_has_the_layout_of_ham10000(folder, table):
    assert list(table) == ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    parts = [{path.stem for path in (folder / f"HAM10000_images_part_{k}").iterdir()} for k in (1, 2)]
    assert not parts[0] & parts[1]
    assert abs(len(parts[0]) - len(parts[1])) <= 1
    assert sorted(parts[0] | parts[1]) == sorted(table["image_id"])
    assert table["image_id"].is_unique
    assert "synthetic" in (folder / "ATTRIBUTION.md").read_text(encoding="utf-8").lower()
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}


def test_the_project_reads_the_folder(folder, table):
    data = read_folder(folder, synthetic=True)
    assert len(data.metadata) == len(data.files) == len(table)


def test_metadata_hold_what_ham10000s_may_hold(table):
    assert all(re.fullmatch(r"ISIC_9\d{6}", name) for name in table["image_id"])
    assert all(re.fullmatch(r"HAM_9\d{6}", name) for name in table["lesion_id"])
    assert set(table["dx_type"]) <= {"histo", "follow_up", "consensus", "confocal"}
    assert set(table["sex"]) <= {"male", "female", "unknown"}
    assert set(table["age"]) <= {""} | {f"{age:.1f}" for age in range(0, 90, 5)}
    malignant = table["dx"].isin(["akiec", "bcc", "mel"])
    assert set(table.loc[malignant, "dx_type"]) == {"histo"}


def test_a_lesion_has_one_diagnosis_and_one_patient(table):
    constant = table.groupby("lesion_id")[["dx", "dx_type", "age", "sex", "localization"]].nunique()
    assert (constant == 1).all(axis=None)
    assert table.groupby("lesion_id").size().between(1, 4).all()
    assert table.groupby("lesion_id")["dx"].first().value_counts().to_dict() == lesions_per_type(LESIONS)


def test_image_ids_do_not_tell_the_diagnosis(table):
    rank = table["image_id"].str[5:].astype(int).rank()
    assert abs(np.corrcoef(rank, table["dx"] == "nv")[0, 1]) < 0.4
    assert abs(np.corrcoef(rank, table.index)[0, 1]) < 0.4


def test_pictures_of_one_lesion_are_more_alike_than_pictures_of_two(table, pictures):
    small = {name: np.asarray(picture[::6, ::8]).ravel() for name, picture in pictures.items()}
    names = table["image_id"].tolist()
    lesions = table["lesion_id"].to_numpy()
    values = np.stack([small[name] for name in names])
    distances = np.linalg.norm(values[:, None] - values[None], axis=-1)
    same = (lesions[:, None] == lesions[None]) & ~np.eye(len(names), dtype=bool)
    assert same.any()
    assert distances[same].min() > 0
    assert np.median(distances[same]) < 0.6 * np.median(distances[lesions[:, None] != lesions[None]])


def test_another_seed_gives_other_pictures_and_each_moves_a_bar(folder, tmp_path):
    calls = []
    other = draw_dataset(tmp_path / "set", LESIONS, 4, SIZE, workers=1, on_image=lambda: calls.append(1))
    pictures = {path.read_bytes() for path in other.rglob("*.jpg")}
    assert len(calls) == count_images(LESIONS, 4) == len(pictures)
    assert not pictures & {path.read_bytes() for path in folder.rglob("*.jpg")}


def test_a_failure_leaves_nothing(tmp_path):
    def fail():
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        draw_dataset(tmp_path / "set", 35, size=(16, 12), workers=1, on_image=fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_lesions", [0, 34])
def test_too_few_lesions_are_refused(tmp_path, n_lesions):
    with pytest.raises(ValueError, match="at least 35"):
        draw_dataset(tmp_path / "set", n_lesions)


@pytest.mark.parametrize("dx", CLASSES)
def test_one_picture(dx):
    picture = draw_lesion(dx, np.random.default_rng(1), (120, 90))
    assert picture.shape == (90, 120, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, draw_lesion(dx, np.random.default_rng(1), (120, 90)))
    assert not np.array_equal(picture, draw_lesion(dx, np.random.default_rng(2), (120, 90)))
    assert picture.std() > 5
