"""Shared mathematics: masks, linear algebra, attention, integrators, sharding."""

from jaxkit.ops._linalg import cholesky_solve
from jaxkit.ops._masking import masked_fill, masked_mean, masked_sum, safe_divide
from jaxkit.ops._numerics import abs_squared
from jaxkit.ops._ode import integrate
from jaxkit.ops._sharding import data_mesh, match_varying, shard_batch

__all__ = [
    "abs_squared",
    "cholesky_solve",
    "data_mesh",
    "integrate",
    "masked_fill",
    "masked_mean",
    "masked_sum",
    "match_varying",
    "safe_divide",
    "shard_batch",
]
