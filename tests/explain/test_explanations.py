"""Which images are explained follows from rules alone, and a step writes what the report reads."""

import numpy as np
import pandas as pd
import pytest
from fabricated import fabricate

from skin_tl.errors import SkinTLError
from skin_tl.explain import explanations
from skin_tl.reporting import figures
from skin_tl.reporting.report import Report
from skin_tl.schema import CLASSES, EXPLAINED, PREDICTION_COLUMNS, PROBABILITIES
from skin_tl.study import load_study


def tested_table(*rows):
    """Return a table of tested images from (dx, predicted, probability), each of a lesion of its own."""
    table = pd.DataFrame(rows, columns=["dx", "predicted", "probability"])
    names = [f"ISIC_{place}" for place in range(len(table))]
    return table.assign(image_id=names, lesion_id=[f"HAM_{place}" for place in range(len(table))])


# What is chosen


def test_the_model_s_head_is_the_one_whose_predictions_are_taken():
    listed = {"split_policies": ["image", "lesion"], "preprocessings": ["unit", "native"], "seeds": [7, 1]}
    study = load_study("demo", listed)
    right = {"dataset": "internal", "arm": "main", "train_fraction": 1.0, "subset": "test"}
    right |= {"split_policy": "image", "preprocessing": "unit", "seed": 7}
    others = [{"dataset": "isic2018"}, {"arm": "other_split"}, {"subset": "val"}, {"split_policy": "lesion"}]
    others += [{"preprocessing": "native"}, {"seed": 1}, {"train_fraction": 0.5}]
    rows = [right | {"image_id": "b"}, right | {"image_id": "a"}, *(right | {"image_id": "x"} | one for one in others)]
    table = pd.DataFrame(rows).assign(lesion_id="l", dx="mel", **dict.fromkeys(PROBABILITIES, 0.1))
    table["p_nv"] = [0.4, 0.4, *[0.3] * len(others)]
    found = explanations.tested_images(table[PREDICTION_COLUMNS], study)
    assert found.to_dict("list") == {
        "image_id": ["a", "b"], "lesion_id": ["l"] * 2, "dx": ["mel"] * 2, "predicted": ["nv"] * 2,
        "probability": [0.4] * 2,
    }  # fmt: skip


def test_hits_and_misses_are_those_of_median_probability():
    rows = [("nv", "nv", p) for p in (0.9, 0.5, 0.7, 0.6)] + [("nv", "mel", p) for p in (0.8, 0.4, 0.5)]
    chosen = explanations.choose(tested_table(*rows, ("df", "df", 0.3)))
    own = chosen[chosen["kind"] != "error"]
    assert own[["kind", "dx", "probability"]].to_numpy().tolist() == [
        ["hit", "df", 0.3], ["hit", "nv", 0.6], ["miss", "nv", 0.5],
    ]  # fmt: skip


def test_the_surest_errors_come_first_one_per_lesion():
    table = tested_table(*[("bkl", "nv", 0.5 + place / 100) for place in range(9)], ("bkl", "bkl", 0.99))
    table.loc[[7, 8], "lesion_id"] = "twins"
    errors = explanations.choose(table).query("kind == 'error'")
    assert errors["probability"].round(2).tolist() == [0.58, 0.56, 0.55, 0.54, 0.53, 0.52]
    assert len(errors) == explanations.N_ERRORS


def test_the_order_of_rows_does_not_matter_and_equal_ones_go_by_name():
    table = tested_table(*[("mel", "nv", 0.6)] * 9, *[("mel", "mel", 0.5)] * 4)
    chosen = explanations.choose(table)
    again = explanations.choose(table.sample(frac=1, random_state=0))
    pd.testing.assert_frame_equal(chosen, again)
    assert chosen.query("kind == 'error'")["image_id"].tolist() == [f"ISIC_{place}" for place in range(6)]


def test_without_errors_there_are_hits_alone():
    chosen = explanations.choose(tested_table(("mel", "mel", 0.5), ("nv", "nv", 0.5)))
    assert chosen["kind"].tolist() == ["hit", "hit"]


# What is measured


def test_the_middle_is_the_quarter_around_the_centre():
    even, middle, edge = np.ones((8, 8)), np.zeros((8, 8)), np.ones((8, 8))
    middle[2:6, 2:6], edge[2:6, 2:6] = 1, 0
    found = explanations.share_in_the_middle(np.stack([even, middle, edge, 0 * even]))
    np.testing.assert_allclose(found, [0.25, 1, 0, np.nan])


