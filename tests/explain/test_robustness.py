"""Changed test images: corruptions, masks, artefacts, and what is predicted for them."""

import itertools

import numpy as np
import pandas as pd
import pytest
from fabricated import fabricate
from PIL import Image
from scipy.ndimage import distance_transform_edt
from sklearn.linear_model import LogisticRegression

from skin_tl.data import synthetic, synthetic_skin
from skin_tl.data.corruptions import CORRUPTIONS, SEVERITIES
from skin_tl.data.releases import find_masks
from skin_tl.data.shortcuts import ARTEFACTS, MASKS, lesion_mask, otsu_threshold, read_mask, with_artefact
from skin_tl.data.synthetic_lesions import TYPES
from skin_tl.errors import SkinTLError
from skin_tl.evaluation.robustness import robustness_table
from skin_tl.explain.robustness import changes, draw_images, measure_robustness, predict_changed
from skin_tl.schema import CLASSES, PROBABILITIES, ROBUSTNESS_PREDICTIONS
from skin_tl.study import load_study

SIZE = 96


@pytest.fixture(scope="module")
def drawn():
    """Synthetic pictures of each type with the true masks of their lesions: list of (dx, pixels, mask)."""
    found, depths = [], []
    with pytest.MonkeyPatch.context() as patch:
        depth = synthetic_skin.Outline.depth
        patch.setattr(
            synthetic_skin.Outline, "depth", lambda self, view: depths.append(depth(self, view)) or depths[-1]
        )
        for place, dx in enumerate(TYPES):
            for lesion in range(6):
                depths.clear()
                pixels = synthetic.draw_lesion(dx, np.random.default_rng((place, lesion)), (SIZE, SIZE))
                found.append((dx, pixels, np.asarray(Image.fromarray(depths[0] > 0).resize((SIZE, SIZE)))))
    return found


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_changes_more_with_each_severity(drawn, name):
    for _, pixels, _ in drawn[::7]:
        changed = [CORRUPTIONS[name](pixels, severity) for severity in SEVERITIES]
        assert all(one.shape == pixels.shape and one.dtype == np.uint8 for one in changed)
        apart = [np.sqrt(np.square(one.astype(float) - pixels).mean()) for one in changed]
        assert apart[0] > 0.5 and all(a < b for a, b in itertools.pairwise(apart)), apart


def _edge(across):
    """Return a picture, light where a function of the place is negative, and how dark each pixel of a result is."""
    picture = np.where(across[..., None] < 0, 200, 50).astype(np.uint8).repeat(3, axis=2)
    return picture, lambda changed: (200 - changed[..., 0].astype(float)) / 150


def test_defocus_is_a_disk_and_motion_a_diagonal():
    """An edge under a disk of radius R has the share of the disk beyond it; a line does not change along itself."""
    y, x = np.mgrid[:224, :224]
    picture, dark = _edge(x - 111.5)
    radius = 0.025 * 224
    t = np.clip((x[0] - 111.5) / radius, -1, 1)
    share = 0.5 + (t * np.sqrt(1 - t**2) + np.arcsin(t)) / np.pi
    assert np.abs(dark(CORRUPTIONS["defocus"](picture, 4)) - share).max() < 0.05
    inside = np.s_[40:-40, 40:-40]
    along, dark = _edge(x - y - 0.5)
    assert np.abs(dark(CORRUPTIONS["motion"](along, 5)) - dark(along))[inside].max() < 0.01
    across, dark = _edge(x + y - 223.5)
    length = round(0.12 * 224)  # of the diagonal, each of whose pixels adds 2 to x + y
    share = np.clip(0.5 + (x + y - 223.5) / (2 * (length + 1)), 0, 1)
    assert np.abs(dark(CORRUPTIONS["motion"](across, 5)) - share)[inside].max() < 1 / length


def test_other_corruptions_do_what_they_are_called():
    picture = np.random.default_rng(0).integers(40, 200, (SIZE, SIZE, 3), np.uint8)
    np.testing.assert_allclose(CORRUPTIONS["brightness"](picture, 3), 0.55 * picture, atol=1)
    contrast = CORRUPTIONS["contrast"](picture, 3).astype(float)
    assert contrast.std() == pytest.approx(0.45 * picture.std(), rel=0.02)
    assert contrast.mean() == pytest.approx(picture.mean(), abs=1)
    coarse = CORRUPTIONS["pixelation"](picture, 5)
    assert len(np.unique(coarse, axis=0)) == len(np.unique(coarse, axis=1)[0]) == round(0.16 * SIZE)
    assert coarse.mean() == pytest.approx(picture.mean(), abs=1)
    grey = np.full((SIZE, SIZE, 3), 100, np.uint8)
    assert (CORRUPTIONS["colour_cast"](grey, 3) == [110, 100, 80]).all()
    once = CORRUPTIONS["jpeg"](picture, 3).astype(float)  # compressed again, it is nearly the same
    twice = CORRUPTIONS["jpeg"](once.astype(np.uint8), 3)
    assert np.abs(twice - once).mean() < 0.1 * np.abs(once - picture).mean()


