"""Random graphs and data, metrics, sortability, and checks of values."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import dag
from tests.dag import _numpy as ref

D = 12
SLOW = pytest.mark.slow


@pytest.mark.slow
def test_random_graphs_have_their_edges_and_no_cycle():
    @jax.jit
    @jax.vmap
    def sample(key: jax.Array):
        a, b, c = jax.random.split(key, 3)
        er = dag.sample_er_dag(a, D, edges_per_node=2)
        sf = dag.sample_sf_dag(b, D, edges_per_node=3)
        weights = dag.sample_edge_weights(c, er)
        return er, sf, weights, dag.is_dag(er), dag.is_dag(sf)

    er, sf, weights, er_good, sf_good = sample(jax.random.split(jax.random.key(0), 400))
    assert np.all(er_good)
    assert np.all(sf_good)
    assert np.all(np.sum(er, axis=(1, 2)) == 2 * D)
    assert np.all(np.sum(sf, axis=(1, 2)) == 3 * D - 6)
    # Every pair is as likely as any other, in either direction.
    share = 2 * D / (D * (D - 1))
    error = 4.5 * np.sqrt(share * (1 - share) / 400)
    off = ~np.eye(D, dtype=bool)
    assert np.abs(np.mean(er, axis=0)[off] - share).max() < error
    # Hubs: the largest in-degree of preferential attachment is well above even.
    assert np.mean(np.max(np.sum(sf, axis=1), axis=1)) > 6
    size = np.abs(np.asarray(weights))[np.asarray(er)]
    assert size.min() >= 0.5
    assert size.max() <= 2.0
    assert abs(np.mean(size) - 1.25) < 0.02
    assert abs(np.mean(np.sign(np.asarray(weights)[np.asarray(er)]))) < 0.05


@pytest.mark.parametrize(
    ("noise", "variance"),
    [
        ("exponential", 1.0),
        pytest.param("gaussian", 1.0, marks=SLOW),
        pytest.param("gumbel", np.pi**2 / 6, marks=SLOW),
        pytest.param("uniform", 1 / 3, marks=SLOW),
    ],
)
def test_linear_data_have_the_covariance_of_the_model(noise: str, variance: float):
    shuffle = np.array([2, 0, 3, 1])
    weights = ref.DIAMOND[shuffle][:, shuffle].astype(np.float32)
    scale = np.array([1.0, 0.5, 2.0, 1.5], np.float32)
    inverse = np.linalg.inv(np.eye(4) - weights)
    x = dag.sample_linear_sem(
        jax.random.key(1), weights, 40_000, noise=noise, scale=jnp.asarray(scale)
    )
    want = inverse.T @ np.diag(variance * scale.astype(float) ** 2) @ inverse
    got = np.cov(np.asarray(x, float).T)
    np.testing.assert_allclose(got, want, atol=0.06 * want.max())


@pytest.mark.slow
def test_binary_data_and_counts_have_the_conditional_means_of_the_model():
    weights = jnp.zeros((2, 2)).at[1, 0].set(1.0)
    x = dag.sample_linear_sem(jax.random.key(0), weights, 20_000, noise="logistic")
    assert set(np.unique(x)) == {0.0, 1.0}
    for value, want in ((0, 0.5), (1, 1 / (1 + np.exp(-1)))):
        assert abs(np.mean(x[x[:, 1] == value, 0]) - want) < 0.02
    x = dag.sample_linear_sem(jax.random.key(0), weights, 20_000, noise="poisson")
    for value in (0, 1, 2):
        got = np.mean(x[x[:, 1] == value, 0])
        assert abs(got / np.exp(value) - 1) < 0.05
    cycle = jnp.asarray([[0.0, 1.0], [1.0, 0.0]])
    assert np.all(np.isnan(dag.sample_linear_sem(jax.random.key(0), cycle, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("function", ["mim", "mlp", "gp", "gp_add"])
def test_nonlinear_data_depend_on_the_parents_only(function: str):
    edges = jnp.zeros((3, 3), bool).at[0, 1].set(True)
    x = dag.sample_nonlinear_sem(
        jax.random.key(3),
        edges,
        300,
        function=function,
        scale=jnp.array([1.0, 0.01, 1.0]),
    )
    # A smooth function of one parent: neighbors in it are neighbors in the child.
    by_parent = np.asarray(x)[np.argsort(x[:, 0])]
    rough = np.diff(by_parent, axis=0)[20:-20]
    assert np.std(rough[:, 1]) < 0.25 * np.std(by_parent[:, 1])
    assert np.std(rough[:, 2]) > np.std(by_parent[:, 2])
    assert abs(np.std(x[:, 0]) - 1) < 0.15


def test_graphs_are_sorted_and_cleared_of_cycles():
    rng = np.random.default_rng(0)

    @jax.jit
    @jax.vmap
    def facts(weights: jax.Array):
        kept = dag.threshold_to_dag(weights, threshold=0.3)
        return dag.is_dag(weights), kept, dag.is_dag(kept), dag.ancestors(kept)

    w = rng.uniform(-1, 1, (20, 6, 6)).astype(np.float32)
    w *= rng.uniform(size=w.shape) < 0.35
    acyclic, kept, good, walks = facts(w)
    assert np.all(good)
    for k in range(20):
        power = np.linalg.matrix_power((w[k] != 0).astype(int), 6)
        assert bool(acyclic[k]) == (not power.any())
        edges = np.asarray(kept[k]) != 0
        reach = np.zeros((6, 6), int)
        for _ in range(6):
            reach = ((edges + reach @ edges) > 0).astype(int)
        np.testing.assert_array_equal(walks[k], reach > 0)
        # What is dropped is a lower set of sizes, and one less would leave a cycle.
        big = np.abs(w[k]) * (np.abs(w[k]) >= 0.3)
        dropped = big[(big > 0) & ~edges]
        if dropped.size:
            assert dropped.max() < np.abs(big[edges]).min(initial=np.inf)
            more = edges | (big == dropped.max())
            assert np.linalg.matrix_power(more.astype(int), 6).any()
        np.testing.assert_array_equal(np.asarray(kept[k])[edges], w[k][edges])
    order = dag.topological_order(kept[0])
    assert dag.order_divergence(order, kept[0]) == 0
    assert dag.order_divergence(order[::-1], kept[0]) == np.sum(
        np.asarray(kept[0]) != 0
    )
    with pytest.raises(ValueError, match="`adjacency` must be acyclic"):
        dag.topological_order(jnp.ones((3, 3)))
    order = dag.order_from_adjacency(jnp.asarray(w[0]))
    assert sorted(order.tolist()) == list(range(6))


def test_accuracy_counts_edges_by_hand():
    truth = np.zeros((5, 5), int)
    truth[[0, 0, 1, 3], [1, 2, 3, 4]] = 1
    estimate = np.zeros((5, 5), int)
    # Right, reversed, extra, undirected and right, undirected and wrong.
    estimate[[0, 2, 2, 3, 2], [1, 0, 3, 1, 4]] = [1, 1, 1, -1, -1]
    got = dag.count_accuracy(estimate, truth)
    assert (got.nnz, got.shd) == (5, 4)
    assert abs(got.fdr - 3 / 5) < 1e-6
    assert abs(got.tpr - 2 / 4) < 1e-6
    assert abs(got.fpr - 3 / 6) < 1e-6
    empty = dag.count_accuracy(np.zeros((5, 5), bool), truth)
    assert (empty.fdr, empty.tpr, empty.shd) == (0, 0, 4)
    same = dag.count_accuracy(truth != 0, truth)
    assert (same.fdr, same.tpr, same.fpr, same.shd) == (0, 1, 0, 0)


def test_sortability_of_the_chain_is_the_reference(x64: None):
    stats = dag.covariance_stats(jnp.asarray(ref.chain()))
    edges = np.eye(3, k=1)
    assert dag.var_sortability(stats, edges) == 1.0
    assert abs(dag.r2_sortability(stats, edges) - 2 / 3) < 1e-12
    assert dag.var_sortability(stats, edges.T) == 0.0
    same = dag.covariance_stats(jnp.eye(3) + 0.1)
    assert dag.var_sortability(same, edges) == 0.5
    report = dag.check_scale(stats)
    assert abs(report.ratio - 6.0) < 1e-12
    assert not report.is_standardized
    assert dag.check_scale(same).is_standardized


def test_moments_equal_numpy_and_weights_equal_repeated_rows(x64: None):
    x = np.random.default_rng(0).standard_normal((9, 3)) + 2.0
    counts = np.array([2, 0, 1, 1, 3, 1, 0, 1, 2], float)
    repeated = np.repeat(x, counts.astype(int), axis=0)
    for route in ("gram", "factor"):
        run = lambda x, route=route, **kw: dag.gram_stats(x, route=route, **kw)
        stats = run(x)
        np.testing.assert_allclose(stats.gram, np.cov(x.T, bias=True), atol=1e-13)
        np.testing.assert_allclose(stats.mean, x.mean(axis=0), atol=1e-13)
        assert (stats.num_samples, stats.degrees) == (9, 8)
        raw = run(x, center=False)
        np.testing.assert_allclose(raw.gram, x.T @ x / 9, atol=1e-13)
        assert raw.degrees == 9
        weighted = run(x, weights=jnp.asarray(counts))
        np.testing.assert_allclose(
            weighted.gram, np.cov(repeated.T, bias=True), atol=1e-13
        )
        assert weighted.num_samples == 11
        spoiled = x.copy()
        spoiled[[1, 6]] = np.nan
        masked = run(spoiled, where=jnp.asarray(counts > 0))
        kept = x[counts > 0]
        np.testing.assert_allclose(masked.gram, np.cov(kept.T, bias=True), atol=1e-13)
        ridged = run(x, ridge=0.1)
        gram = np.cov(x.T, bias=True)
        want = gram + 0.1 * np.trace(gram) / 3 * np.eye(3)
        np.testing.assert_allclose(ridged.gram, want, atol=1e-13)
    few = dag.gram_stats(x[:3], ridge=0.1)
    assert np.isfinite(dag.order_loss(few, np.arange(3)))


def test_single_precision_takes_the_factor_or_warns():
    x = np.random.default_rng(0).standard_normal((50, 21)).astype(np.float32)
    factor = np.asarray(dag.gram_stats(x).factor)
    centered = x - x.mean(axis=0)
    np.testing.assert_allclose(factor.T @ factor, centered.T @ centered / 50, atol=1e-5)
    with pytest.warns(UserWarning, match="route='factor'"):
        dag.gram_stats(x, route="gram")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dag.gram_stats(x[:, :20], route="gram")
    covariance = jnp.asarray(x.T @ x / 50)
    with pytest.warns(UserWarning, match="in float32 loses") as caught:
        dag.covariance_stats(covariance)
    assert caught[0].filename == __file__
    dag.covariance_stats(covariance[:20, :20])


def test_a_covariance_is_checked_where_it_is_known():
    good = np.array([[2.0, 1.0], [1.0, 1.0]], np.float32)
    for change, why in (
        ([[0, 1e-3], [0, 0]], "symmetric"),
        ([[0, 0], [0, -0.6]], "positive semidefinite"),
    ):
        bad = good + np.array(change, np.float32)
        with pytest.raises(ValueError, match=f"`covariance` must be {why}"):
            dag.covariance_stats(bad)
        np.testing.assert_array_equal(jax.jit(dag.covariance_stats)(bad).gram, bad)


GOOD = np.random.default_rng(1).standard_normal((9, 3)) * np.array([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: x[0], "shape"),
        (lambda x: x[:1], "n >= 2"),
        (lambda x: x[:, :1], "d >= 2"),
        (lambda x: x[:3], "more rows than columns"),
        (lambda x: np.where(np.arange(3) == 1, np.nan, x), "finite.*columns 1"),
        (lambda x: np.where(np.arange(3) == 2, np.inf, x), "finite.*columns 2"),
        (lambda x: np.where(np.arange(3) == 0, 4.0, x), "constant columns 0"),
        (lambda x: np.where(np.arange(3) == 2, x[:, :1], x), "multiples.*0 and 2"),
        (lambda x: np.where(np.arange(3) == 2, 1 - 3 * x[:, :1], x), "0 and 2"),
    ],
)
def test_bad_data_are_refused_with_a_reason(change, match: str):
    with pytest.raises(ValueError, match=match):
        dag.validate_data(change(GOOD))


def test_validation_lets_good_data_through_and_casts():
    assert dag.validate_data(GOOD) is GOOD
    assert dag.validate_data((GOOD * 9).astype(int)).dtype == np.float64
    low = dag.validate_data(jnp.asarray(GOOD, jnp.bfloat16))
    assert low.dtype == np.float32
    dag.validate_data(GOOD[:3], ridge=0.1)
    z = GOOD / GOOD.std(axis=0)
    with pytest.warns(UserWarning, match="does not depend on scale"):
        dag.validate_data(z)
    dag.validate_data(z, least_squares=False)
    with pytest.raises(TypeError, match="`x` must be real"):
        dag.validate_data(GOOD + 1j)
    with pytest.raises(ValueError, match="more rows than columns"):
        dag.gram_stats(GOOD[:3])


@pytest.mark.parametrize(
    ("gram", "match"),
    [
        (np.ones((2, 3)), "shape"),
        (np.array([[1.0, 0.2], [0.1, 1.0]]), "symmetric"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "positive semidefinite"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), "finite"),
    ],
)
def test_bad_moments_are_refused_with_a_reason(gram: np.ndarray, match: str):
    with pytest.raises(ValueError, match=match):
        dag.validate_gram(gram)
    assert dag.validate_gram(np.eye(2) + 1e-12).shape == (2, 2)


def test_bad_orders_are_refused_with_a_reason():
    np.testing.assert_array_equal(
        dag.validate_order([[1, 0], [0, 1]], 2), [[1, 0], [0, 1]]
    )
    for order in ([0, 0, 1], [0, 1], [1, 2, 3]):
        with pytest.raises(ValueError, match="permutation of 0 to 2"):
            dag.validate_order(order, 3)
    with pytest.raises(TypeError, match="integers"):
        dag.validate_order([0.0, 1.0], 2)
