"""Near-duplicates: changed copies are found whatever their patient data, and splits keep both on one side."""

import io
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

from skin_tl import schema
from skin_tl.data import duplicates, preparation
from skin_tl.data.dataset import open_dataset
from skin_tl.data.images import decode
from skin_tl.data.splits import draw_splits
from skin_tl.study import check_study


def _jpeg(image, quality=60):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


CHANGES = {
    "JPEG": _jpeg,
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.05),
    "resized": lambda image: image.resize((150, 112)).resize(image.size),
    "cropped": lambda image: image.crop((3, 3, image.width - 3, image.height - 3)),
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The pixels and metadata of the synthetic data set, sorted by image id."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIN_TL_CACHE", str(tmp_path_factory.mktemp("cache")))
        study = check_study(
            {"name": "drawn", "title": "Drawn", "dataset": "synthetic", "backbones": ["MobileNetV2"], "seeds": [1]}
        )
        data = open_dataset(study)
        return np.array(decode(data.files, 224).pixels), data.metadata.sort_values("image_id", ignore_index=True)


def _with_copies(pixels, metadata, n=4):
    """Return both with changed copies of some images, under lesion ids of their own and with another patient's data."""
    lesions = metadata.drop_duplicates("lesion_id")
    chosen = lesions.groupby("dx").head(n).index.to_numpy()
    copies = metadata.loc[chosen].assign(
        image_id="copy_" + metadata["image_id"], lesion_id="copy_" + metadata["lesion_id"], age=3.0, sex="unknown"
    )
    changes = np.resize(list(CHANGES), len(chosen))
    changed = [
        np.asarray(CHANGES[name](Image.fromarray(pixels[row])).resize((224, 224)))
        for name, row in zip(changes, chosen, strict=True)
    ]
    return np.concatenate([pixels, changed]), pd.concat([metadata, copies], ignore_index=True)


def test_changed_copies_under_other_lesions_are_found_and_nothing_else(drawn):
    pixels, metadata = drawn
    assert duplicates.near_duplicates(pixels, metadata).empty
    pixels, metadata = _with_copies(pixels, metadata)
    pairs = duplicates.near_duplicates(pixels, metadata)
    assert pairs.columns.tolist() == schema.PAIR_COLUMNS
    ids = np.sort(pairs[["lesion_id", "nearest_lesion_id"]].to_numpy(), axis=1)
    copied = metadata.loc[metadata["lesion_id"].str.startswith("copy_"), "lesion_id"]
    assert {frozenset(pair) for pair in ids} == {frozenset((name, name.removeprefix("copy_"))) for name in copied}
    assert not pairs["same_patient_data"].any() and (pairs["dx"] == pairs["nearest_dx"]).all()
    order = np.random.default_rng(0).permutation(len(metadata))
    again = duplicates.near_duplicates(pixels[order], metadata.loc[order])
    assert {frozenset(pair) for pair in again[["lesion_id", "nearest_lesion_id"]].to_numpy()} == {
        frozenset(pair) for pair in ids
    }


def test_what_resembles_less_counts_where_the_patient_data_agree(drawn):
    pixels, metadata = drawn
    lesions = metadata["lesion_id"].factorize()[0]
    values = duplicates.descriptors(pixels)
    rows, ratio = duplicates.nearest_of_other_lesions(values, values, lesions, lesions)
    row = int(np.argmin(ratio))
    assert duplicates.RATIO < ratio[row] < duplicates.RATIO_SAME_PATIENT
    table = metadata.copy()
    table.loc[row, duplicates.PATIENT_DATA] = table.loc[rows[row], duplicates.PATIENT_DATA]
    pairs = duplicates.near_duplicates(pixels, table)
    assert pairs["image_id"].tolist() == [table["image_id"][row]] and pairs["same_patient_data"].all()


def test_images_of_one_lesion_are_no_pair():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (3, 40, 40, 3), np.uint8)
    table = pd.DataFrame({"image_id": ["a", "b", "c"], "lesion_id": "L", "dx": "nv", "age": 1.0, "sex": "male"})
    assert duplicates.near_duplicates(pixels, table.assign(localization="back")).empty


def test_the_descriptor_of_an_edge_is_in_its_direction():
    """By hand: a step from dark to light along x has gradients of direction 0, and along −y of three quarters of 2π."""
    across = np.zeros((1, 56, 56, 3), np.uint8)
    across[:, :, 28:] = 200
    for pixels, direction in ((across, 0), (across.transpose(0, 2, 1, 3), 2), (255 - across, 4)):
        found = duplicates.descriptors(np.ascontiguousarray(pixels)).reshape(4, 4, 8)
        assert found.sum((0, 1)).argmax() == direction
        assert np.delete(found, direction, axis=2).max() == pytest.approx(0, abs=1e-3)
    # Two of the 14 columns of a cell's side, each with half the step: 200 / 2 × 1 / 14.
    assert duplicates.descriptors(across).reshape(4, 4, 8)[:, 1, 0] == pytest.approx(np.sqrt(200 / 2 / 14), rel=1e-5)


@pytest.mark.parametrize("grouped", [True, False])
def test_a_study_groups_near_duplicates_and_lists_them(small_study, tmp_path, grouped):
    folder = tmp_path / "HAM10000"
    table = pd.read_csv(folder / "HAM10000_metadata.csv")
    copies = table.groupby("dx").head(1)
    for name in copies["image_id"]:
        _jpeg(Image.open(folder / f"{name}.png"), 95).save(folder / f"{name}9.jpg", quality=95)
    more = copies.assign(image_id=copies["image_id"] + "9", lesion_id=copies["lesion_id"] + "9", age=10.0)
    pd.concat([table, more]).to_csv(folder / "HAM10000_metadata.csv", index=False)
    study = small_study.model_copy(update={"group_near_duplicates": grouped})
    metadata, _ = preparation.prepare_images(study, tmp_path / "runs")
    pairs = pd.read_csv(tmp_path / "runs" / "dataset" / "near_duplicates.csv")
    pairs = pairs.loc[pairs["grouped"] == grouped, ["lesion_id", "nearest_lesion_id"]]
    found = {frozenset(pair) for pair in pairs.to_numpy()}
    assert {frozenset((name, f"{name}9")) for name in copies["lesion_id"]} <= found
    lesion = metadata.set_index("image_id")["lesion_id"]
    assert all((lesion[name] == lesion[f"{name}9"]) == grouped for name in copies["image_id"])
    if grouped:
        subset = draw_splits(metadata, ["lesion"], [1]).set_index("image_id")["subset"]
        assert all(subset[name] == subset[f"{name}9"] for name in copies["image_id"])


def test_on_real_images_changed_copies_are_found_and_few_others():
    folder = os.environ.get("SKIN_TL_TEST_HAM10000")
    if not folder:
        pytest.skip("needs SKIN_TL_TEST_HAM10000")
    from skin_tl.data.dataset import read_folder

    data = read_folder(folder)
    lesions = data.metadata["lesion_id"].drop_duplicates().sample(500, random_state=0)
    table = data.metadata[data.metadata["lesion_id"].isin(lesions)].reset_index(drop=True)
    pictures = [Image.open(data.files[image_id]).convert("RGB").resize((224, 224)) for image_id in table["image_id"]]
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    apart = duplicates.near_duplicates(pixels, table)
    assert len(apart) <= 2
    both, more = _with_copies(pixels, table)
    pairs = duplicates.near_duplicates(both, more)
    assert pairs["lesion_id"].str.cat(pairs["nearest_lesion_id"]).str.contains("copy_").sum() == len(more) - len(table)