@pytest.mark.parametrize("size", [32, 64, 224])
def test_maps_of_few_places_lie_in_the_middle_by_a_quarter_whatever_they_show(size):
    """Each place alone: what a map shows is a mixture of them, and its share lies between theirs."""
    for side in range(1, 8):
        places = np.eye(side * side).reshape(-1, side, side)
        shares = explanations.share_in_the_middle(
            np.stack([pytest.importorskip("skin_tl.explain.gradcam")._enlarged(one, (size, size)) for one in places])
        )
        if side < explanations.LEAST_SIDE:
            np.testing.assert_allclose(shares, 0.25, atol=1e-4)
        else:
            assert shares.min() < 0.08 and shares.max() > 0.7


def test_likeness_is_the_correlation_of_pixels():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 5, 6, 6))
    expected = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(a, b, strict=True)]
    np.testing.assert_allclose(explanations.likeness(a, b), expected)
    np.testing.assert_allclose(explanations.likeness(a, 3 * a + 1), 1)
    assert np.isnan(explanations.likeness(a[:1], np.zeros((1, 6, 6))))


def test_neighbours_are_counted_among_other_lesions():
    rows = [("a", "mel", 0), ("a", "mel", 1), ("b", "mel", 3), ("c", "nv", 5.5), ("d", "nv", 9)]
    points = pd.DataFrame(rows, columns=["lesion_id", "dx", "x"]).assign(y=0.0)
    # nearest of another lesion: b, b, a (at 1), b, c
    found = explanations.neighbours(points)
    assert found["same"] == pytest.approx(4 / 5)
    # chance: two images of lesion a see 1 of 3; b sees 2 of 4; c and d see 1 of 4
    assert found["by_chance"] == pytest.approx((1 / 3 + 1 / 3 + 2 / 4 + 1 / 4 + 1 / 4) / 5)
    assert np.isnan(explanations.neighbours(points[:2])["same"])


def test_like_features_lie_near_each_other_at_any_scale():
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    features = (rng.normal(0, 4, (3, 40))[labels] + rng.normal(0, 1, (120, 40))).astype(np.float32)
    places = explanations.lay_out(features)
    near = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(near, np.inf)
    assert (labels[near.argmin(axis=1)] == labels).mean() > 0.95
    np.testing.assert_array_equal(explanations.lay_out(features), places)
    assert np.isfinite(explanations.lay_out(features * np.float32(1e-18))).all()
    assert explanations.lay_out(features[:4]).shape == (4, 2)


def test_so_many_images_are_drawn_at_random_where_there_are_more():
    assert explanations.drawn_rows(7, 7).tolist() == list(range(7))
    rows = explanations.drawn_rows(1000, 100)
    assert len(set(rows)) == 100 and (np.diff(rows) > 0).all()
    assert 400 < rows.mean() < 600 and rows.tolist() == explanations.drawn_rows(1000, 100).tolist()


# The step, and what the report says where it did not run


def test_a_run_is_explained(small_study, tmp_path):
    keras = pytest.importorskip("keras")
    from skin_tl.models import runs, training

    folder = tmp_path / "runs" / small_study.name
    prepared = runs.prepare(small_study, folder)
    run = folder / "feature_extraction" / "MobileNetV2"
    predictions, _ = training.train_run(small_study, "feature_extraction", "MobileNetV2", prepared, run)
    explanations.explain(small_study, "feature_extraction", "MobileNetV2", folder)
    made = run / "explanations"
    assert sorted(path.name for path in made.iterdir()) == sorted(EXPLAINED)
    images = pd.read_csv(made / "images.csv")
    assert set(images["map_side"]) == {1} and images["middle"].isna().all()  # at 32 pixels
    maps, shuffled = (np.load(made / f"{name}.npy") for name in ("maps", "shuffled_maps"))
    assert maps.shape == shuffled.shape == (len(images), 32, 32) and maps.dtype == np.float16
    assert maps.min() >= 0 and maps.max() == 1
    # the model says of these images what the table does
    model, decoded = keras.models.load_model(run / "model.keras"), prepared.images
    pixels = decoded.pixels[[decoded.ids.index(image_id) for image_id in images["image_id"]]]
    chances = keras.ops.convert_to_numpy(model.predict_on_batch(pixels))
    assert [CLASSES[k] for k in chances.argmax(axis=1)] == images["predicted"].tolist()
    np.testing.assert_allclose(chances.max(axis=1), images["probability"], atol=1e-4)
    test = predictions.query("subset == 'test' and seed == 1 and arm == 'main'")
    assert set(images["image_id"]) <= set(test["image_id"])
    points = pd.read_csv(made / "points.csv")
    assert points["image_id"].tolist() == decoded.ids
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    explanations.explain(small_study, "feature_extraction", "MobileNetV2", folder)
    assert before == {path.name: path.read_bytes() for path in made.iterdir()}
    (run / "heads" / "lesion_native_seed1.npz").write_bytes(b"not a head")
    with pytest.raises(SkinTLError, match=r"seed1\.npz cannot be read .* Delete .*run\.json and start again"):
        explanations.explain(small_study, "feature_extraction", "MobileNetV2", folder)


