"""Distances are those of scikit-learn to the tenth nearest training image of each split."""

import json

import numpy as np
import pandas as pd
import pytest
from fabricated import fabricate
from sklearn.neighbors import NearestNeighbors

from skin_tl.evaluation.study_files import read_study_files
from skin_tl.explain.distances import write_distances
from skin_tl.schema import DISTANCE_COLUMNS, DISTANCES


@pytest.fixture
def study_file(tmp_path, monkeypatch):
    """A fabricated study of two backbones and two split policies, its features in the cache."""
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "cache"))
    changes = {"backbones": ["VGG16", "ResNet50"], "split_policies": ["lesion", "image"], "seeds": [1]}
    changes |= {"dataset": "ham10000", "external": "isic2018", "leakage": False, "other_splits": 0}
    return fabricate(tmp_path, changes=changes)


def write_features(folder, place, n_images, rng):
    """Write features as their steps do; return them by backbone."""
    found = {}
    for backbone, n_features in (("VGG16", 6), ("ResNet50", 9)):
        key = f"{place.replace('/', '')}{backbone}"
        kept = folder.parent.parent / "cache" / "features" / key
        kept.mkdir(parents=True)
        found[backbone] = rng.gamma(1, 1, (n_images, n_features)).astype(np.float32)
        np.save(kept / "features.npy", found[backbone])
        (kept / "about.json").write_text(json.dumps({"key": key}))
        file = folder / f"{place}{backbone}_native.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"key": key}))
    return found


def test_distances_are_to_the_tenth_nearest_training_image(study_file):
    files, rng = read_study_files(study_file), np.random.default_rng(0)
    folder = files.folder
    about = json.loads((folder / "dataset" / "images.json").read_text())
    ids = pd.read_csv(folder.parent.parent / "cache" / "images" / about["key"] / "index.csv")["image_id"]
    (folder / "external" / "images.json").write_text(
        json.dumps(about)
    )  # the same pictures, which is of no account here
    own = write_features(folder, "features/", len(ids), rng)
    other = write_features(folder, "external/features_", len(ids), rng)
    (folder / DISTANCES).unlink()
    write_distances(files.study, folder)
    table = pd.read_csv(folder / DISTANCES)
    assert list(table.columns) == DISTANCE_COLUMNS
    keys = ["backbone", "split_policy", "seed"]
    splits = dict(list(files.splits.groupby(["split_policy", "seed"])))
    assert table[keys].drop_duplicates().shape[0] == 2 * len(splits) == 4
    for (backbone, policy, seed), rows in table.groupby(keys):
        split, row_of = splits[policy, seed], pd.Series(np.arange(len(ids)), index=ids)
        training = own[backbone][row_of[split.loc[split["subset"] == "train", "image_id"]]]
        search = NearestNeighbors(n_neighbors=10, metric="cosine").fit(training)
        found = rows[rows["dataset"] == "internal"].set_index("image_id")["distance"]
        assert set(found.index) == set(split.loc[split["subset"] != "train", "image_id"])
        expected = search.kneighbors(own[backbone][row_of[found.index]])[0][:, -1]
        np.testing.assert_allclose(found, expected, atol=2e-6)
        found = rows[rows["dataset"] == "isic2018"].set_index("image_id")["distance"]
        expected = search.kneighbors(other[backbone][row_of[found.index]])[0][:, -1]
        assert len(found) == len(ids)
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_the_evaluation_of_a_run_without_distances_leaves_them_out(study_file):
    files = read_study_files(study_file)
    (files.folder / DISTANCES).unlink()
    assert files.distances.empty and list(files.distances.columns) == DISTANCE_COLUMNS
