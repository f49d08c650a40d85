"""Neighbours are those that scikit-learn finds, and an image is unlike a reference beyond what its own kind is."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import NearestNeighbors

from skin_tl.explain import neighbours
from skin_tl.explain.neighbours import Rows, nearest


def _features(n, n_features=24, seed=0):
    rng = np.random.default_rng(seed)
    spread = 10.0 ** rng.integers(-6, 4, n_features)
    return (rng.gamma(1, 1, (n, n_features)) * spread).astype(np.float32)


def _expected(values, reference):
    return cosine_distances(values.astype(float), reference.astype(float))


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("n", [1, 3, 10])
def test_the_nearest_images_are_those_that_scikit_learn_finds(n, chunk):
    values, reference = _features(50, seed=1), _features(130)
    distances, rows = nearest(values, reference, n, chunk=chunk)
    expected = _expected(values, reference)
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :n], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(expected, rows, 1), distances, atol=1e-5)
    assert all(len(set(row)) == n for row in rows.tolist())


def test_what_is_there_twice_is_found_twice():
    reference = _features(130)
    reference[-1] = reference[3]
    distances, rows = nearest(reference[[3]], reference, 3)
    assert rows[0, :2].tolist() == [3, 129]
    np.testing.assert_allclose(distances[0, :2], 0, atol=1e-6)
    assert distances[0, 2] > 1e-4


def test_where_there_are_fewer_than_asked_for_the_rest_is_empty():
    distances, rows = nearest(_features(4, seed=1), _features(3), 5)
    assert np.isfinite(distances[:, :3]).all() and (distances[:, 3:] == np.inf).all()
    assert np.sort(rows[:, :3]).tolist() == 4 * [[0, 1, 2]] and (rows[:, 3:] == -1).all()


def test_features_that_do_not_vary_do_no_harm():
    reference = _features(20)
    reference[:, 0] = 0.1
    values = np.concatenate([reference[:1], np.full((1, 24), 0.1, np.float32), np.zeros((1, 24), np.float32)])
    distances, rows = nearest(values, reference)
    assert rows[0] == 0 and distances[0] == pytest.approx(0, abs=1e-5) and np.isfinite(distances).all()


class Watched:
    """An array that remembers how many rows were asked of it at most at a time."""

    def __init__(self, values):
        self.values, self.most = values, 0

    def __len__(self):
        return len(self.values)

    def __getitem__(self, part):
        self.most = max(self.most, len(self.values[part]))
        return self.values[part]


def test_features_are_never_read_as_a_whole():
    values, reference = Watched(_features(100, seed=1)), Watched(_features(300))
    chosen = np.arange(0, 300, 3)
    distances, rows = nearest(values, Rows(reference, chosen), 2, chunk=32)
    assert values.most == reference.most == 32
    expected = _expected(values.values, reference.values[chosen])
    np.testing.assert_allclose(np.take_along_axis(expected, rows, 1), distances, atol=1e-5)
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :2], atol=1e-5)


def _kind(n, seed, n_features=32):
    """Return features of images of one kind: directions around a common one, of any length."""
    rng = np.random.default_rng(seed)
    directions = np.ones(n_features) + 0.3 * rng.normal(size=(n, n_features))
    return (directions * rng.uniform(0.1, 10, (n, 1))).astype(np.float32)


def test_the_limit_is_what_99_of_100_validation_images_do_not_exceed():
    training, validation, test = _kind(1500, 0), _kind(1000, 1), _kind(4000, 2)
    index = NearestNeighbors(n_neighbors=10, metric="cosine").fit(training)
    tenth = index.kneighbors(validation)[0][:, 9]
    limit = neighbours.ood_limit(validation, training)
    assert (tenth > limit).sum() == 10 and limit == pytest.approx(np.percentile(tenth, 99), rel=1e-4)
    found = neighbours.ood_score(nearest(test, training, 12)[0])
    np.testing.assert_allclose(found, index.kneighbors(test)[0][:, 9], atol=1e-5)
    assert 0.003 < (found > limit).mean() < 0.02
    other = np.abs(np.random.default_rng(3).normal(size=(200, 32))).astype(np.float32)
    assert (neighbours.ood_score(nearest(other, training, 10)[0]) > limit).all()


def test_a_reference_of_few_images_counts_its_farthest():
    training = _kind(4, 0)
    distances = nearest(_kind(3, 1), training, 4)[0]
    assert neighbours.ood_score(distances).tolist() == distances[:, 3].tolist()
    assert np.isfinite(neighbours.ood_limit(_kind(50, 2), training))
