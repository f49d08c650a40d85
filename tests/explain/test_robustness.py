"""Changed test images: corruptions, masks, artefacts, and what is predicted for them."""

import itertools

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from skin_tl.data import synthetic, synthetic_skin
from skin_tl.data.corruptions import CORRUPTIONS, SEVERITIES
from skin_tl.data.shortcuts import ARTEFACTS, MASKS, lesion_mask, otsu_threshold, with_artefact
from skin_tl.data.synthetic_lesions import TYPES
from skin_tl.evaluation.robustness import robustness_table
from skin_tl.explain.robustness import changes, draw_images, predict_changed
from skin_tl.schema import CLASSES, PROBABILITIES

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
            found = MASKS[name](pixels)
            assert (found[kept] == pixels[kept]).all() and len(np.unique(found[changed], axis=0)) == 1


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
