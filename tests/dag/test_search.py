"""Searches over orders: optimality, the original's steps, transformations."""

import itertools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import dag, ops
from tests.dag import _numpy as ref

D = 8
SACHS = Path(__file__).parents[3] / "shared" / "data"


def linear_stats(d: int, seed: int, **options) -> tuple[dag.GramStats, np.ndarray]:
    x, weights = ref.er_data(d, seed, **options)
    return dag.gram_stats(jnp.asarray(x)), weights


def test_no_move_improves_where_a_search_ends(x64: None):
    stats, _ = linear_stats(D, 0)
    gram = np.asarray(stats.gram)
    result = dag.topo_search(stats, np.arange(D))
    order = np.asarray(result.order)
    assert result.converged
    assert abs(result.loss - ref.brute_loss(gram, order)) < 1e-10
    for p in range(D):
        for q in range(D):
            moved = ref.brute_loss(gram, ref.inserted(order, p, q))
            assert moved > result.loss - 1e-8
    history = np.asarray(result.loss_history)
    steps = int(result.num_steps)
    assert np.all(np.diff(history[: steps + 1]) < 0)
    assert np.all(history[steps:] == float(result.loss))
    weights, _ = ref.regressions(gram, order)
    np.testing.assert_allclose(result.weights, weights, atol=1e-9)
    grad = dag.least_squares_grad(stats, result.weights)
    assert dag.kkt_residual(result.weights, grad) < 1e-9
    assert not np.any(dag.candidate_pairs(result.weights, grad, xi=1e-9))


def test_steps_by_hand_are_the_search(x64: None):
    stats, _ = linear_stats(D, 0)
    state = dag.init_topo(stats, np.arange(D))
    while not state.done:
        state = dag.topo_step(stats, state)
    result = dag.topo_search(stats, np.arange(D))
    np.testing.assert_array_equal(state.order, result.order)
    assert state.loss == result.loss


def test_the_oracle_is_the_best_of_all_orders(x64: None):
    gram = ref.random_gram(6, 0)
    losses = {
        o: ref.brute_loss(gram, np.array(o)) for o in itertools.permutations(range(6))
    }
    best = dag.exact_order(dag.covariance_stats(jnp.asarray(gram)))
    assert abs(best.loss - min(losses.values())) < 1e-12
    assert abs(losses[tuple(best.order.tolist())] - best.loss) < 1e-12


@pytest.mark.slow
def test_insertions_reach_the_oracle_from_every_start(x64: None):
    reached = []
    for seed in range(3):
        stats, _ = linear_stats(11, seed)
        best = dag.exact_order(stats)
        found = dag.topo_search_restarts(jax.random.key(seed), stats, 256)
        gap = np.asarray(found.losses) / float(best.loss) - 1.0
        assert gap.min() > -1e-12
        assert found.best.loss <= best.loss * (1 + 1e-9)
        reached.append(np.mean(gap < 1e-9))
    assert min(reached) > 0.99


@pytest.mark.slow
def test_every_transformation_gives_the_same_search(x64: None):
    stats, _ = linear_stats(D, 1)
    rng = np.random.default_rng(0)
    orders = np.stack([rng.permutation(D) for _ in range(4)]).astype(np.int32)
    search = jax.jit(jax.vmap(lambda o: dag.topo_search(stats, o)))
    together = search(jnp.asarray(orders))
    mesh = ops.data_mesh(4)
    sharded = search(ops.shard_batch(jnp.asarray(orders), mesh))
    for k, order in enumerate(orders):
        alone = dag.topo_search(stats, order)
        for other in (together, sharded):
            np.testing.assert_array_equal(other.order[k], alone.order)
            assert other.num_steps[k] == alone.num_steps
            np.testing.assert_allclose(other.loss[k], alone.loss, rtol=1e-12)
            np.testing.assert_allclose(other.weights[k], alone.weights, atol=1e-10)


def test_one_program_serves_all_data_orders_and_tolerances():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def search(stats: dag.GramStats, order: jax.Array, tol: jax.Array):
        return dag.topo_search(stats, order, dag.TopoConfig(tol=tol))

    for seed, tol in ((0, 1e-5), (1, 1e-4)):
        x, _ = ref.er_data(D, seed)
        stats = dag.gram_stats(jnp.asarray(x, jnp.float32))
        order = np.random.default_rng(seed).permutation(D).astype(np.int32)
        assert search(stats, order, jnp.float32(tol)).converged


