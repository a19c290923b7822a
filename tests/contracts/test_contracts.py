"""Runs every public function through the promises of the house.

A public name without a row in one of the tables fails `test_every_name_has_a_row`.
"""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxkit
from jaxkit import ops
from tests.contracts import (
    _adapter_rows,
    _anchored_rows,
    _coreset_rows,
    _entanglement_rows,
    _gram_rows,
    _hypersphere_rows,
    _krr_rows,
    _log_softmax_rows,
    _mesa_rows,
    _metric_learning_rows,
    _ops_rows,
    _order_search_rows,
    _pool_rows,
    _preference_rows,
    _selm_rows,
    _streaming_rows,
    _structure_rows,
)
from tests.contracts._contract import Bad, Contract, cast, scalarize

TABLES: tuple[tuple[str, Any], ...] = (
    ("ops", _ops_rows),
    ("ops", _log_softmax_rows),
    ("mesa", _mesa_rows),
    ("preference", _preference_rows),
    ("preference", _adapter_rows),
    ("preference", _anchored_rows),
    ("preference", _selm_rows),
    ("entanglement", _entanglement_rows),
    ("entanglement", _gram_rows),
    ("hypersphere", _hypersphere_rows),
    ("hypersphere", _streaming_rows),
    ("hypersphere", _metric_learning_rows),
    ("distillation", _krr_rows),
    ("distillation", _pool_rows),
    ("distillation", _coreset_rows),
    ("dag", _order_search_rows),
    ("dag", _structure_rows),
)
ROWS: dict[str, Contract] = {
    f"{package}.{name}": row
    for package, table in TABLES
    for name, row in table.ROWS.items()
}
ELSEWHERE: dict[str, str] = {
    f"{package}.{name}": why
    for package, table in TABLES
    for name, why in table.ELSEWHERE.items()
}
PACKAGES = {
    "ops": jaxkit.ops,
    "mesa": jaxkit.mesa,
    "preference": jaxkit.preference,
    "entanglement": jaxkit.entanglement,
    "hypersphere": jaxkit.hypersphere,
    "distillation": jaxkit.distillation,
    "dag": jaxkit.dag,
}


def public_names() -> set[str]:
    return {
        f"{package}.{name}"
        for package, module in PACKAGES.items()
        for name in module.__all__
    }


def rows(condition: Any = lambda row: True) -> Any:
    """Selects rows; the variants of a function, after a colon, are slow tests."""
    names = [
        pytest.param(name, marks=pytest.mark.slow if ":" in name else ())
        for name, row in ROWS.items()
        if condition(row)
    ]
    return pytest.mark.parametrize("name", names)


