"""Linear self-attention layers that solve in-context linear regression."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.mesa._few_shot_inputs import (
    few_shot_arrays,
    few_shot_prompt,
    preconditioner_array,
)
from jaxkit.ops import cholesky_solve
from jaxkit.typing import ArrayLike

__all__ = [
    "few_shot_gradient_descent",
    "few_shot_layers_predict",
    "few_shot_lsa_params",
    "few_shot_lsa_predict",
]

_HIGHEST = jax.lax.Precision.HIGHEST


@jit()
def few_shot_lsa_params(gamma: ArrayLike) -> tuple[jax.Array, jax.Array]:
    r"""Gives the weights to which one trained linear self-attention layer converges.

    .. math:: \mathrm{KQ} = \theta^{-1/4} \begin{pmatrix} \Gamma^{-1} & 0 \\ 0 & 0
       \end{pmatrix}, \quad \mathrm{PV} = \theta^{1/4} \begin{pmatrix} 0 & 0 \\ 0 & 1
       \end{pmatrix}, \quad \theta = \operatorname{tr} \Gamma^{-2}

    The scaling balances the two norms, as gradient flow from their start does.

    Args:
      gamma: from :func:`few_shot_gamma`, shape ``[dim, dim]``.

    Returns:
      ``(kq, pv)``, each of shape ``[dim + 1, dim + 1]``, at least float32.

    Raises:
      TypeError: if ``gamma`` is not real.
      ValueError: if ``gamma`` is not square.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> kq, pv = mesa.few_shot_lsa_params(jnp.eye(1))
      >>> print(kq)
      [[1. 0.]
       [0. 0.]]

    References:
      Zhang, Frei and Bartlett, *Trained Transformers Learn Linear Models
      In-Context*, 2023, theorem 4.1.
    """
    (gamma,) = checks.floating(gamma=gamma)
    if gamma.ndim != 2 or gamma.shape[0] != gamma.shape[1]:
        raise ValueError(f"`gamma` must have shape (dim, dim), got {gamma.shape}.")
    gamma = gamma.astype(accumulation_dtype(gamma))
    inverse = cholesky_solve(gamma, jnp.eye(gamma.shape[-1], dtype=gamma.dtype))
    root = jnp.sqrt(jnp.sqrt(jnp.sum(jnp.square(inverse))))
    kq = jnp.pad(inverse / root, ((0, 1), (0, 1)))
    return kq, jnp.zeros_like(kq).at[-1, -1].set(root)


@jit()
def few_shot_lsa_predict(
    kq: ArrayLike,
    pv: ArrayLike,
    inputs: ArrayLike,
    targets: ArrayLike,
    query: ArrayLike,
) -> jax.Array:
    r"""Applies one linear self-attention layer to a regression prompt.

    .. math:: \hat y = \left[\mathrm{PV}\, \frac{E E^\top}{N}\, \mathrm{KQ}\,
       (x_q, 0)\right]_{d+1}, \qquad E = \begin{pmatrix} x_1 & \cdots & x_N & x_q \\
       y_1 & \cdots & y_N & 0 \end{pmatrix}

    Args:
      kq: the key-query matrix, shape ``[dim + 1, dim + 1]``.
      pv: the projection-value matrix, of the same shape.
      inputs: shape ``[..., N, dim]``.
      targets: shape ``[..., N]``.
      query: shape ``[..., dim]``.

    Returns:
      The predictions, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> kq, pv = mesa.few_shot_lsa_params(jnp.eye(1))
      >>> print(mesa.few_shot_lsa_predict(
      ...     kq, pv, jnp.ones((2, 1)), jnp.array([1.0, 3.0]), jnp.ones(1)))
      2.0

    References:
      Zhang, Frei and Bartlett, *Trained Transformers Learn Linear Models
      In-Context*, 2023, section 3.
    """
    inputs, targets, query = few_shot_arrays(inputs, targets, query)
    kq, pv = checks.floating(kq=kq, pv=pv)
    size = inputs.shape[-1] + 1
    checks.shape("kq", kq, (size, size))
    checks.same_shape(kq=kq, pv=pv)
    kq, pv = kq.astype(inputs.dtype), pv.astype(inputs.dtype)
    prompt = few_shot_prompt(inputs, targets, query)
    scores = jnp.einsum(
        "...ni,ij,...j->...n", prompt, kq, prompt[..., -1, :], precision=_HIGHEST
    )
    mixed = jnp.einsum("...n,...ni->...i", scores, prompt, precision=_HIGHEST)
    return (
        jnp.einsum("...i,i->...", mixed, pv[-1], precision=_HIGHEST)
        / (inputs.shape[-2])
    )


@jit()
def few_shot_layers_predict(
    inputs: ArrayLike,
    targets: ArrayLike,
    query: ArrayLike,
    *,
    preconditioners: ArrayLike,
    transforms: ArrayLike | None = None,
) -> jax.Array:
    r"""Runs a prompt through layers that each take one step of descent.

    .. math:: Z_{l+1} = Z_l + \frac1N P_l Z_l M (Z_l^\top Q_l Z_l), \qquad
       P_l = \begin{pmatrix} B_l & 0 \\ 0 & 1 \end{pmatrix}, \quad
       Q_l = -\begin{pmatrix} A_l & 0 \\ 0 & 0 \end{pmatrix}

    The mask ``M`` removes the query column; its target starts at 0 and the
    prediction is minus the entry that the last layer leaves there. With ``B = 0`` the
    prediction is that of :func:`few_shot_gradient_descent`; a non-zero ``B`` also
    transforms the inputs (GD++).

    Args:
      inputs: shape ``[..., N, dim]``.
      targets: shape ``[..., N]``.
      query: shape ``[..., dim]``.
      preconditioners: ``A``, shape ``[num_layers, dim, dim]``.
      transforms: ``B``, of the same shape; None means 0.

    Returns:
      The predictions, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> print(mesa.few_shot_layers_predict(
      ...     jnp.ones((2, 1)), jnp.array([1.0, 3.0]), jnp.ones(1),
      ...     preconditioners=jnp.full((2, 1, 1), 0.5)))
      1.5

    References:
      Ahn et al., *Transformers Learn to Implement Preconditioned Gradient Descent for
      In-Context Learning*, NeurIPS 2023, section 2 and lemma 1.
    """
    inputs, targets, query = few_shot_arrays(inputs, targets, query)
    a, b = _layers(preconditioners, transforms, inputs)
    n, dim = inputs.shape[-2:]
    z = few_shot_prompt(inputs, targets, query)
    # Descent starts from the example targets and subtracts; the sign of the query
    # entry is undone at the end.
    masked = (jnp.arange(n + 1) < n).astype(z.dtype)

    def layer(z: jax.Array, matrices: tuple[jax.Array, jax.Array]) -> tuple:
        a, b = matrices
        x = z[..., :dim]
        scores = jnp.einsum("...mi,ij,...nj->...mn", x, a, x, precision=_HIGHEST)
        mixed = jnp.einsum(
            "...mn,m,...mi->...ni", scores, masked, z, precision=_HIGHEST
        )
        moved = jnp.einsum("...ni,oi->...no", mixed[..., :dim], b, precision=_HIGHEST)
        return z - jnp.concatenate([moved, mixed[..., dim:]], axis=-1) / n, None

    z, _ = jax.lax.scan(layer, z, (a, b))
    return -z[..., -1, -1]


@jit()
def few_shot_gradient_descent(
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    preconditioners: ArrayLike,
    transforms: ArrayLike | None = None,
) -> jax.Array:
    r"""Takes steps of preconditioned descent on the examples of a prompt.

    .. math:: w_{l+1} = w_l - T_l^\top A_l^\top T_l\, \nabla f(w_l), \qquad
       f(w) = \frac{1}{2N} \sum_{i=1}^N (w^\top x_i - y_i)^2

    from ``w_0 = 0`` and ``T_0 = I``. Without transforms ``T_l`` stays ``I``; with
    them, :math:`T_{l+1} = T_l - B_l T_l \hat\Sigma T_l^\top A_l T_l` for the empirical
    second moment :math:`\hat\Sigma`: the layers of :func:`few_shot_layers_predict`
    then act on the inputs ``T_l x``.

    Args:
      inputs: shape ``[..., N, dim]``.
      targets: shape ``[..., N]``.
      preconditioners: ``A``, shape ``[num_layers, dim, dim]``.
      transforms: ``B``, of the same shape; None means 0.

    Returns:
      The weights after each step, shape ``[num_layers, ..., dim]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> print(mesa.few_shot_gradient_descent(
      ...     jnp.ones((2, 1)), jnp.array([1.0, 3.0]),
      ...     preconditioners=jnp.full((2, 1, 1), 0.5))[:, 0])
      [1.  1.5]

    References:
      Ahn et al., *Transformers Learn to Implement Preconditioned Gradient Descent for
      In-Context Learning*, NeurIPS 2023, lemma 1; von Oswald et al., 2023, for GD++.
    """
    (inputs,) = checks.floating(inputs=inputs)
    checks.axis_size("inputs", inputs, -2, 1)
    inputs, targets, _ = few_shot_arrays(inputs, targets, inputs[..., 0, :])
    a, b = _layers(preconditioners, transforms, inputs)
    n, dim = inputs.shape[-2:]
    second = _product("...ni,...nj->...ij", inputs, inputs) / n
    cross = _product("...ni,...n->...i", inputs, targets) / n

    def step(carry: tuple[jax.Array, jax.Array], matrices: tuple) -> tuple:
        w, t = carry
        a, b = matrices
        gradient = _product("...ij,...j->...i", second, w) - cross
        metric = _product("...ki,kl,...lj->...ij", t, a, t)
        t_second = _product("...ij,...jk->...ik", t, second)
        w = w - _product("...ij,...i->...j", metric, gradient)
        t = t - _product("ij,...jk,...kl->...il", b, t_second, metric)
        return (w, t), w

    start = jnp.broadcast_to(jnp.eye(dim, dtype=inputs.dtype), second.shape)
    _, weights = jax.lax.scan(step, (jnp.zeros_like(cross), start), (a, b))
    return weights


def _layers(
    preconditioners: ArrayLike, transforms: ArrayLike | None, inputs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    a = preconditioner_array("preconditioners", preconditioners, inputs)
    if a.ndim != 3:
        raise ValueError(
            f"`preconditioners` must have shape (num_layers, dim, dim), got {a.shape}."
        )
    if transforms is None:
        return a, jnp.zeros_like(a)
    b = preconditioner_array("transforms", transforms, inputs)
    if b.shape != a.shape:
        raise ValueError(
            f"`transforms` must have the shape of `preconditioners`, {a.shape}, "
            f"got {b.shape}."
        )
    return a, b


def _product(subscripts: str, *operands: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, *operands, precision=_HIGHEST)