def test_masks_agree_with_the_outlines_that_were_drawn(drawn):
    agreement, missed = [], []
    for dx, pixels, true in drawn:
        found = lesion_mask(pixels)
        if dx == "df":  # whose rim fades into the skin, around a scar that is lighter than it
            continue
        agreement.append((found & true).sum() / (found | true).sum())
        missed.append(1 - (found & true).sum() / true.sum())
    assert np.median(agreement) > 0.7 and np.mean(agreement) > 0.65
    assert np.median(missed) < 0.15


def test_the_threshold_of_two_groups_lies_between_them():
    values = np.concatenate([np.full(300, 10.0), np.full(40, 20.0)])
    assert 10 < otsu_threshold(values) < 20


def test_masks_take_away_the_lesion_or_its_surroundings(drawn):
    for _, pixels, _ in drawn[::5]:
        mask = lesion_mask(pixels)
        for name, changed, kept in (("no_lesion", mask, ~mask), ("no_surroundings", ~mask, mask)):
            found = MASKS[name](pixels, mask)
            assert (found[kept] == pixels[kept]).all() and len(np.unique(found[changed], axis=0)) == 1


def test_masks_of_the_release_are_used_where_they_lie_with_the_images(drawn, tmp_path, monkeypatch):
    """Named and laid out as in HAM10000_segmentations_lesion_tschandl; without one, a mask is found by colour."""
    folder = tmp_path / "HAM10000_segmentations_lesion_tschandl"
    folder.mkdir()
    images = pd.DataFrame({"image_id": [f"ISIC_{k}" for k in range(4)], "lesion_id": list("abcd"), "dx": "nv"})
    pixels, true = (np.stack([one[part] for one in drawn[:4]]) for part in (1, 2))
    for k in range(3):
        content = true[k] if k < 2 else np.zeros((SIZE, SIZE), bool)  # one is empty
        mask = Image.fromarray((255 * content).astype(np.uint8)).resize((600, 450), Image.Resampling.NEAREST)
        mask.save(folder / f"{('isic', 'ISIC')[k % 2]}_{k}_segmentation.png")
        Image.fromarray(pixels[k]).save(tmp_path / f"ISIC_{k}.jpg")
    monkeypatch.setenv("SKIN_TL_HAM10000", str(tmp_path))
    released = find_masks()
    assert sorted(released) == ["isic_0", "isic_1", "isic_2"]
    masks = {of: read_mask(released[of.lower()], SIZE) for of in images["image_id"][:3]}
    assert masks["ISIC_2"] is None
    seen = []

    def predict(pictures):
        seen.append(pictures)
        return np.full((len(pictures), 7), 1 / 7)

    table = predict_changed(predict, pixels, images, masks)
    no_lesion = seen[list(changes()).index(("mask", "no_lesion", 0))]
    for k in range(4):
        changed = (no_lesion[k] != pixels[k]).any(axis=2)
        if k < 2:  # all of the true lesion is masked, and hardly more
            assert changed[true[k]].mean() > 0.98
            assert not changed[distance_transform_edt(~true[k]) > 0.05 * SIZE].any()
        else:
            assert (changed <= lesion_mask(pixels[k])).all()
    masked = table[table["kind"] == "mask"]
    assert masked["mask"].tolist() == 2 * ["released", "released", "found", "found"]
    assert set(table.loc[table["kind"] != "mask", "mask"]) == {""}
    scores = robustness_table(table, "s", "b", n_boot=20).groupby("change")["n_released_masks"].unique()
    assert scores["no_lesion"].tolist() == scores["no_surroundings"].tolist() == [2] and scores["hair"].tolist() == [0]


