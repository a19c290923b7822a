"""Optax transformations for masked and for complex training."""

import jax
import jax.numpy as jnp
import optax

from jaxkit._core import checks
from jaxkit.typing import PyTree

__all__ = ["conjugate_updates", "keep_diagonal_updates", "project_diagonal"]


def conjugate_updates() -> optax.GradientTransformation:
    r"""Makes a transformation that conjugates complex gradients.

    .. math:: g \mapsto \bar g

    For a real loss :func:`jax.grad` returns ``dL/dRe - i dL/dIm``; steepest descent
    needs ``dL/dRe + i dL/dIm``. Without it the imaginary part climbs. Put it first
    in a chain. :func:`gradient_flow` and :func:`gradient_descent` conjugate by
    themselves.

    Returns:
      The transformation; real leaves pass unchanged.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import mesa
      >>> optimizer = optax.chain(mesa.conjugate_updates(), optax.sgd(0.1))
      >>> state = optimizer.init(jnp.zeros((), jnp.complex64))
      >>> print(optimizer.update(jnp.asarray(1 + 2j), state)[0])
      (-0.1+0.2j)

    References:
      Kreutz-Delgado, *The Complex Gradient Operator and the CR-Calculus*, 2009,
      section 4.2.
    """
    return optax.stateless(lambda updates, _: jax.tree.map(jnp.conj, updates))


def keep_diagonal_updates() -> optax.GradientTransformation:
    r"""Makes a transformation that keeps the diagonals of the two trained blocks.

    .. math:: A \mapsto \operatorname{diag}(A), \qquad B \mapsto
       \operatorname{diag}(B), \qquad A = \mathrm{KQ}_{d:,\,:d}, \quad
       B = \mathrm{PV}_{:,\,:d}

    The other blocks pass unchanged. Chained first it masks the gradients, as in
    theorem 4.3. From a diagonal start that gives the parameters of
    :func:`project_diagonal` after each step, for SGD and for every optimizer that
    works entry by entry, though the memory of momentum or Adam differs. The two part
    for a dense start, whose off-diagonal entries stay here and become 0 there, and
    for optimizers that mix entries, such as a clip of the global norm.

    Returns:
      The transformation. It accepts :class:`LSAParams` and any pytree whose matrices
      are named ``kq`` and ``pv``, such as the pure dictionary of a module.

    Raises:
      ValueError: in ``update``, if a leaf is named neither ``kq`` nor ``pv``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> mask = mesa.keep_diagonal_updates()
      >>> grads = mesa.LSAParams(jnp.ones((4, 4)), jnp.ones((2, 4)))
      >>> updates, _ = mask.update(grads, mask.init(grads))
      >>> print(updates.pv)
      [[1. 0. 1. 1.]
       [0. 1. 1. 1.]]

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, theorem 4.3.
    """
    return optax.stateless(lambda updates, _: project_diagonal(updates))


def project_diagonal(params: PyTree) -> PyTree:
    r"""Sets the off-diagonal entries of the two trained blocks to zero.

    .. math:: A_{jl} \mapsto A_{jl}\,[j = l], \qquad B_{jl} \mapsto B_{jl}\,[j = l]

    Args:
      params: :class:`LSAParams`, or a pytree whose matrices are named ``kq``, shape
        ``[..., 2d, 2d]``, and ``pv``, shape ``[..., d, 2d]``.

    Returns:
      A pytree like ``params``; the blocks other than ``A`` and ``B`` are unchanged.

    Raises:
      ValueError: if a leaf is named neither ``kq`` nor ``pv``, or has another shape.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> params = mesa.LSAParams(jnp.ones((4, 4)), jnp.ones((2, 4)))
      >>> print(mesa.project_diagonal(params).kq)
      [[1. 1. 1. 1.]
       [1. 1. 1. 1.]
       [1. 0. 1. 1.]
       [0. 1. 1. 1.]]

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, theorem 4.3 and appendix B.
    """
    return jax.tree.map_with_path(_keep_diagonal, params)


def _keep_diagonal(path: tuple, leaf: jax.Array) -> jax.Array:
    # A leaf is `.kq` in a NamedTuple and ["kq"] in a dictionary.
    names = {str(getattr(k, "name", getattr(k, "key", ""))) for k in path}
    found = names & {"kq", "pv"}
    if len(found) != 1:
        where = jax.tree_util.keystr(path) or "the root"
        raise ValueError(f"`params` must hold leaves named kq and pv, got {where}.")
    name = found.pop()
    dim = leaf.shape[-1] // 2
    rows = 2 * dim if name == "kq" else dim
    checks.shape(name, leaf, (rows, 2 * dim))
    row = jnp.arange(rows)[:, None] - (rows - dim)
    column = jnp.arange(2 * dim)[None, :]
    keep = (row < 0) | (column >= dim) | (row == column)
    return jnp.where(jnp.broadcast_to(keep, leaf.shape), leaf, 0.0)