@contextmanager
def few_optimizations() -> Iterator[None]:
    """Compiles without most optimizations, which for tiny programs cost the most."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def quick_compile() -> Iterator[None]:
    """For checks of mathematics; others run what users run."""
    with few_optimizations():
        yield


def assert_close(got: Any, want: Any, *, rtol: float, atol: float) -> None:
    as_numpy = lambda tree: jax.tree.map(
        lambda x: (
            np.asarray(x)
            if not jnp.issubdtype(x.dtype, jnp.floating)
            else np.asarray(x, np.float64)
        ),
        tree,
    )
    chex.assert_trees_all_close(as_numpy(got), as_numpy(want), rtol=rtol, atol=atol)


def all_finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


def test_every_name_has_a_row():
    in_rows = {name.split(":")[0] for name in ROWS}
    assert public_names() - in_rows - set(ELSEWHERE) == set()
    assert in_rows | set(ELSEWHERE) == public_names()
    assert in_rows & set(ELSEWHERE) == set()


def test_the_packages_checked_are_all_there_are():
    checked = set(PACKAGES) | {"__version__", "nn", "typing"}
    assert set(jaxkit.__all__) == checked


@pytest.mark.parametrize("name", sorted(public_names()))
def test_docstring_is_complete(name: str):
    package, attribute = name.split(".")
    thing = getattr(PACKAGES[package], attribute)
    if isinstance(thing, dict):
        return
    doc = inspect.getdoc(thing) or ""
    if inspect.isclass(thing):
        assert len(doc.splitlines()) > 3
        return
    for section in ("Args:", "Returns:", "Examples:"):
        assert section in doc or (
            section == "Args:" and "()" in str(inspect.signature(thing))
        )
    assert ">>>" in doc
    for parameter in inspect.signature(thing).parameters:
        assert re.search(rf"^\s+{parameter}: ", doc, re.M), parameter


@pytest.mark.slow
@rows()
def test_jit_equals_eager(name: str, x64: None):
    row = ROWS[name]
    args = row.args()
    compiled = row.call(*args)
    with jax.disable_jit(), few_optimizations():
        eager = row.call(*args)
    assert_close(compiled, eager, rtol=1e-9, atol=1e-11)


@rows(lambda row: row.vmapped != ())
def test_vmap_equals_loop(name: str, x64: None, quick_compile: None):
    row = ROWS[name]
    first, second = row.args(0), row.args(1)
    mapped = range(len(first)) if row.vmapped is None else row.vmapped
    axes = tuple(0 if i in mapped else None for i in range(len(first)))
    stacked = tuple(
        jax.tree.map(lambda a, b: jnp.stack([jnp.asarray(a), jnp.asarray(b)]), a, b)
        if axis == 0
        else a
        for a, b, axis in zip(first, second, axes, strict=True)
    )
    second = tuple(
        b if axis == 0 else a for a, b, axis in zip(first, second, axes, strict=True)
    )
    together = jax.vmap(row.call, in_axes=axes)(*stacked)
    alone = jax.tree.map(
        lambda a, b: jnp.stack([a, b]), row.call(*first), row.call(*second)
    )
    assert_close(together, alone, rtol=1e-9, atol=1e-11)


@rows(lambda row: row.differentiable != ())
def test_derivatives_equal_finite_differences(
    name: str, x64: None, quick_compile: None
):
    row = ROWS[name]
    args = row.args()
    point = tuple(args[i] for i in row.differentiable)
    rng = np.random.default_rng(7)

    def random_direction(leaf: jax.Array) -> jax.Array:
        value = rng.standard_normal(leaf.shape)
        if jnp.iscomplexobj(leaf):
            value = value + 1j * rng.standard_normal(leaf.shape)
        return jnp.asarray(value, leaf.dtype)

    direction = jax.tree.map(random_direction, point)

    def value(point: Any) -> jax.Array:
        full = list(args)
        for position, leaf in zip(row.differentiable, point, strict=True):
            full[position] = leaf
        return scalarize(row.call(*full))

    def slope(point: Any) -> jax.Array:
        # For complex entries JAX's gradient g obeys df = Re sum(g v).
        gradient = jax.grad(value)(point)
        return sum(
            jnp.sum(g * v).real
            for g, v in zip(
                jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True
            )
        )

    @jax.jit
    def everything(step: jax.Array) -> tuple[jax.Array, ...]:
        at = jax.tree.map(lambda x, v: x + step.astype(x.dtype) * v, point, direction)
        if row.twice:
            reverse, curvature = jax.jvp(slope, (at,), (direction,))
        else:
            reverse, curvature = slope(at), jnp.zeros(())
        forward_value, forward = jax.jvp(value, (at,), (direction,))
        return forward_value, forward, reverse, curvature

    h = 1e-5
    here, up, down = (everything(jnp.asarray(s)) for s in (0.0, h, -h))
    size = 1.0 + abs(float(here[0])) + abs(float(here[1]))
    assert abs((up[0] - down[0]) / (2 * h) - here[1]) < 1e-6 * size, "forward mode"
    assert abs(here[2] - here[1]) < 1e-10 * size, "reverse mode against forward"
    if row.twice:
        second = (up[2] - down[2]) / (2 * h)
        size += abs(float(here[3]))
        assert abs(second - here[3]) < 1e-6 * size, "second derivative"


@rows(lambda row: row.mask is not None)
def test_masked_nan_changes_neither_value_nor_gradient(
    name: str, x64: None, quick_compile: None
):
    row = ROWS[name]
    args, mask = row.args(), row.mask()
    assert 0 < mask.sum() < mask.size

    def spoil(leaf: Any, value: float) -> jax.Array:
        shape = mask.shape + (1,) * (leaf.ndim - mask.ndim)
        keep = jnp.asarray(mask).reshape(shape)
        return jnp.where(keep, leaf, jnp.asarray(value, leaf.dtype))

    def filled(value: float) -> tuple[Any, ...]:
        return tuple(
            spoil(leaf, value) if i in row.poisoned else leaf
            for i, leaf in enumerate(args)
        )

    def total(*args: Any) -> jax.Array:
        return scalarize(row.call(*args, where=jnp.asarray(mask)))

    positions = tuple(sorted({*row.differentiable, *row.poisoned}))
    run = jax.jit(jax.value_and_grad(total, argnums=positions))
    clean_value, clean_grad = run(*filled(0.5))
    for poison in (np.nan, np.inf):
        value, gradient = run(*filled(poison))
        assert_close(value, clean_value, rtol=1e-12, atol=1e-12)
        assert_close(gradient, clean_grad, rtol=1e-12, atol=1e-12)
    for position, gradient in zip(positions, clean_grad, strict=True):
        if position in row.poisoned:
            assert not np.any(np.asarray(gradient)[~mask])
            assert np.any(np.asarray(gradient)[mask])


@rows(lambda row: row.low is not None)
def test_low_precision_inputs_are_close_to_float64(name: str, x64: None):
    row = ROWS[name]
    wide = row.call(*row.args())
    for leaf in jax.tree.leaves(wide):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            assert leaf.dtype in (jnp.float64, jnp.complex128)
    size = max(
        1.0,
        *(
            float(jnp.max(jnp.abs(leaf)))
            for leaf in jax.tree.leaves(wide)
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
        ),
    )
    for dtype, tol in ((jnp.float32, 1e-4), (jnp.bfloat16, row.low)):
        out = row.call(*row.args(dtype=dtype))
        assert_close(out, wide, rtol=tol, atol=tol * size)
        for leaf in jax.tree.leaves(out):
            if row.loss and jnp.issubdtype(leaf.dtype, jnp.inexact):
                assert leaf.dtype in (jnp.float32, jnp.complex64), dtype


@rows(lambda row: row.low is not None and not row.random)
@pytest.mark.slow
def test_runs_with_float64_switched_off(name: str, quick_compile: None):
    row = ROWS[name]
    out = row.call(*row.args(dtype=jnp.float32))
    assert all_finite(out)
    for leaf in jax.tree.leaves(out):
        assert leaf.dtype not in (jnp.float64, jnp.complex128)


@rows(lambda row: bool(row.hyper))
def test_a_new_hyper_parameter_does_not_retrace(name: str, quick_compile: None):
    row = ROWS[name]
    args = row.args(dtype=jnp.float32)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def run(hyper: dict[str, jax.Array]) -> Any:
        return row.call(*args, **hyper)

    for index in (0, 1):
        out = run({k: jnp.asarray(v[index], jnp.float32) for k, v in row.hyper.items()})
        assert all_finite(out)


@pytest.mark.slow
@rows(lambda row: row.vmapped != () and not row.random)
def test_sharded_batch_equals_unsharded(name: str, quick_compile: None):
    row = ROWS[name]
    sets = [row.args(seed, dtype=jnp.float32) for seed in range(4)]
    mapped = range(len(sets[0])) if row.vmapped is None else row.vmapped
    axes = tuple(0 if i in mapped else None for i in range(len(sets[0])))
    batch = {
        i: jax.tree.map(
            lambda *xs: jnp.stack([jnp.asarray(x) for x in xs]), *(s[i] for s in sets)
        )
        for i in mapped
    }

    @jax.jit
    def run(batch: dict[int, Any]) -> Any:
        full = tuple(batch.get(i, arg) for i, arg in enumerate(sets[0]))
        return jax.vmap(row.call, in_axes=axes)(*full)

    sharded = run(ops.shard_batch(batch, ops.data_mesh(4)))
    assert_close(sharded, run(batch), rtol=1e-4, atol=1e-5)


@rows(lambda row: row.extremes != ())
def test_extremes_are_finite(name: str):
    row = ROWS[name]
    total = lambda *args: scalarize(row.call(*args))
    gradient = jax.jit(jax.grad(total, argnums=row.differentiable))
    for extreme in row.extremes:
        args = cast(extreme, jnp.float32)
        assert all_finite(row.call(*args)), extreme
        if row.differentiable:
            assert all_finite(gradient(*args)), extreme


@pytest.mark.parametrize(
    ("name", "bad"), [(n, bad) for n, row in ROWS.items() for bad in row.bad]
)
def test_bad_input_is_refused_with_a_reason(name: str, bad: Bad):
    row = ROWS[name]
    args = row.args(dtype=jnp.float32) if bad.args is None else bad.args
    with pytest.raises(bad.error, match=bad.match):
        row.call(*args, **bad.kwargs)


@rows(lambda row: bool(inspect.signature(row.function).parameters))
def test_every_function_refuses_something(name: str):
    assert ROWS[name].bad, "the row lists no bad call"
