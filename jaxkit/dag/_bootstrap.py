"""How often an edge is found when the samples are drawn anew."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.dag._graphs import as_edges
from jaxkit.dag._stats import GramStats, gram_stats
from jaxkit.typing import ArrayLike, Key

__all__ = ["bootstrap_edges"]


def bootstrap_edges(
    key: Key,
    x: ArrayLike,
    fit: Callable[[GramStats], jax.Array],
    *,
    num_resamples: int = 100,
    batch_size: int | None = None,
    center: bool = True,
    ridge: ArrayLike = 0.0,
    route: str = "auto",
) -> jax.Array:
    r"""Estimates the confidence in every edge by resampling the rows of the data.

    .. math:: P_{ij} = \frac1R \sum_{r=1}^R \bigl[\, i \to j \in
        \mathrm{fit}(x^{(r)}) \,\bigr]

    with ``n`` rows drawn with replacement for each :math:`x^{(r)}`. Only their counts
    are drawn: each resample is a weighted second moment of the same data, and the fits
    run side by side. ``P + P.T`` is the confidence in a connection of either direction.
    Not compiled as a whole, since ``fit`` may be a new function at each call: wrap it in
    ``jax.jit``.

    Args:
      key: a typed random key.
      x: the data, one row per sample, shape ``[n, d]``.
      fit: takes the moments of a resample and gives a graph: weights or marks, not zero
        where ``i -> j``, shape ``[d, d]``. It is traced once.
      num_resamples: the number ``R``, at least 1.
      batch_size: how many fits run side by side; None means all.
      center: whether to subtract column means of each resample.
      ridge: see :func:`gram_stats`.
      route: see :func:`gram_stats`.

    Returns:
      The share of the resamples with each edge, shape ``[d, d]``, at least float32.

    Raises:
      TypeError: if ``key`` is not a typed key or ``x`` not floating.
      ValueError: if ``num_resamples`` is less than 1, or as in :func:`gram_stats`.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> w = jnp.array([[0.0, 2.0, 0.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
      >>> x = dag.sample_linear_sem(jax.random.key(0), w, 500)
      >>> def fit(stats):
      ...     return dag.prune(stats, dag.topo_search(stats, dag.eqvar_order(stats)).order)
      >>> print(dag.bootstrap_edges(jax.random.key(1), x, fit, num_resamples=20)[0, 1])
      1.0

    References:
      Friedman, Goldszmidt and Wyner, *Data Analysis with Bayesian Networks: A Bootstrap
      Approach*, UAI 1999.
    """
    checks.typed_key(key)
    (x,) = checks.floating(x=x)
    checks.at_least("num_resamples", num_resamples, 1)
    if x.ndim != 2:
        raise ValueError(f"`x` must have shape (n, d), got {x.shape}.")
    n = x.shape[0]
    dtype = accumulation_dtype(x)

    def once(key: Key) -> jax.Array:
        rows = jax.random.randint(key, (n,), 0, n, dtype=jnp.int32)
        counts = jnp.zeros(n, dtype).at[rows].add(1.0)
        stats = gram_stats(x, center=center, ridge=ridge, route=route, weights=counts)
        return as_edges("fit(stats)", fit(stats)).astype(dtype)

    keys = jax.random.split(key, num_resamples)
    size = num_resamples if batch_size is None else min(batch_size, num_resamples)
    return jnp.mean(jax.lax.map(once, keys, batch_size=size), axis=0)