@pytest.mark.slow
def test_precedences_hold_throughout(x64: None):
    stats, weights = linear_stats(D, 2)
    true = np.asarray(dag.topological_order(jnp.asarray(weights)))
    required = np.zeros((D, D), bool)
    # Against the truth: without the precedences the search would undo them.
    required[true[-1], true[0]] = required[true[0], true[1]] = True
    config = dag.TopoConfig(precedence=jnp.asarray(required), moves="both")
    start = dag.eqvar_order(stats, precedence=required)
    result = dag.topo_search(stats, start, config)
    assert dag.order_divergence(result.order, required) == 0
    assert result.loss <= dag.order_loss(stats, start)
    gram, order = np.asarray(stats.gram), np.asarray(result.order)
    for p in range(D):
        for q in range(D):
            for other in (ref.inserted(order, p, q), ref.swapped(order, p, q)):
                position = np.argsort(other)
                if not np.any(required & (position[:, None] > position[None, :])):
                    assert ref.brute_loss(gram, other) > result.loss - 1e-8


def test_contradictions_are_refused_on_the_host(x64: None):
    stats, _ = linear_stats(D, 0)
    required = np.zeros((D, D), bool)
    required[0, 1] = True
    config = dag.TopoConfig(precedence=required)
    with pytest.raises(ValueError, match=r"`order` must agree.*got 1 before 0"):
        dag.topo_search(stats, np.arange(D)[::-1], config)
    required[1, 0] = True
    with pytest.raises(ValueError, match="`precedence` must be acyclic"):
        dag.topo_search(stats, np.arange(D), dag.TopoConfig(precedence=required))
    with pytest.raises(ValueError, match="`order` must be a permutation"):
        dag.topo_search(stats, np.zeros(D, int))
    with pytest.raises(ValueError, match="`score` 'nv' cannot tell"):
        dag.TopoConfig(score="nv")
    with pytest.raises(ValueError, match="`num_large` must be at most 28"):
        dag.topo_paper(stats, np.arange(D), num_large=29)
    with pytest.raises(ValueError, match="`num_small` must be at least 1"):
        dag.topo_paper(stats, np.arange(D), num_small=0)


def test_standardized_data_raise_a_warning_that_names_the_remedy(x64: None):
    x, _ = ref.er_data(D, 0)
    stats = dag.gram_stats(jnp.asarray(x / x.std(axis=0)))
    with pytest.warns(UserWarning, match="sparse BIC") as caught:
        dag.topo_search(stats, np.arange(D))
    assert caught[0].filename == __file__
    # Warnings are errors here, so nothing is compiled.
    for search in (dag.notears, dag.dagma, dag.golem):
        with pytest.raises(UserWarning, match="sparse BIC"):
            search(stats)


def test_singular_moments_end_the_search_at_once(x64: None):
    gram = ref.random_gram(D, 0)
    gram[:, 1], gram[1, :] = gram[:, 0], gram[0, :]
    gram[1, 1] = gram[0, 0]
    stats = dag.covariance_stats(jnp.asarray(gram))
    factor = np.linalg.qr(np.random.default_rng(0).standard_normal((20, D)))[1]
    factor[:, 1] = factor[:, 0]
    for bad in (stats, stats._replace(factor=jnp.asarray(factor))):
        result = dag.topo_search(bad, np.arange(D))
        assert np.isnan(result.loss)
        assert not result.converged
        assert result.num_steps == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_original_search_ends_in_the_identical_order(seed: int, x64: None):
    noise = ("normal", "gumbel", "exp")[seed]
    x, _ = ref.er_data(D, seed, n=200, noise=noise)
    order = np.random.default_rng(seed + 100).permutation(D)
    # Small sets, so that both stages and the budget come into play.
    sizes = (4, 12, 2)
    want, loss, steps = ref.released_topo(x, order, *sizes)
    stats = dag.gram_stats(jnp.asarray(x), center=False)
    got = dag.topo_paper(
        stats,
        order,
        num_small=sizes[0],
        num_large=sizes[1],
        num_large_searches=sizes[2],
    )
    np.testing.assert_array_equal(got.order, want)
    assert got.num_steps == steps
    assert abs(got.loss - loss) < 1e-9 * loss


def test_the_sizes_are_those_of_the_released_package():
    sizes = {10: (15, 28, 1), 20: (30, 110, 1), 50: (75, 588, 1), 100: (150, 1980, 1)}
    for d, want in sizes.items():
        assert dag.topo_paper_sizes(d) == want
    for d in range(2, 8):
        small, large, _ = dag.topo_paper_sizes(d)
        assert 1 <= small <= large <= d * (d - 1) // 2