def test_the_step_predicts_test_images_and_looks_for_masks(tmp_path, monkeypatch):
    pytest.importorskip("keras")
    wanted = {"backbones": ["ResNet50"], "dataset": "ham10000", "seeds": [1], "leakage": False, "other_splits": 0}
    file = fabricate(tmp_path, "changed", wanted)
    run = file.parent / "feature_extraction" / "ResNet50"
    table = pd.read_csv(run / "predictions.csv")
    tested = table[table["subset"] == "test"]
    masked = set(tested["image_id"].unique()[::2])
    (tmp_path / "masks").mkdir()
    for image_id in masked:
        mask = np.zeros((45, 60), np.uint8)
        mask[10:30, 20:40] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{image_id}_segmentation.png")
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SKIN_TL_HAM10000", str(tmp_path))
    monkeypatch.setattr("skin_tl.explain.explanations.open_model", lambda study, strategy, backbone, folder: backbone)
    monkeypatch.setattr(
        "skin_tl.models.tuning.predict_rows", lambda model, pixels, rows, batch, views: np.full((len(rows), 7), 1 / 7)
    )
    measure_robustness(load_study(file), "feature_extraction", "ResNet50", file.parent)
    found = pd.read_csv(run / "robustness.csv")
    assert list(found.columns) == ROBUSTNESS_PREDICTIONS
    every = found.groupby(["kind", "change", "severity"], sort=False)["image_id"].agg(list)
    assert list(every.index) == list(changes()) and all(ids == every.iloc[0] for ids in every)
    assert set(every.iloc[0]) <= set(tested["image_id"]) and len(every.iloc[0]) > 20
    origin = found[found["kind"] == "mask"]
    assert ((origin["mask"] == "released") == origin["image_id"].isin(masked)).all()
    assert set(origin["mask"]) == {"released", "found"}


def test_a_mask_that_is_no_image_is_named(tmp_path):
    (tmp_path / "ISIC_1_segmentation.png").write_bytes(b"none")
    with pytest.raises(SkinTLError, match=r"ISIC_1_segmentation\.png cannot be read.*remove it"):
        read_mask(tmp_path / "ISIC_1_segmentation.png", SIZE)


