"""Regressions, tables of moves and their selection against brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import dag, ops
from tests.dag import _numpy as ref

D = 7


@pytest.fixture
def problems(x64: None):
    """Gram matrices with an order each, one compiled program for all."""
    grams = [ref.random_gram(D, seed) for seed in range(6)]
    orders = [np.random.default_rng(seed).permutation(D) for seed in range(6)]
    return np.stack(grams), np.stack(orders).astype(np.int32)


def stacked_stats(grams: np.ndarray) -> dag.GramStats:
    return jax.vmap(lambda g: dag.covariance_stats(g, num_samples=50.0))(
        jnp.asarray(grams)
    )


def test_the_chain_has_the_losses_of_the_reference(x64: None):
    stats = dag.covariance_stats(jnp.asarray(ref.chain()))
    orders = np.array(list(itertools.permutations(range(3))), np.int32)
    losses = jax.vmap(lambda o: dag.order_loss(stats, o))(orders)
    want = [1.5, 1.75, 3.1, 3.1, 41 / 12, 211 / 60]
    np.testing.assert_allclose(losses, want, rtol=1e-12)
    order = np.array([0, 2, 1])
    residuals = dag.residual_variances(stats, order)
    np.testing.assert_allclose(residuals, [1.0, 2.0, 0.5], rtol=1e-12)
    weights = dag.ols_given_order(stats, order)
    want_weights = [[0, 1, -2], [0, 0, 0], [0, -0.5, 0]]
    np.testing.assert_allclose(weights, want_weights, atol=1e-12)
    np.testing.assert_array_equal(dag.eqvar_order(stats), [0, 1, 2])
    grad = dag.least_squares_grad(stats, weights)
    want_grad = [[-1, 0, 0], [-2, -0.5, 1], [2, 0, -2]]
    np.testing.assert_allclose(grad, want_grad, atol=1e-12)
    walks = dag.h_logdet_grad(jnp.abs(weights))
    np.testing.assert_allclose(walks, [[1, 0, 0], [2, 1, 0.5], [2, 0, 1]], atol=1e-12)

    tables = jax.vmap(
        lambda o: (
            dag.insertion_deltas(*dag.order_cholesky(stats, o)),
            dag.swap_deltas(*dag.order_cholesky(stats, o)),
        )
    )(np.array([[2, 1, 0], [2, 0, 1]], np.int32))
    a, b, c = 5 / 6, 53 / 15, 23 / 6
    first = [[0, -a, -a], [-a, 0, -0.2], [-b, -0.2, 0]]
    second = [[0, -10 / 3, -c], [-10 / 3, 0, 0.2], [-19 / 30, 0.2, 0]]
    np.testing.assert_allclose(tables[0], [first, second], atol=1e-12)
    swaps = [[0, -a, -121 / 30], [-a, 0, -0.2], [-121 / 30, -0.2, 0]]
    np.testing.assert_allclose(tables[1][0], swaps, atol=1e-12)


@pytest.mark.slow
def test_the_diamond_has_the_tables_of_the_reference(x64: None):
    stats = dag.covariance_stats(jnp.asarray(ref.diamond()))
    order = np.array([3, 1, 0, 2])
    residuals = dag.residual_variances(stats, order)
    want = [2.9381, 3.012695279262108, 0.2756563785078404, 0.4098360655737706]
    np.testing.assert_allclose(residuals, want, rtol=1e-10)
    assert abs(dag.order_loss(stats, order) - 3.3181438616718597) < 1e-12
    factors = dag.order_cholesky(stats, order)
    table = dag.insertion_deltas(*factors)
    row_0 = [0, 0.022773951507, -0.228759350078, -1.078595415651]
    row_3 = [-1.479982436438, -1.137202078467, 0.011045535313, 0]
    np.testing.assert_allclose(table[0], row_0, atol=1e-11)
    np.testing.assert_allclose(table[3], row_3, atol=1e-11)
    swaps = dag.swap_deltas(*factors)[np.triu_indices(4, 1)]
    want = [
        0.022773951507,
        -1.786451657770,
        -1.367267095091,
        -1.458344036351,
        -1.399930412250,
        0.011045535313,
    ]
    np.testing.assert_allclose(swaps, want, atol=1e-11)
    best = dag.exact_order(stats)
    np.testing.assert_array_equal(best.order[jnp.array([0, 3])], [0, 3])
    assert abs(best.loss - 2.0) < 1e-12


def test_weights_and_variances_equal_one_regression_per_node(problems):
    grams, orders = problems
    run = jax.jit(
        jax.vmap(
            lambda s, o: (
                dag.ols_given_order(s, o),
                dag.residual_variances(s, o),
                dag.edge_tstats(s, o),
                dag.partial_correlations(s, o),
            )
        )
    )
    weights, variances, tstats, partial = run(stacked_stats(grams), orders)
    for k, (gram, order) in enumerate(zip(grams, orders, strict=True)):
        want, left = ref.regressions(gram, order)
        np.testing.assert_allclose(weights[k], want, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(variances[k], left, rtol=1e-9)
        # Textbook standard errors and partial correlations of one regression.
        m = 5
        before, node = order[:m], order[m]
        inverse = np.linalg.inv(gram[np.ix_(before, before)])
        error = np.sqrt(left[m] * np.diag(inverse) / (49.0 - m))
        np.testing.assert_allclose(
            tstats[k][before, node], want[before, node] / error, rtol=1e-9
        )
        precision = np.linalg.inv(gram[np.ix_(order[: m + 1], order[: m + 1])])
        scale = np.sqrt(np.diag(precision)[:m] * precision[m, m])
        np.testing.assert_allclose(
            partial[k][before, node], -precision[:m, m] / scale, rtol=1e-9
        )
        later = np.triu(np.ones((D, D), bool))[np.ix_(*[np.argsort(order)] * 2)].T
        for matrix in (weights, tstats, partial):
            assert not np.any(np.asarray(matrix[k])[later])


def test_tables_equal_brute_force(problems):
    grams, orders = problems

    def tables(stats: dag.GramStats, order: jax.Array):
        lower, inverse = dag.order_cholesky(stats, order)
        return (
            dag.insertion_deltas(lower, inverse),
            dag.swap_deltas(lower, inverse),
            dag.adjacent_swap_deltas(lower),
        )

    insertions, swaps, neighbors = jax.jit(jax.vmap(tables))(
        stacked_stats(grams), orders
    )
    for k, (gram, order) in enumerate(zip(grams, orders, strict=True)):
        here = ref.brute_loss(gram, order)
        for p, q in itertools.product(range(D), range(D)):
            change = ref.brute_loss(gram, ref.inserted(order, p, q)) - here
            assert abs(insertions[k, p, q] - 2 * change) < 1e-10 * here
            change = ref.brute_loss(gram, ref.swapped(order, p, q)) - here
            assert abs(swaps[k, p, q] - 2 * change) < 1e-10 * here
        side = np.diagonal(insertions[k], 1)
        np.testing.assert_allclose(neighbors[k], side, rtol=1e-9, atol=1e-11 * here)


@pytest.mark.slow
@pytest.mark.parametrize("d", [2, 12, 70])
def test_tables_of_other_sizes_equal_brute_force(d: int, x64: None):
    gram = ref.random_gram(d, 3)
    order = np.random.default_rng(d).permutation(d)
    stats = dag.covariance_stats(jnp.asarray(gram))
    factors = dag.order_cholesky(stats, order)
    insertions, swaps = dag.insertion_deltas(*factors), dag.swap_deltas(*factors)

    def loss(order: np.ndarray) -> float:
        factor = np.linalg.cholesky(gram[np.ix_(order, order)])
        return 0.5 * np.sum(np.diag(factor) ** 2)

    rng = np.random.default_rng(0)
    for p, q in rng.integers(0, d, (60, 2)):
        change = 2 * (loss(ref.inserted(order, p, q)) - loss(order))
        assert abs(insertions[p, q] - change) < 1e-10 * loss(order)
        change = 2 * (loss(ref.swapped(order, p, q)) - loss(order))
        assert abs(swaps[p, q] - change) < 1e-10 * loss(order)


def test_nonequal_variances_say_nothing_about_dense_orders(problems):
    grams, orders = problems
    run = jax.jit(jax.vmap(dag.residual_variances))
    variances = run(stacked_stats(grams[:1].repeat(6, axis=0)), orders)
    total = np.sum(np.log(variances), axis=1)
    np.testing.assert_allclose(total, np.linalg.slogdet(grams[0])[1], rtol=1e-10)


def all_selections(w: np.ndarray, start: int = 0) -> float:
    """The best sum of disjoint intervals, by trying every set."""
    d = len(w)
    if start >= d - 1:
        return 0.0
    options = [all_selections(w, start + 1)]
    options += [w[start, q] + all_selections(w, q + 1) for q in range(start + 1, d)]
    return min(options)


def greedy_selection(w: np.ndarray) -> list[int]:
    starts, taken = [-1] * len(w), []
    pairs = sorted((w[p, q], p, q) for p, q in np.argwhere(np.triu(np.ones_like(w), 1)))
    for value, p, q in pairs:
        if value < 0 and all(q < a or p > b for a, b in taken):
            taken.append((p, q))
            starts[q] = int(p)
    return starts


def test_selections_are_what_they_say():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((8, D, D)).astype(np.float32)
    w[0] = np.abs(w[0])
    w[1] = np.nan
    runs = {
        method: jax.jit(
            jax.vmap(lambda x, method=method: dag.select_disjoint(x, method=method))
        )(w)
        for method in ("optimal", "greedy", "best")
    }
    for method, (delta, starts) in runs.items():
        assert delta[0] == delta[1] == 0.0
        assert np.all(np.asarray(starts[:2]) == -1)
        for k in range(2, 8):
            ends = np.flatnonzero(np.asarray(starts[k]) >= 0)
            chosen = [(int(starts[k, q]), int(q)) for q in ends]
            total = sum(w[k, p, q] for p, q in chosen)
            assert abs(delta[k] - total) < 1e-5
            assert all(a[1] < b[0] for a, b in itertools.pairwise(chosen)), method
            if method == "optimal":
                assert abs(delta[k] - all_selections(w[k])) < 1e-5
            if method == "greedy":
                assert starts[k].tolist() == greedy_selection(w[k])
            if method == "best":
                assert abs(delta[k] - np.min(w[k][np.triu_indices(D, 1)])) < 1e-6


def test_moves_do_to_an_order_what_they_do_to_a_list():
    order = np.array([4, 2, 6, 0, 1, 3, 5])
    starts = np.array([-1, -1, 0, -1, -1, 3, -1])
    kinds = np.array([[0, 0, k, 0, 0, k, 0] for k in range(3)])
    moved = jax.vmap(lambda k: dag.apply_moves(order, starts, k))(kinds)
    assert moved.tolist() == [
        [6, 2, 4, 3, 1, 0, 5],
        [2, 6, 4, 1, 3, 0, 5],
        [6, 4, 2, 3, 0, 1, 5],
    ]


def test_eqvar_order_takes_the_least_conditional_variance(problems):
    grams, _ = problems

    def by_hand(gram: np.ndarray) -> list[int]:
        order: list[int] = []
        while len(order) < D:
            left = [j for j in range(D) if j not in order]
            cost = [ref.regressions(gram, [*order, j])[1][-1] for j in left]
            order.append(left[int(np.argmin(cost))])
        return order

    ordered = jax.jit(jax.vmap(dag.eqvar_order))(stacked_stats(grams))
    assert ordered.tolist() == [by_hand(gram) for gram in grams]


@pytest.mark.slow
def test_eqvar_order_in_blocks_equals_one_column_at_a_time(x64: None):
    gram = ref.random_gram(70, 0)
    taken: list[int] = []
    rest = gram.copy()
    for _ in range(70):
        cost = np.where(np.isin(np.arange(70), taken), np.inf, np.diag(rest))
        j = int(np.argmin(cost))
        taken.append(j)
        rest = rest - np.outer(rest[:, j], rest[j]) / rest[j, j]
    stats = dag.covariance_stats(jnp.asarray(gram))
    assert dag.eqvar_order(stats).tolist() == taken
    factor = jnp.linalg.cholesky(stats.gram).T
    assert dag.eqvar_order(stats._replace(factor=factor)).tolist() == taken


def test_orders_respect_precedences():
    gram = ref.random_gram(D, 0).astype(np.float32)
    stats = dag.covariance_stats(jnp.asarray(gram))
    required = np.zeros((D, D), bool)
    required[[6, 5, 0, 2], [5, 0, 1, 1]] = True

    @jax.jit
    def orders(key: jax.Array):
        return (
            dag.eqvar_order(stats, precedence=required),
            dag.variance_order(stats, precedence=required),
            dag.sample_order(key, D, precedence=required),
        )

    for seed in range(5):
        for order in orders(jax.random.key(seed)):
            assert sorted(order.tolist()) == list(range(D))
            assert dag.order_divergence(order, required) == 0


def test_gradient_flow_under_the_mask_follows_its_closed_form(x64: None):
    gram, order = ref.random_gram(4, 1), np.array([2, 0, 3, 1])
    stats = dag.covariance_stats(jnp.asarray(gram))
    position = np.argsort(order)
    allowed = jnp.asarray(position[:, None] < position[None, :])

    def field(_: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.where(allowed, -dag.least_squares_grad(stats, weights), 0.0)

    times = jnp.array([0.0, 0.3, 1.0])
    flow = ops.integrate(field, jnp.zeros((4, 4)), times, substeps=100)
    for time, weights in zip(times, flow, strict=True):
        want = np.zeros((4, 4))
        for m in range(1, 4):
            before, node = order[:m], order[m]
            values, vectors = np.linalg.eigh(gram[np.ix_(before, before)])
            gain = (1.0 - np.exp(-values * float(time))) / values
            target = vectors.T @ gram[before, node]
            want[before, node] = vectors @ (gain * target)
        np.testing.assert_allclose(weights, want, atol=1e-8)
    slowest = min(
        np.linalg.eigvalsh(gram[np.ix_(order[:m], order[:m])])[0] for m in (1, 2, 3)
    )
    step = 1.0 / np.linalg.eigvalsh(gram)[-1]
    weights = jnp.zeros((4, 4))
    descend = jax.jit(
        lambda w: jax.lax.fori_loop(
            0, int(40 / (step * slowest)), lambda _, w: w + step * field(0.0, w), w
        )
    )
    ols = dag.ols_given_order(stats, order)
    np.testing.assert_allclose(descend(weights), ols, atol=1e-10)


def test_a_bad_order_or_matrix_gives_nan_not_a_number(x64: None):
    stats = dag.covariance_stats(jnp.asarray(ref.chain()))
    assert np.isnan(dag.order_loss(stats, np.array([0, 1, 1])))
    assert np.isnan(dag.order_loss(stats, np.array([0, 1, 3])))
    singular = dag.covariance_stats(jnp.ones((3, 3)))
    assert np.isnan(dag.order_loss(singular, np.array([0, 1, 2])))