@pytest.mark.slow
def test_insertions_are_no_worse_than_the_original_on_thirty_graphs(x64: None):
    for d, bound in ((10, 1e-6), (20, 1e-6), (40, 1e-5)):
        gaps = []
        for seed in range(10):
            stats, _ = linear_stats(d, seed, n=1000, per_node=2 + seed % 3)
            order = np.random.default_rng(seed).permutation(d)
            paper = dag.topo_paper(stats, order)
            search = dag.topo_search(stats, order)
            gaps.append(float(search.loss / paper.loss) - 1.0)
        assert max(gaps) <= bound, (d, gaps)


@pytest.mark.slow
def test_the_factor_route_keeps_the_loss_in_float32():
    x, _ = ref.er_data(100, 0, n=1000, per_node=4)
    with jax.enable_x64(True):
        wide = dag.gram_stats(jnp.asarray(x))
        order = np.asarray(dag.eqvar_order(wide))
        want = dag.topo_search(wide, order)
        before = float(dag.order_loss(wide, order))
    narrow = dag.gram_stats(jnp.asarray(x, jnp.float32))
    assert np.asarray(narrow.factor).shape == narrow.gram.shape
    loss = dag.order_loss(narrow, order)
    assert abs(float(loss) / before - 1.0) < 1e-5
    got = dag.topo_search(narrow, dag.eqvar_order(narrow))
    assert got.converged
    assert abs(float(got.loss) / float(want.loss) - 1.0) < 1e-5
    with jax.enable_x64(True):
        true = float(dag.order_loss(wide, np.asarray(got.order)))
    assert abs(true / float(want.loss) - 1.0) < 1e-6


@pytest.mark.slow
def test_restarts_in_batches_end_alike(x64: None):
    stats, _ = linear_stats(D, 3)
    run = lambda size: dag.topo_search_restarts(
        jax.random.key(0), stats, 6, batch_size=size
    )
    whole, parts = run(None), run(4)
    np.testing.assert_array_equal(whole.orders, parts.orders)
    assert whole.best.loss == np.min(whole.losses)


@pytest.mark.slow
@pytest.mark.parametrize("d", [140])
def test_carried_factors_find_what_fresh_ones_find(d: int, x64: None):
    # From this size on a CPU carries its factors through moves, but not in a batch.
    stats, _ = linear_stats(d, 0, n=1000)
    order = np.random.default_rng(0).permutation(d).astype(np.int32)
    alone = dag.topo_search(stats, order)
    batch = jax.vmap(lambda o: dag.topo_search(stats, o))(jnp.asarray(order[None]))
    np.testing.assert_array_equal(alone.order, batch.order[0])
    assert alone.num_steps == batch.num_steps[0]
    assert alone.converged
    exact = dag.order_loss(stats, alone.order)
    np.testing.assert_allclose(alone.loss, exact, rtol=1e-13)


@pytest.mark.slow
@pytest.mark.skipif(not SACHS.exists(), reason="the protein data are not there")
def test_the_proteins_have_the_reference_optima(x64: None):
    raw = np.loadtxt(SACHS / "sachs_observational_853.csv", delimiter=",", skiprows=1)
    scaled = lambda x: (x - x.mean(axis=0)) / x.std(axis=0)
    data = np.stack([raw, scaled(raw), np.log(raw), scaled(np.log(raw))])
    stats = jax.vmap(lambda x: dag.gram_stats(x))(jnp.asarray(data))
    best = jax.vmap(dag.exact_order)(stats)
    want = [73964.552279, 4.159683, 2.819591, 4.575405]
    np.testing.assert_allclose(best.loss, want, atol=5e-7)
    first = jax.tree.map(lambda leaf: leaf[0], stats)
    weights = dag.ols_given_order(first, best.order[0])
    edges = np.abs(np.asarray(weights)) >= 0.3
    lines = (SACHS / "sachs_edges.csv").read_text().split()[1:]
    table = (SACHS / "sachs_observational_853.csv").read_text()
    names = table.splitlines()[0].split(",")
    for column, distance in ((2, 11), (3, 15)):
        truth = np.zeros((11, 11), bool)
        for line in lines:
            cells = line.split(",")
            if cells[column] == "1":
                truth[names.index(cells[0]), names.index(cells[1])] = True
        accuracy = dag.count_accuracy(edges, truth)
        assert (accuracy.nnz, accuracy.shd) == (15, distance)
