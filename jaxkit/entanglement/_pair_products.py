"""Inner products within each pair, from inputs and cotangents of one operation.

Arrays hold the chosen sequences first and the rejected ones after them; results have
shape ``[3, B]``: chosen with chosen, chosen with rejected, rejected with rejected.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import Precision

from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.ops import match_varying

__all__ = [
    "pair_gradients",
    "per_example",
    "place_products",
    "row_products",
    "token_products",
    "vector_products",
]

_GROUP = 8
"""Most pairs whose inner products of tokens are taken at once."""

Halves = tuple[jax.Array, jax.Array]


def pair_gradients(x: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradient of the weight over all pairs, and the three products of each."""
    wide = accumulation_dtype(x)

    def add_pair(
        total: jax.Array, pair: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, jax.Array]:
        chosen, rejected = (
            _product("ti,to->io", x, g) for x, g in zip(pair[:2], pair[2:], strict=True)
        )
        return total + (chosen + rejected), _flat_products(chosen, rejected)

    start = match_varying(jnp.zeros((x.shape[-1], g.shape[-1]), wide), x)
    total, products = jax.lax.scan(add_pair, start, (*_halves(x), *_halves(g)))
    return total, products.T


def token_products(x: jax.Array, g: jax.Array) -> jax.Array:
    """The three products of each pair from inner products of all tokens."""

    def pair(x: Halves, g: Halves) -> jax.Array:
        total = lambda i, j: jnp.sum(
            _product("ti,si->ts", x[i], x[j]) * _product("ti,si->ts", g[i], g[j])
        )
        return jnp.stack([total(0, 0), total(0, 1), total(1, 1)])

    return _pair_by_pair(pair, _halves(x), _halves(g))


def place_products(g: jax.Array) -> jax.Array:
    """The three products of each pair where every place has its own parameters."""
    return _pair_by_pair(lambda g: _flat_products(*g), _halves(g))


def _pair_by_pair(function: Callable[..., jax.Array], *halves: Halves) -> jax.Array:
    # A loop and not all pairs at once: the compiler would compute what makes the
    # cotangents again for each of their uses, and keep the products of all tokens.
    num_pairs = halves[0][0].shape[0]
    group = max(n for n in range(1, _GROUP + 1) if num_pairs % n == 0)
    grouped = jax.tree.map(lambda x: x.reshape(-1, group, *x.shape[1:]), halves)
    step = lambda _, pairs: (None, jax.vmap(function)(*pairs))
    _, products = jax.lax.scan(step, None, grouped)
    return products.reshape(-1, 3).T


def _flat_products(chosen: jax.Array, rejected: jax.Array) -> jax.Array:
    # A matrix product of two rows: three sums of products read memory thrice.
    both = jnp.stack([chosen.reshape(-1), rejected.reshape(-1)])
    gram = _product("ik,jk->ij", both, both)
    return jnp.stack([gram[0, 0], gram[0, 1], gram[1, 1]])


def row_products(rows: jax.Array, g: jax.Array) -> jax.Array:
    """The three products of each pair where only tokens of one row meet."""

    def pair(rows: Halves, g: Halves) -> jax.Array:
        def total(i: int, j: int) -> jax.Array:
            same = rows[i] == rows[j].T
            return jnp.sum(jnp.where(same, _product("ti,si->ts", g[i], g[j]), 0.0))

        return jnp.stack([total(0, 0), total(0, 1), total(1, 1)])

    return _pair_by_pair(pair, _halves(rows[..., None]), _halves(g))


def vector_products(values: jax.Array) -> jax.Array:
    """The three products of each pair of the vectors ``[2B, D]``."""
    both = values.reshape(2, values.shape[0] // 2, -1)
    gram = _product("ibk,jbk->ijb", both, both)
    return jnp.stack([gram[0, 0], gram[0, 1], gram[1, 1]])


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(
        equation,
        a,
        b,
        precision=Precision.HIGHEST,
        preferred_element_type=accumulation_dtype(a),
    )


def per_example(values: jax.Array) -> jax.Array:
    """Adds up all places of each sequence: ``[2B, ..., D]`` to ``[2B, D]``."""
    axes = tuple(range(1, values.ndim - 1))
    return jnp.sum(values.astype(accumulation_dtype(values)), axis=axes)


def _halves(x: jax.Array) -> Halves:
    """Chosen and rejected sequences, ``[B, T, D]`` each."""
    half = x.shape[0] // 2
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    return x[:half], x[half:]
