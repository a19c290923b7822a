"""Acyclicity, losses, stationarity and the lasso against reference numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import dag
from tests.dag import _numpy as ref

CYCLIC = np.array([[0, 0.5, 0], [0, 0, 0.25], [0.2, 0.1, 0]])
X = np.array([[1, 2, 0], [0, 1, -1], [2, -1, 1], [-1, 0, 3]], float)
W = np.array([[0, 0.5, 0], [0, 0, -0.3], [0.1, 0, 0]])

FUNCTIONS = {
    "expm": (dag.h_expm, dag.h_expm_grad, 0.03758079753100407, 1.125002109376716e-4),
    "poly": (dag.h_poly, dag.h_poly_grad, 0.01944444444444482, 2.4999999999941735e-5),
    "logdet": (
        dag.h_logdet,
        dag.h_logdet_grad,
        0.05129329438755058,
        2.2502531629754657e-4,
    ),
    "inv": (dag.h_inv, dag.h_inv_grad, 0.13157894736842124, None),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_acyclicity_has_the_reference_values_and_gradient(name: str, x64: None):
    function, gradient, at_cyclic, at_squares = FUNCTIONS[name]
    run = jax.jit(jax.vmap(lambda a: (function(a), gradient(a), jax.grad(function)(a))))
    tiny = CYCLIC * 1e-5
    acyclic = np.triu(np.full((3, 3), 0.3), 1)[[2, 0, 1]][:, [2, 0, 1]]
    values, grads, autodiff = run(np.stack([CYCLIC, W * W, tiny, acyclic]))
    assert abs(values[0] - at_cyclic) < 1e-13
    if at_squares is not None:
        assert abs(values[1] - at_squares) < 1e-14
    np.testing.assert_allclose(grads, autodiff, rtol=1e-10, atol=1e-13)
    assert abs(values[3]) < 1e-15
    if name in ("expm", "poly"):
        # Two walks to first order: no digit is lost near an acyclic graph.
        pair = 2 * tiny[1, 2] * tiny[2, 1]
        coefficient = {"expm": 0.5, "poly": 1.0 / 3.0}[name]
        assert abs(values[2] / (coefficient * pair) - 1.0) < 1e-4
        assert values[3] == 0.0
    walks = np.linalg.matrix_power(np.eye(3) + acyclic, 3) > 0
    np.testing.assert_array_equal(np.abs(grads[3]) > 1e-14, walks.T)


def test_the_gradient_of_the_log_determinant_is_the_reference(x64: None):
    want = [
        [1.026315789474, 0.052631578947, 0.210526315789],
        [0.526315789474, 1.052631578947, 0.210526315789],
        [0.131578947368, 0.263157894737, 1.052631578947],
    ]
    np.testing.assert_allclose(dag.h_logdet_grad(CYCLIC), want, atol=1e-12)
    s = 0.7
    want = -np.linalg.slogdet(s * np.eye(3) - CYCLIC)[1] + 3 * np.log(s)
    assert abs(dag.h_logdet(CYCLIC, s=s) - want) < 1e-14
    radius = np.abs(np.linalg.eigvals(CYCLIC)).max()
    assert dag.in_logdet_domain(CYCLIC, s=1.01 * radius)
    assert not dag.in_logdet_domain(CYCLIC, s=0.99 * radius)


@pytest.mark.slow
def test_the_exponential_holds_over_all_sizes(x64: None):
    import scipy.linalg

    rng = np.random.default_rng(0)
    for norm in (1e-3, 0.4, 3.0, 40.0, 300.0):
        a = rng.uniform(size=(9, 9))
        a *= norm / np.abs(a).sum(axis=0).max()
        want = scipy.linalg.expm(a)
        np.testing.assert_allclose(dag.h_expm_grad(a), want.T, rtol=1e-11)


def test_losses_have_the_reference_values(x64: None):
    stats = dag.gram_stats(jnp.asarray(X), center=False)
    assert abs(dag.least_squares_loss(stats, W) - 3.01875) < 1e-13
    grad = [[-1.525, 0.75, 0.25], [-0.05, -1.5, 0.05], [0.525, 0.375, -2.6]]
    np.testing.assert_allclose(dag.least_squares_grad(stats, W), grad, atol=1e-13)
    assert abs(dag.golem_ev_loss(stats, W) - 4.761537957654122) < 1e-12
    assert abs(dag.golem_nv_loss(stats, W) - 3.0816406705940844) < 1e-12
    binary = (X > 0).astype(float)
    losses = {
        dag.logistic_loss: (2.02613521520102, lambda m: 1 / (1 + np.exp(-m))),
        dag.poisson_loss: (3.097355204728747, np.exp),
    }
    for loss, (value, mean) in losses.items():
        average = lambda w, loss=loss: jnp.mean(loss(w, binary))
        got, slope = jax.value_and_grad(average)(jnp.asarray(W))
        assert abs(got - value) < 1e-13
        want = binary.T @ (mean(binary @ W) - binary) / 4
        np.testing.assert_allclose(slope, want, atol=1e-13)
    # Beyond a log-rate of 30 the loss goes on along the tangent, upwards.
    rate = np.array([[0, 40.0, 0], [0, 0, 0], [0, 0, 0]])
    total = lambda w: jnp.sum(dag.poisson_loss(w, jnp.array([[1.0, 0, 0]])))
    far, slope = jax.value_and_grad(total)(jnp.asarray(rate))
    np.testing.assert_allclose(far, 11.0 * np.exp(30.0) + 2.0, rtol=1e-14)
    np.testing.assert_allclose(slope[0], [0.0, np.exp(30.0), 1.0], rtol=1e-14)
    assert abs(dag.mcp_penalty(W, strength=0.1, gamma=1.0) - 0.0725) < 1e-15
    assert abs(dag.mcp_penalty(jnp.asarray([3.0]), gamma=2.0) - 0.1) < 1e-15


def test_both_routes_give_the_same_losses(x64: None):
    by_gram = dag.gram_stats(jnp.asarray(X), center=True, route="gram")
    by_factor = dag.gram_stats(jnp.asarray(X), center=True, route="factor")
    np.testing.assert_allclose(by_gram.gram, by_factor.gram, atol=1e-14)
    for loss in (dag.least_squares_loss, dag.least_squares_grad, dag.golem_nv_loss):
        np.testing.assert_allclose(loss(by_gram, W), loss(by_factor, W), atol=1e-13)


def test_bic_and_refits_equal_regressions_by_hand(x64: None):
    stats = dag.covariance_stats(jnp.asarray(ref.chain()), num_samples=100.0)
    edges = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])
    score = dag.bic_score(stats, edges, penalty=2.0)
    assert abs(score[2] - (-50 - 4 * np.log(100))) < 1e-10
    assert abs(score[0] - (-50 - 2 * np.log(100))) < 1e-10
    np.testing.assert_allclose(
        dag.ols_given_parents(stats, edges), ref.CHAIN, atol=1e-12
    )
    lone = dag.bic_score(stats, np.zeros((3, 3), int))
    want = -50 * (1 + np.log([1.0, 5.0, 6.0])) - 2 * np.log(100)
    np.testing.assert_allclose(lone, want, rtol=1e-12)
    reverse = dag.bic_score(stats, edges.T)
    assert abs(reverse.sum() - score.sum()) < 1e-9


def test_the_lasso_satisfies_its_optimality_conditions(x64: None):
    gram, order = ref.random_gram(6, 2), np.array([3, 1, 0, 5, 4, 2])
    stats = dag.covariance_stats(jnp.asarray(gram))
    run = jax.jit(
        lambda l1: dag.lasso_given_order(stats, order, l1=l1, max_sweeps=2000)
    )
    for l1 in (0.0, 0.3):
        fit = run(l1)
        assert fit.converged
        grad = -gram @ (np.eye(6) - np.asarray(fit.weights))
        position = np.argsort(order)
        for i, j in zip(
            *np.nonzero(position[:, None] < position[None, :]), strict=True
        ):
            weight = fit.weights[i, j]
            if weight:
                assert abs(grad[i, j] + l1 * np.sign(weight)) < 1e-6
            else:
                assert abs(grad[i, j]) <= l1 + 1e-6
        assert dag.kkt_residual(fit.weights, jnp.asarray(grad), l1=l1) < 1e-6
    free = dag.ols_given_order(stats, order)
    np.testing.assert_allclose(run(0.0).weights, free, atol=1e-6)
    assert np.sum(np.asarray(fit.weights) != 0) < 15


def test_kkt_sees_the_edges_that_close_no_cycle(x64: None):
    stats = dag.covariance_stats(jnp.asarray(ref.chain()))
    # 0 -> 1 alone: 2 may still be joined, in either direction.
    weights = np.zeros((3, 3))
    weights[0, 1] = 2.0
    grad = np.asarray(dag.least_squares_grad(stats, weights))
    free = np.array([[0, 1, 1], [0, 0, 1], [1, 1, 0]], bool)
    residual, pairs = (
        dag.kkt_residual(weights, grad),
        dag.candidate_pairs(weights, grad, xi=1e-9),
    )
    assert abs(residual - np.abs(grad[free]).max()) < 1e-13
    np.testing.assert_array_equal(pairs, free & (np.abs(grad) > 1e-9))
    best = dag.kkt_residual(ref.CHAIN, dag.least_squares_grad(stats, ref.CHAIN))
    assert best < 1e-13
    # The regression of any order is stationary.
    dense = dag.covariance_stats(jnp.asarray(ref.random_gram(6, 2)))
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(6)
        fit = dag.ols_given_order(dense, order)
        assert dag.kkt_residual(fit, dag.least_squares_grad(dense, fit)) < 1e-9
    # A penalty moves the optimum: within the dead zone a zero weight is stationary.
    slope = np.array([[0, 0.2, -0.7], [0, 0, 0], [0, 0, 0]])
    none = np.zeros((3, 3))
    assert abs(dag.kkt_residual(none, slope, l1=0.3) - 0.4) < 1e-13
    held = dag.candidate_pairs(weights, np.ones((3, 3)), tau=2.5)
    np.testing.assert_array_equal(held, free | ~(free | np.eye(3, dtype=bool)))
