"""Quasi-Newton descent with an L1 term, one orthant at a time."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["ValueAndGrad", "minimize_l1", "steepest"]

HIGHEST = jax.lax.Precision.HIGHEST
_MEMORY = 10
_SUFFICIENT = 1e-4
_HALVINGS = 40

ValueAndGrad = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


class _State(NamedTuple):
    point: jax.Array
    value: jax.Array
    gradient: jax.Array
    moves: jax.Array
    turns: jax.Array
    count: jax.Array
    running: jax.Array


def steepest(point: jax.Array, gradient: jax.Array, l1: jax.Array) -> jax.Array:
    """The subgradient of least norm of a smooth function plus an L1 term."""
    flat = gradient - jnp.clip(gradient, -l1, l1)
    return jnp.where(point == 0, flat, gradient + l1 * jnp.sign(point))


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=HIGHEST)


def _newton(slope: jax.Array, moves: jax.Array, turns: jax.Array) -> jax.Array:
    """The inverse Hessian of the latest moves, times a slope."""
    curvature = jnp.sum(moves * turns, axis=1)
    used = curvature > 0
    inverse = jnp.where(used, 1.0 / jnp.where(used, curvature, 1.0), 0.0)

    def back(q: jax.Array, pair: tuple) -> tuple[jax.Array, jax.Array]:
        move, turn, weight = pair
        share = weight * _dot(move, q)
        return q - share * turn, share

    def forth(r: jax.Array, pair: tuple) -> tuple[jax.Array, None]:
        move, turn, weight, share = pair
        return r + (share - weight * _dot(turn, r)) * move, None

    # The newest pair comes last; empty ones have zero weight.
    q, shares = jax.lax.scan(back, slope, (moves, turns, inverse), reverse=True)
    size = jnp.sum(turns[-1] ** 2)
    scale = jnp.where(used[-1], curvature[-1] / jnp.where(size > 0, size, 1.0), 1.0)
    r, _ = jax.lax.scan(forth, scale * q, (moves, turns, inverse, shares))
    return r


def minimize_l1(
    function: ValueAndGrad,
    start: jax.Array,
    l1: jax.Array,
    *,
    max_steps: jax.Array,
    tol: jax.Array,
) -> jax.Array:
    """Minimizes a smooth function plus an L1 term of given weights, from `start`.

    Ends when no entry of the least subgradient exceeds `tol`, when a step gains next to
    nothing, or after `max_steps`.
    """
    total = lambda value, point: value + jnp.sum(l1 * jnp.abs(point))
    least = max(10.0 * float(jnp.finfo(start.dtype).eps), 1e-11)

    def step(state: _State) -> _State:
        point, slope = state.point, steepest(state.point, state.gradient, l1)
        direction = -_newton(slope, state.moves, state.turns)
        direction = jnp.where(direction * slope < 0, direction, 0.0)
        orthant = jnp.where(point == 0, -jnp.sign(slope), jnp.sign(point))
        before = total(state.value, point)
        # The first step has no curvature to go by.
        length = jnp.sqrt(jnp.sum(slope * slope))
        first = jnp.where(state.count > 0, 1.0, jnp.minimum(1.0, 1.0 / length))

        def attempt(share: jax.Array) -> tuple[jax.Array, ...]:
            moved = point + share * direction
            moved = jnp.where(moved * orthant > 0, moved, 0.0)
            value, gradient = function(moved)
            bound = before + _SUFFICIENT * _dot(slope, moved - point)
            return moved, value, gradient, total(value, moved) <= bound

        def shorten(trial: tuple) -> tuple:
            share, halvings, *_ = trial
            return (0.5 * share, halvings + 1, *attempt(0.5 * share))

        again = lambda trial: ~trial[-1] & (trial[1] < _HALVINGS)
        start = (first, jnp.asarray(0, jnp.int32), *attempt(first))
        *_, moved, value, gradient, good = jax.lax.while_loop(again, shorten, start)
        gain = before - total(value, moved)
        move, turn = moved - point, gradient - state.gradient
        eps = jnp.finfo(point.dtype).eps
        curved = _dot(move, turn) > eps * _dot(turn, turn)
        push = lambda kept, new: jnp.where(
            good & curved, jnp.concatenate([kept[1:], new[None]]), kept
        )
        count = state.count + 1
        largest = jnp.max(jnp.abs(steepest(moved, gradient, l1)))
        running = good & (largest > tol) & (gain > least * jnp.abs(before))
        return _State(
            point=jnp.where(good, moved, point),
            value=jnp.where(good, value, state.value),
            gradient=jnp.where(good, gradient, state.gradient),
            moves=push(state.moves, move),
            turns=push(state.turns, turn),
            count=count,
            running=running & (count < max_steps),
        )

    value, gradient = function(start)
    empty = jnp.zeros((_MEMORY, start.shape[0]), start.dtype)
    largest = jnp.max(jnp.abs(steepest(start, gradient, l1)))
    first = _State(
        point=start,
        value=value,
        gradient=gradient,
        moves=empty,
        turns=empty,
        count=jnp.asarray(0, jnp.int32),
        running=largest > tol,
    )
    return jax.lax.while_loop(lambda state: state.running, step, first).point