def test_features_of_the_step_are_found_without_building_the_network(tmp_path, monkeypatch):
    pytest.importorskip("keras")
    from skin_tl.files import write_json
    from skin_tl.models import features

    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(features, "features_of", lambda *arguments: ("computed", {}))
    wanted = (None, tmp_path / "runs", None, "VGG16", "native")
    write_json(tmp_path / "runs" / "weights.json", {"backbones": {"VGG16": {"source": "random"}}})
    assert features.find_features(*wanted) == "computed"  # the step did not run
    write_json(tmp_path / "runs" / "features" / "VGG16_native.json", {"key": "abc"})
    assert features.find_features(*wanted) == "computed"  # the cache was deleted
    kept = tmp_path / "cache" / "features" / "abc"
    kept.mkdir(parents=True)
    np.save(kept / "features.npy", np.arange(6.0).reshape(3, 2))
    assert features.find_features(*wanted) == "computed"  # a pass that was interrupted
    write_json(kept / "about.json", {})
    np.testing.assert_array_equal(features.find_features(*wanted), np.arange(6.0).reshape(3, 2))


@pytest.mark.parametrize("file", ["images.csv", "points.csv", "maps.npy"])
def test_missing_explanations_are_named(root, monkeypatch, file):
    monkeypatch.setenv("SKIN_TL_CACHE", str(root / "cache"))
    study = fabricate(root, f"unexplained_{file[:2]}", {"backbones": ["VGG16"], "seeds": [1]})
    (study.parent / "feature_extraction" / "VGG16" / "explanations" / file).unlink()
    with pytest.raises(SkinTLError, match=rf"explanations.{file} is missing.*run_all\.sh \S*unexplained_"):
        report = Report(str(study), "en", root / "report" / "x")
        report.explanations(report.explained[0], "VGG16")


# Pictures


def test_a_picture_shows_the_image_and_beside_it_the_map():
    import base64
    import io

    from PIL import Image

    pixels = np.full((40, 40, 3), [200, 120, 90], np.uint8)
    heat = np.zeros((40, 40))
    heat[:, 20:] = 1
    uri = figures.explained_picture(pixels, heat)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
    assert picture.size == (320, 120)
    values = np.asarray(picture).astype(float)
    np.testing.assert_allclose(values[20:100, 20:140].mean(axis=(0, 1)), [200, 120, 90], atol=3)
    low, high = values[20:100, 170:230].mean(axis=(0, 1)), values[20:100, 250:310].mean(axis=(0, 1))
    assert high.sum() > low.sum() + 100  # brighter is more
    assert low[2] > low[0] and high[0] > high[2]  # from blue to yellow


def test_dots_of_thousands_of_images_stay_small(make):
    rng = np.random.default_rng(0)
    dx = rng.choice(CLASSES, explanations.N_POINTS, p=[0.03, 0.05, 0.11, 0.01, 0.11, 0.67, 0.02])
    points = pd.DataFrame(
        {"backbone": "VGG16", "dx": dx, "x": rng.normal(0, 30, len(dx)), "y": rng.normal(0, 30, len(dx))}
    )
    (drawing,) = figures.feature_maps(points, n_images=10015)
    svg = figures.to_svg(drawing)
    assert len(svg) < 150_000
    lines = [path for path in drawing.axes[0].patches if path.get_capstyle() == "round"]
    assert sum(len(path.get_path()) for path in lines) == 2 * len(points)
    order = [(dx == name).sum() for name in sorted(set(dx), key=lambda name: -(dx == name).sum())]
    assert [len(path.get_path()) // 2 for path in lines] == order  # the rarest on top
    assert "3,000" in svg and "10,015" in svg