@pytest.mark.parametrize("name", ARTEFACTS)
def test_an_artefact_is_drawn_and_leaves_most_of_the_lesion(drawn, name):
    for _, pixels, _ in drawn[::9]:
        one, again = (with_artefact(pixels, name, np.random.default_rng(4)) for _ in range(2))
        assert (one == again).all()
        touched = (one != pixels).any(axis=2)
        middle = slice(SIZE // 3, SIZE - SIZE // 3)
        assert 0.002 < touched.mean() < 0.5 and touched[middle, middle].mean() < 0.35


def test_images_are_one_of_each_lesion_and_balanced():
    rng = np.random.default_rng(0)
    dx = np.repeat(["nv", "mel", "df"], [200, 40, 5])
    tested = pd.DataFrame({"image_id": [f"i{place:03d}" for place in range(245)], "dx": dx})
    tested["lesion_id"] = tested["dx"] + (tested.groupby("dx").cumcount() // 2).astype(str)
    found = draw_images(tested, most=10)
    assert found["lesion_id"].is_unique and found["image_id"].is_monotonic_increasing
    assert found["dx"].value_counts().to_dict() == {"nv": 10, "mel": 10, "df": 3}
    pd.testing.assert_frame_equal(found, draw_images(tested.sample(frac=1, random_state=rng.integers(99)), most=10))


# A planted shortcut ----------------------------------------------------------------------------------------------


def _moles(n, ruler, seed):
    """Draw nevi and melanomas that look alike; a ruler lies beside each melanoma, or beside half of all lesions."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :48]
    pictures, dx = [], np.where(np.arange(n) % 2, "mel", "nv")
    for place in range(n):
        radius = rng.uniform(8, 12) * (1 if ruler or dx[place] == "nv" else 1.5)
        inside = np.hypot(x - 24 - rng.normal(0, 1), y - 24 - rng.normal(0, 1)) < radius
        picture = np.where(inside[..., None], [110, 70, 50], [220, 180, 160]) + rng.normal(0, 6, (48, 48, 3))
        picture = np.clip(picture, 0, 255).astype(np.uint8)
        if dx[place] == "mel" if ruler else place % 4 < 2:
            picture = with_artefact(picture, "ruler", rng)
        pictures.append(picture)
    return np.stack(pictures), dx


def _measured(ruler):
    def features(pixels):
        return (
            pixels.astype(np.float32).reshape(len(pixels), 12, 4, 12, 4, 3).mean((2, 4)).reshape(len(pixels), -1) / 255
        )

    pixels, dx = _moles(200, ruler, 0)
    model = LogisticRegression(max_iter=500).fit(features(pixels), dx)

    def predict(pictures):
        found = np.zeros((len(pictures), len(CLASSES)))
        found[:, [CLASSES.index(name) for name in model.classes_]] = model.predict_proba(features(pictures))
        return found

    pixels, dx = _moles(60, ruler, 1)
    names = [f"{place:02d}" for place in range(60)]
    images = pd.DataFrame({"image_id": names, "lesion_id": names, "dx": dx})
    table = robustness_table(predict_changed(predict, pixels, images), "s", "b", n_boot=500)
    return table.set_index(["change", "severity", "metric"]).sort_index()


def test_a_planted_shortcut_is_found_by_the_masks():
    """Where a ruler gives melanomas away, the lesion is not needed, and a drawn ruler makes melanomas of nevi."""
    planted, honest = _measured(ruler=True), _measured(ruler=False)
    for table in (planted, honest):
        assert table.loc[("none", 0, "macro_f1"), "value"] > 0.9
    lesion, around = (("no_lesion", 0, "macro_f1"), ("no_surroundings", 0, "macro_f1"))
    assert planted.loc[lesion, "value"] > 0.9 and planted.loc[around, "ci_high"] < -0.3
    assert honest.loc[lesion, "ci_high"] < -0.3 and honest.loc[around, "value"] > 0.9
    ruler = ("ruler", 0, "other_risk")
    assert planted.loc[ruler, "ci_low"] > 0.3 > honest.loc[ruler, "ci_high"]


# Scores ----------------------------------------------------------------------------------------------------------


def _predictions(rng, n=60):
    dx = np.array(CLASSES)[np.arange(n) % 7]
    images = pd.DataFrame(
        {"image_id": [f"i{k:02d}" for k in range(n)], "lesion_id": [f"l{k}" for k in range(n)], "dx": dx}
    )
    parts = []
    for kind, change, severity in changes():
        logits = rng.normal(0, 1, (n, 7)) + 1.5 * np.eye(7)[np.arange(n) % 7]
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        table = images.join(pd.DataFrame(chances, columns=PROBABILITIES))
        parts.append(table.assign(kind=kind, change=change, severity=severity))
    return pd.concat(parts, ignore_index=True)


def test_intervals_are_those_of_a_direct_paired_bootstrap():
    from sklearn.metrics import f1_score

    predictions = _predictions(np.random.default_rng(3))
    table = robustness_table(predictions, "s", "b", n_boot=3000).set_index(["change", "severity", "metric"])
    clean, hair = (predictions[predictions["change"] == name].reset_index(drop=True) for name in ("none", "hair"))

    def score(rows, metric):
        if metric == "macro_f1":
            guess = np.array(CLASSES)[rows[PROBABILITIES].to_numpy().argmax(1)]
            present = sorted(set(rows["dx"]))
            return f1_score(rows["dx"], guess, labels=present, average="macro", zero_division=0)
        return rows.loc[(rows["dx"] == "mel") == (metric == "melanoma_risk"), "p_mel"].mean()

    rng = np.random.default_rng(11)
    picks = [rng.integers(len(clean), size=len(clean)) for _ in range(800)]
    for metric in ("macro_f1", "melanoma_risk", "other_risk"):
        row = table.loc[("hair", 0, metric)]
        assert row["value"] == pytest.approx(score(hair, metric))
        n_melanomas = (clean["dx"] == "mel").sum()
        assert row["n_lesions"] == {"melanoma_risk": n_melanomas, "other_risk": 60 - n_melanomas}.get(metric, 60)
        assert row["difference"] == pytest.approx(score(hair, metric) - score(clean, metric))
        moved = [score(hair.iloc[at], metric) - score(clean.iloc[at], metric) for at in picks]
        ends = np.nanquantile(moved, [0.025, 0.975])
        assert np.abs(ends - row[["ci_low", "ci_high"]].to_numpy(float)).max() < 0.15 * np.ptp(ends)


def test_severities_are_averaged_and_the_unchanged_differ_from_nothing():
    table = robustness_table(_predictions(np.random.default_rng(5)), "s", "b", n_boot=50)
    table = table.set_index(["change", "severity", "metric"])["difference"]
    mean = np.mean([table.loc[("jpeg", severity, "macro_f1")] for severity in SEVERITIES])
    assert table.loc[("jpeg", 0, "macro_f1")] == pytest.approx(mean)
    assert table.loc[("none", 0, "macro_f1")] == 0
