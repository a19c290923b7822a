"""Every loss with class weights at once: formulas, symmetries, ignored samples, poles."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import hypersphere as hs
from tests.hypersphere._reference import CASES, gradients, spread_problem

pytestmark = pytest.mark.usefixtures("quick_compile")

Results = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
LENGTH_MATTERS = {"sphereface", "magface", "adaface"}


@functools.cache
def program() -> Any:
    """One program for the values of all losses and the gradients of their sums."""

    def one(name: str, x: Any, w: Any, labels: Any, where: Any) -> Any:
        case = CASES[name]
        values = hs.hypersphere_loss(
            x, w, labels, case.config, state=case.state, where=where
        )
        return jnp.sum(values), values

    def all_losses(x: Any, w: Any, labels: Any, where: Any) -> Any:
        slope = jax.value_and_grad(one, argnums=(1, 2), has_aux=True)
        return {name: slope(name, x, w, labels, where) for name in CASES}

    return jax.jit(all_losses)


def everything(x: Any, w: Any, labels: Any, where: Any = None) -> Results:
    where = np.ones(len(x), bool) if where is None else where
    out = program()(*map(jnp.asarray, (x, w, labels, where)))
    results = {}
    for name, ((_, values), (dx, dw)) in out.items():
        results[name] = tuple(np.asarray(leaf) for leaf in (values, dx, dw))
    return results


@functools.cache
def reference() -> Results:
    return everything(*spread_problem())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", list(CASES))
def test_value_and_gradients_equal_the_formulas(name: str):
    values, dx, dw = reference()[name]
    want, want_dx, want_dw = gradients(CASES[name], *spread_problem())
    np.testing.assert_allclose(values, want, rtol=1e-10, atol=1e-10)
    # Formulas of the slopes where there are any, central differences elsewhere.
    exact = CASES[name].slopes is not None and name != "adaface"
    tol = {"rtol": 1e-9, "atol": 1e-10} if exact else {"rtol": 2e-6, "atol": 2e-7}
    np.testing.assert_allclose(dx, want_dx, **tol)
    np.testing.assert_allclose(dw, want_dw, **tol)


@pytest.mark.usefixtures("x64")
def test_the_potential_has_the_gradient_of_sface():
    gated, potential = reference()["sface"], reference()["sface_potential"]
    for got, want in zip(potential[1:], gated[1:], strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * np.max(np.abs(want)))


@pytest.mark.usefixtures("x64")
def test_gradients_are_tangent_to_the_sphere():
    x, w, _ = spread_problem()
    for name, (_, dx, dw) in reference().items():
        size = 1.0 + np.max(np.abs(dx))
        along = np.max(np.abs(np.sum(x * dx, axis=1)))
        radial = name in LENGTH_MATTERS - {"adaface"}
        assert (along > 1e-3) if radial else (along < 1e-11 * size), name
        assert np.max(np.abs(np.sum(w * dw, axis=1))) < 1e-11 * size, name


@pytest.mark.usefixtures("x64")
def test_lengths_do_not_matter_but_shrink_the_gradient():
    x, w, labels = spread_problem()
    rng = np.random.default_rng(0)
    longer, thicker = rng.uniform(0.2, 5, (len(x), 1)), rng.uniform(0.2, 5, (len(w), 1))
    scaled = everything(x * longer, w * thicker, labels)
    for name, (values, dx, dw) in reference().items():
        if name not in LENGTH_MATTERS:
            tol = {"rtol": 1e-9, "atol": 1e-10, "err_msg": name}
            np.testing.assert_allclose(scaled[name][0], values, **tol)
            np.testing.assert_allclose(scaled[name][1] * longer, dx, **tol)
            np.testing.assert_allclose(scaled[name][2] * thicker, dw, **tol)


@pytest.mark.usefixtures("x64")
def test_the_order_of_samples_and_classes_does_not_matter():
    x, w, labels = spread_problem()
    rng = np.random.default_rng(1)
    samples, classes = rng.permutation(len(x)), rng.permutation(len(w))
    moved = everything(x[samples], w[classes], np.argsort(classes)[labels[samples]])
    for name, (values, dx, dw) in reference().items():
        tol = {"rtol": 1e-11, "atol": 1e-11, "err_msg": name}
        np.testing.assert_allclose(moved[name][0], values[samples], **tol)
        np.testing.assert_allclose(moved[name][1], dx[samples], **tol)
        np.testing.assert_allclose(moved[name][2], dw[classes], **tol)


@pytest.mark.usefixtures("x64")
def test_ignored_samples_leave_the_others_alone():
    x, w, labels = spread_problem()
    spoiled, kept = x.copy(), np.array([True, False, True, False, True, True])
    spoiled[1], spoiled[3] = np.nan, np.inf
    by_label = everything(spoiled, w, np.where(kept, labels, -1))
    by_mask = everything(spoiled, w, labels, kept)
    clean = everything(x, w, labels, kept)
    for name, (values, dx, dw) in by_label.items():
        np.testing.assert_array_equal(values[~kept], 0.0, err_msg=name)
        np.testing.assert_array_equal(dx[~kept], 0.0, err_msg=name)
        np.testing.assert_allclose(
            values[kept], reference()[name][0][kept], rtol=1e-11, atol=1e-11
        )
        for got in (by_mask[name], clean[name]):
            np.testing.assert_array_equal(got[0], values, err_msg=name)
            np.testing.assert_array_equal(got[1], dx, err_msg=name)
            np.testing.assert_array_equal(got[2], dw, err_msg=name)


@pytest.mark.usefixtures("x64")
def test_nothing_counts():
    x, w, _ = spread_problem()
    for name, results in everything(x, w, np.full(len(x), -1)).items():
        for leaf in results:
            np.testing.assert_array_equal(leaf, 0.0, err_msg=name)


@pytest.mark.usefixtures("x64")
def test_a_traced_label_out_of_range_is_nan_and_trains_nothing():
    x, w, labels = spread_problem()
    wrong = labels.copy()
    wrong[1], wrong[4] = len(w), -2
    without = everything(x, w, np.where(wrong == labels, labels, -1))
    bad = wrong != labels
    for name, (values, dx, dw) in everything(x, w, wrong).items():
        assert np.all(np.isnan(values) == bad), name
        np.testing.assert_array_equal(dx, without[name][1], err_msg=name)
        np.testing.assert_array_equal(dw, without[name][2], err_msg=name)


def poles() -> tuple[np.ndarray, ...]:
    """Samples on their class, opposite to it, and of length 0; equal and zero weights."""
    w = np.array([[0, 0, 2, 1], [1, -2, 0.5, 0.3], [1, -2, 0.5, 0.3], [0, 0, 0, 0]] * 2)
    w = w[:5]
    x = np.array([w[1], -w[1], 0 * w[1], w[0] * 1e-12, w[0] * 1e12, w[2]])
    return x, w, np.array([1, 2, 0, 0, 4, 3])


def hunt_nans(x: Any, w: Any, labels: Any) -> None:
    with jax.debug_nans(True):
        results = everything(x, w, labels)
    for name, (values, dx, dw) in results.items():
        for leaf in (values, dx, dw):
            assert np.all(np.isfinite(leaf)), name
        # Nothing moves a sample or a class that has no direction.
        np.testing.assert_array_equal(dx[2], 0.0, err_msg=name)
        np.testing.assert_array_equal(dw[3], 0.0, err_msg=name)


@pytest.mark.usefixtures("x64")
def test_poles_zeros_and_duplicates_are_finite():
    hunt_nans(*poles())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_poles_zeros_and_duplicates_are_finite_in_low_precision(dtype: Any):
    x, w, labels = poles()
    hunt_nans(*(jnp.asarray(part, dtype) for part in (x, w)), labels)


@pytest.mark.slow
def test_lengths_that_overflow_or_vanish_when_squared():
    x, w, labels = (np.asarray(part, np.float32) for part in spread_problem())
    far, near = np.float32(1e25), np.float32(1e-25)
    scaled = everything(x * far, w * near, labels.astype(np.int32))
    plain = everything(x, w, labels.astype(np.int32))
    for name, (values, dx, _) in plain.items():
        if name not in LENGTH_MATTERS:
            np.testing.assert_allclose(scaled[name][0], values, rtol=1e-3, atol=1e-4)
            size = np.max(np.abs(dx))
            assert np.max(np.abs(scaled[name][1] * far - dx)) < 1e-3 * size, name


@pytest.mark.slow
def test_single_precision_is_close():
    x, w, labels = (np.asarray(part, np.float32) for part in spread_problem())
    with jax.enable_x64(True):
        exact = reference()
    for name, (values, dx, dw) in everything(x, w, labels.astype(np.int32)).items():
        for got, want in zip((values, dx, dw), exact[name], strict=True):
            assert got.dtype == np.float32
            size = 1.0 + np.max(np.abs(want))
            np.testing.assert_allclose(
                got, want, atol=2e-5 * size, rtol=0, err_msg=name
            )
