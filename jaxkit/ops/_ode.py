"""Solving ordinary differential equations on pytrees."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental.ode import odeint
from jax.flatten_util import ravel_pytree

from jaxkit._core import checks
from jaxkit.typing import ArrayLike, PyTree

__all__ = ["integrate"]

Field: TypeAlias = Callable[[Any, Any], Any]
Solver: TypeAlias = Callable[[Field, Any, jax.Array], Any]

_METHODS = ("rk4", "euler", "dopri5")


def integrate(
    field: Field,
    y0: PyTree,
    times: ArrayLike,
    *,
    method: str | Solver = "rk4",
    substeps: int = 1,
    rtol: float = 1e-8,
    atol: float = 1e-10,
    max_steps: int = 100_000,
) -> PyTree:
    r"""Solves an ordinary differential equation and returns it at given times.

    .. math:: \frac{dy}{d\tau} = f(\tau, y), \qquad y(\tau_0) = y_0

    ``"euler"`` and ``"rk4"`` take ``substeps`` equal steps between two times, with
    a global error of order 1 and 4; they are differentiable in both modes, and in
    reverse keep one state per interval. ``"dopri5"`` is the adaptive Dormand-Prince
    pair of :mod:`jax.experimental.ode`, which has reverse mode only. Any other
    solver, for instance one of diffrax, comes in as a callable. Not compiled: jit the function that calls it.

    Args:
      field: ``f(time, state) -> derivative``, a pytree like ``y0``.
      y0: the state at ``times[0]``, a pytree of floating or complex arrays.
      times: strictly increasing, shape ``[num_times]``.
      method: ``"rk4"``, ``"euler"``, ``"dopri5"``, or a callable
        ``(field, y0, times) -> states`` that stacks the states along axis 0.
      substeps: steps between two times of the fixed-step methods.
      rtol: relative tolerance of ``"dopri5"``.
      atol: absolute tolerance of ``"dopri5"``.
      max_steps: the most steps ``"dopri5"`` takes between two times; past that the
        result is not accurate.

    Returns:
      A pytree like ``y0`` with a leading axis ``num_times``; entry 0 is ``y0``.

    Raises:
      TypeError: if ``times`` or a leaf of ``y0`` has no floating dtype.
      ValueError: if ``times`` is not one axis with at least one entry, the method
        is unknown, or ``substeps`` is less than 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> times = jnp.linspace(0.0, 1.0, 11)
      >>> y = ops.integrate(lambda t, y: -y, jnp.array(1.0), times)
      >>> print(f"{y[-1]:.5f} {jnp.exp(-1.0):.5f}")
      0.36788 0.36788

    References:
      Hairer, Norsett and Wanner, *Solving Ordinary Differential Equations I*,
      2nd ed., sections II.1 and II.4.
    """
    (times,) = checks.floating(times=times)
    if times.ndim != 1 or not times.shape[0]:
        raise ValueError(
            f"`times` must have shape (num_times,) with at least one entry, "
            f"got {times.shape}."
        )
    y0 = jax.tree.map(lambda leaf: checks.inexact(y0=leaf)[0], y0)
    if not isinstance(method, str):
        return method(field, y0, times)
    checks.one_of("method", method, _METHODS)
    checks.at_least("substeps", substeps, 1)
    if times.shape[0] == 1:
        return jax.tree.map(lambda leaf: leaf[None], y0)
    if method == "dopri5":
        return _dopri5(field, y0, times, rtol=rtol, atol=atol, max_steps=max_steps)
    step = {"rk4": _rk4_step, "euler": _euler_step}[method]

    @jax.checkpoint
    def interval(state: PyTree, bounds: tuple[jax.Array, jax.Array]) -> Any:
        start, stop = bounds
        size = (stop - start) / substeps

        def substep(state: PyTree, index: jax.Array) -> Any:
            time = start + index.astype(size.dtype) * size
            return step(field, state, time, size), None

        state, _ = jax.lax.scan(substep, state, jnp.arange(substeps))
        return state, state

    _, tail = jax.lax.scan(interval, y0, (times[:-1], times[1:]))
    return jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest]), y0, tail
    )


def _axpy(size: jax.Array, direction: PyTree, state: PyTree) -> PyTree:
    return jax.tree.map(
        lambda y, k: y + size.astype(y.dtype) * k.astype(y.dtype),
        state,
        direction,
    )


def _euler_step(
    field: Field, state: PyTree, time: jax.Array, size: jax.Array
) -> PyTree:
    return _axpy(size, field(time, state), state)


def _rk4_step(field: Field, state: PyTree, time: jax.Array, size: jax.Array) -> PyTree:
    half = size / 2
    k1 = field(time, state)
    k2 = field(time + half, _axpy(half, k1, state))
    k3 = field(time + half, _axpy(half, k2, state))
    k4 = field(time + size, _axpy(size, k3, state))
    slope = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
    return _axpy(size, slope, state)


def _dopri5(
    field: Field,
    y0: PyTree,
    times: jax.Array,
    *,
    rtol: float,
    atol: float,
    max_steps: int,
) -> PyTree:
    # odeint controls the error of real states only, and compares times with the
    # state in one dtype: complex leaves become real pairs.
    def split(tree: PyTree) -> PyTree:
        return jax.tree.map(
            lambda x: (x.real, x.imag) if jnp.iscomplexobj(x) else (x,), tree
        )

    flat0, unravel = ravel_pytree(split(y0))
    treedef = jax.tree.structure(y0)

    def restore(flat: jax.Array) -> PyTree:
        parts = treedef.flatten_up_to(unravel(flat))
        leaves = [p[0] if len(p) == 1 else jax.lax.complex(*p) for p in parts]
        return treedef.unflatten(leaves)

    def flat_field(flat: jax.Array, time: jax.Array) -> jax.Array:
        return ravel_pytree(split(field(time, restore(flat))))[0]

    flat = odeint(
        flat_field,
        flat0,
        times.astype(flat0.dtype),
        rtol=rtol,
        atol=atol,
        mxstep=max_steps,
    )
    return jax.vmap(restore)(flat)
