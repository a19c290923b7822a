"""Subsets of real examples, checked against NumPy and by exhaustive search."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import distillation

LABELS = np.array([0] * 10 + [1] * 2 + [2] * 5 + [3] * 1)
MASK = np.arange(12) % 2 == 0


def lloyd(points: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Plain NumPy, until nothing moves."""
    before = None
    while True:
        distance = ((points[:, None] - centers[None]) ** 2).sum(-1)
        nearest = distance.argmin(1)
        if before is not None and (nearest == before).all():
            return centers, nearest
        before = nearest
        centers = np.stack([points[nearest == j].mean(0) for j in range(len(centers))])


def poisoned(seed: int) -> tuple[np.ndarray, np.ndarray]:
    points = np.random.default_rng(seed).standard_normal((12, 2)).astype(np.float32)
    return points, np.where(MASK[:, None], points, np.nan)


def test_kmeans_ends_where_lloyd_ends(x64: None):
    points = np.random.default_rng(0).standard_normal((40, 2))
    result = distillation.kmeans(jax.random.key(1), points, num_clusters=4)
    assert bool(result.converged)
    # A fixed point of the plain algorithm, with the inertia of its assignment.
    centers, nearest = lloyd(points, np.asarray(result.centers))
    np.testing.assert_allclose(result.centers, centers, atol=1e-12)
    np.testing.assert_array_equal(result.assignment, nearest)
    inertia = ((points - centers[nearest]) ** 2).sum()
    np.testing.assert_allclose(result.inertia, inertia, rtol=1e-12)


def test_kmeans_says_that_it_was_stopped():
    points = np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)
    short = distillation.kmeans(jax.random.key(1), points, num_clusters=4, max_steps=1)
    assert not bool(short.converged)
    assert int(short.num_steps) == 1


def test_kmeans_starts_at_different_rows():
    # As many clusters as distinct rows: each must be found, whatever the key.
    points = np.repeat(np.arange(4.0, dtype=np.float32)[:, None], 3, axis=0)
    run = lambda key: distillation.kmeans(key, points, num_clusters=4).inertia
    inertia = jax.vmap(run)(jax.random.split(jax.random.key(0), 20))
    np.testing.assert_array_equal(inertia, 0.0)


def test_masked_rows_move_no_cluster_and_are_not_chosen():
    points, spoiled = poisoned(1)
    kept = points[MASK]
    result = distillation.kmeans(jax.random.key(0), spoiled, num_clusters=2, where=MASK)
    centers, nearest = lloyd(kept, np.asarray(result.centers))
    np.testing.assert_allclose(result.centers, centers, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(result.assignment)[MASK], nearest)
    chosen = (
        distillation.random_subset(
            jax.random.key(0), spoiled, num_points=4, where=MASK
        ),
        distillation.kmeans_subset(
            jax.random.key(0), spoiled, num_points=4, where=MASK
        ),
        distillation.kcenter_greedy(spoiled, num_points=4, where=MASK),
        # Classes of a row each: those without a row that counts come last, too.
        distillation.random_subset(
            jax.random.key(0),
            spoiled,
            num_points=4,
            labels=np.arange(12),
            where=MASK,
        ),
    )
    for rows in chosen:
        assert MASK[np.asarray(rows)].all()
        assert len(set(rows.tolist())) == 4


def test_masked_rows_come_last_when_the_others_run_out():
    _, spoiled = poisoned(1)
    chosen = (
        distillation.random_subset(
            jax.random.key(0), spoiled, num_points=9, where=MASK
        ),
        distillation.kmeans_subset(
            jax.random.key(0), spoiled, num_points=9, where=MASK
        ),
        distillation.kcenter_greedy(spoiled, num_points=9, where=MASK),
    )
    for rows in chosen:
        assert len(set(rows.tolist())) == 9
        assert MASK[np.asarray(rows)].sum() == 6


def test_kmeans_subset_takes_the_row_nearest_to_each_center():
    points = np.random.default_rng(2).standard_normal((30, 2)).astype(np.float32)
    key = jax.random.key(3)
    centers = distillation.kmeans(jax.random.clone(key), points, num_clusters=5).centers
    distance = ((np.asarray(centers)[:, None] - points[None]) ** 2).sum(-1)
    rows = distillation.kmeans_subset(key, points, num_points=5)
    np.testing.assert_allclose(
        distance[np.arange(5), rows], distance.min(1), rtol=1e-4, atol=1e-6
    )


def test_rows_that_coincide_are_not_taken_twice():
    same = np.zeros((4, 2), np.float32)
    key = jax.random.key(0)
    assert len(set(distillation.kmeans_subset(key, same, num_points=3).tolist())) == 3
    assert len(set(distillation.kcenter_greedy(same, num_points=3).tolist())) == 3


def test_kcenter_follows_its_definition_and_keeps_its_guarantee(x64: None):
    points = np.random.default_rng(4).standard_normal((12, 2))
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    rows = distillation.kcenter_greedy(points, num_points=3, first=5)
    expected = [5]
    for _ in range(2):
        expected.append(int(distance[:, expected].min(1).argmax()))
    assert rows.tolist() == expected
    radius = lambda chosen: distance[:, list(chosen)].min(1).max()
    best = min(radius(c) for c in itertools.combinations(range(12), 3))
    assert best <= radius(expected) <= 2.0 * best


def test_kcenter_starts_at_the_row_nearest_to_the_mean():
    points = np.random.default_rng(5).standard_normal((12, 2)).astype(np.float32)
    nearest = ((points - points.mean(0)) ** 2).sum(-1).argmin()
    assert int(distillation.kcenter_greedy(points, num_points=1)[0]) == nearest


def test_every_row_is_drawn_equally_often():
    draw = lambda key: distillation.random_subset(key, np.zeros((5, 1)), num_points=2)
    rows = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4000))
    assert bool(jnp.all(rows[:, 0] != rows[:, 1]))
    share = jnp.bincount(rows.ravel(), length=5) / rows.size
    # Five standard deviations of one share.
    np.testing.assert_allclose(share, 0.2, atol=5 * np.sqrt(0.2 * 0.6 / 8000))


@pytest.mark.parametrize(
    ("num_points", "counts"),
    [(4, {(1, 1, 1, 1)}), (10, {(4, 2, 3, 1), (3, 2, 4, 1)})],
)
def test_classes_get_equal_shares_while_they_last(num_points, counts):
    draw = lambda key: distillation.random_subset(
        key, np.zeros((18, 1)), num_points=num_points, labels=LABELS
    )
    rows = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 64))
    found = {tuple(np.bincount(LABELS[r], minlength=4)) for r in np.asarray(rows)}
    assert found == counts
