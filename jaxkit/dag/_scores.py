"""Losses and penalties of a weighted graph, acyclic or not."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.dag._stats import GramStats, checked_stats, square
from jaxkit.ops import masked_fill
from jaxkit.typing import ArrayLike

__all__ = [
    "golem_ev_loss",
    "golem_nv_loss",
    "least_squares_grad",
    "least_squares_loss",
    "logistic_loss",
    "mcp_penalty",
    "poisson_loss",
]

HIGHEST = jax.lax.Precision.HIGHEST

# Beyond exp(30) rates go on along their tangent, and the loss stays convex.
_LARGEST_LOG_RATE = 30.0


def _checked(stats: GramStats, weights: ArrayLike) -> tuple[GramStats, jax.Array]:
    stats = checked_stats(stats)
    (weights,) = checks.floating(weights=weights)
    square("weights", weights)
    if weights.shape != stats.gram.shape:
        raise ValueError(
            f"`weights` must have shape {stats.gram.shape}, got {weights.shape}."
        )
    return stats, weights.astype(stats.gram.dtype)


def _residual_moments(stats: GramStats, weights: jax.Array) -> jax.Array:
    """The mean squared residual of each node."""
    rest = jnp.eye(weights.shape[0], dtype=weights.dtype) - weights
    if stats.factor is not None:
        return jnp.sum(jnp.matmul(stats.factor, rest, precision=HIGHEST) ** 2, axis=0)
    return jnp.sum(rest * jnp.matmul(stats.gram, rest, precision=HIGHEST), axis=0)


@jit()
def least_squares_loss(stats: GramStats, weights: ArrayLike) -> jax.Array:
    r"""Half the mean squared residual of a linear model, summed over nodes.

    .. math:: Q(W) = \tfrac{1}{2n} \|X - XW\|_F^2
        = \tfrac12 \operatorname{tr}\bigl((I - W)^\top G (I - W)\bigr)

    Args:
      stats: the moments, from :func:`gram_stats`.
      weights: entry ``[i, j]`` is the weight of ``i -> j``, shape ``[d, d]``.

    Returns:
      A scalar, at least float32.

    Raises:
      TypeError: if ``weights`` is not floating.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> w = jnp.array([[0.0, 2.0], [0.0, 0.0]])
      >>> print(dag.least_squares_loss(stats, w))
      1.0

    References:
      Zheng et al., *DAGs with NO TEARS*, NeurIPS 2018, section 2.
    """
    stats, weights = _checked(stats, weights)
    return 0.5 * jnp.sum(_residual_moments(stats, weights))


@jit()
def least_squares_grad(stats: GramStats, weights: ArrayLike) -> jax.Array:
    r"""The gradient of :func:`least_squares_loss` in the weights.

    .. math:: \nabla Q(W) = -G (I - W)

    Args:
      stats: the moments, from :func:`gram_stats`.
      weights: entry ``[i, j]`` is the weight of ``i -> j``, shape ``[d, d]``.

    Returns:
      The gradient, shape ``[d, d]``, at least float32.

    Raises:
      TypeError: if ``weights`` is not floating.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> print(dag.least_squares_grad(stats, jnp.array([[0.0, 2.0], [0.0, 0.0]])))
      [[-1.  0.]
       [-2. -1.]]

    References:
      Zheng et al., *DAGs with NO TEARS*, NeurIPS 2018, section 3.
    """
    stats, weights = _checked(stats, weights)
    excess = weights - jnp.eye(weights.shape[0], dtype=weights.dtype)
    if stats.factor is not None:
        excess = jnp.matmul(stats.factor, excess, precision=HIGHEST)
        return jnp.matmul(stats.factor.T, excess, precision=HIGHEST)
    return jnp.matmul(stats.gram, excess, precision=HIGHEST)


def _log_volume(weights: jax.Array) -> jax.Array:
    rest = jnp.eye(weights.shape[0], dtype=weights.dtype) - weights
    return jnp.linalg.slogdet(rest)[1]


@jit()
def golem_ev_loss(stats: GramStats, weights: ArrayLike) -> jax.Array:
    r"""Negative log-likelihood of a linear Gaussian model with equal variances.

    .. math:: \tfrac{d}{2} \log \|X - XW\|_F^2 - \log |\det(I - W)|

    up to a constant, and divided by the number of samples. For an acyclic graph the
    last term is 0.

    Args:
      stats: the moments, from :func:`gram_stats`, of a finite number of samples.
      weights: entry ``[i, j]`` is the weight of ``i -> j``, shape ``[d, d]``.

    Returns:
      A scalar, at least float32; infinite where ``I - W`` is singular.

    Raises:
      TypeError: if ``weights`` is not floating.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.eye(2), num_samples=2)
      >>> print(f"{dag.golem_ev_loss(stats, jnp.zeros((2, 2))):.4f}")
      1.3863

    References:
      Ng, Ghassami and Zhang, *On the Role of Sparsity and DAG Constraints for Learning
      Linear DAGs*, NeurIPS 2020, eq. 5.
    """
    stats, weights = _checked(stats, weights)
    total = stats.num_samples * jnp.sum(_residual_moments(stats, weights))
    return 0.5 * weights.shape[0] * jnp.log(total) - _log_volume(weights)


@jit()
def golem_nv_loss(stats: GramStats, weights: ArrayLike) -> jax.Array:
    r"""Negative log-likelihood of a linear Gaussian model with variances of its own.

    .. math:: \tfrac12 \sum_j \log \|x_j - X w_j\|^2 - \log |\det(I - W)|

    up to a constant, and divided by the number of samples. Of dense regressions given
    an order it says nothing: there it is the same for every order.

    Args:
      stats: the moments, from :func:`gram_stats`, of a finite number of samples.
      weights: entry ``[i, j]`` is the weight of ``i -> j``, shape ``[d, d]``.

    Returns:
      A scalar, at least float32; infinite where ``I - W`` is singular.

    Raises:
      TypeError: if ``weights`` is not floating.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.eye(2), num_samples=2)
      >>> print(f"{dag.golem_nv_loss(stats, jnp.zeros((2, 2))):.4f}")
      0.6931

    References:
      Ng, Ghassami and Zhang, *On the Role of Sparsity and DAG Constraints for Learning
      Linear DAGs*, NeurIPS 2020, eq. 4.
    """
    stats, weights = _checked(stats, weights)
    total = stats.num_samples * _residual_moments(stats, weights)
    return 0.5 * jnp.sum(jnp.log(total)) - _log_volume(weights)


def _log_rates(
    weights: ArrayLike, x: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array]:
    weights, x = checks.floating(weights=weights, x=x)
    square("weights", weights)
    checks.min_ndim("x", x, 1)
    checks.shape("x", x, (weights.shape[0],))
    dtype = accumulation_dtype(weights, x)
    weights, x = weights.astype(dtype), x.astype(dtype)
    if where is not None:
        mask = checks.mask("where", where, x.shape[:-1])
        x = masked_fill(x, mask[..., None])
    return jnp.matmul(x, weights, precision=HIGHEST), x


@jit()
def logistic_loss(
    weights: ArrayLike, x: ArrayLike, *, where: ArrayLike | None = None
) -> jax.Array:
    r"""Negative log-likelihood of binary data, each node with log-odds linear in others.

    .. math:: \ell = \sum_j \log\bigl(1 + e^{m_j}\bigr) - x_j m_j, \qquad m = x W

    Its mean over samples has the gradient :math:`X^\top(\sigma(XW) - X) / n`.

    Args:
      weights: entry ``[i, j]`` is the weight of ``i -> j``, shape ``[d, d]``.
      x: data of zeros and ones, as reals, shape ``[..., d]``.
      where: which samples count, bool, shape ``[...]``; the others may hold NaN and
        give 0 and no gradient.

    Returns:
      The loss of each sample, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not floating, or ``where`` not bool.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> print(dag.logistic_loss(jnp.zeros((2, 2)), jnp.array([[1.0, 0.0]])).round(4))
      [1.3863]

    References:
      Zheng et al., *Learning Sparse Nonparametric DAGs*, AISTATS 2020, section 3.
    """
    logits, x = _log_rates(weights, x, where)
    loss = jnp.sum(jax.nn.softplus(logits) - x * logits, axis=-1)
    return masked_fill(loss, where)


@jit()
def poisson_loss(
    weights: ArrayLike, x: ArrayLike, *, where: ArrayLike | None = None
) -> jax.Array:
    r"""Negative log-likelihood of counts, each node with log-rate linear in others.

    .. math:: \ell = \sum_j e^{c_j} (1 + m_j - c_j) - x_j m_j, \qquad m = x W, \quad
        c_j = \min(m_j, 30)

    up to a constant. Its mean has the gradient :math:`X^\top(e^{XW} - X) / n` below
    the cut; beyond it the exponential goes on along its tangent, so that nothing
    overflows and the loss stays convex.

    Args:
      weights: entry ``[i, j]`` is the weight of ``i -> j``, shape ``[d, d]``.
      x: counts, as reals, shape ``[..., d]``.
      where: which samples count, bool, shape ``[...]``; the others may hold NaN and
        give 0 and no gradient.

    Returns:
      The loss of each sample, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not floating, or ``where`` not bool.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> print(dag.poisson_loss(jnp.zeros((2, 2)), jnp.array([[3.0, 0.0]])))
      [2.]

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023.
    """
    rates, x = _log_rates(weights, x, where)
    cut = jnp.minimum(rates, _LARGEST_LOG_RATE)
    means = jnp.exp(cut) * (1.0 + rates - cut)
    return masked_fill(jnp.sum(means - x * rates, axis=-1), where)


@jit()
def mcp_penalty(
    weights: ArrayLike, *, strength: ArrayLike = 0.1, gamma: ArrayLike = 1.0
) -> jax.Array:
    r"""A penalty that leaves large weights alone.

    .. math:: \lambda \sum_{ij} \begin{cases} |w| - w^2 / (2\gamma), & |w| \le \gamma \\
        \gamma / 2, & |w| > \gamma \end{cases}

    Args:
      weights: any array.
      strength: :math:`\lambda`, a scalar.
      gamma: where the penalty levels off, a positive scalar.

    Returns:
      The sum, a scalar, at least float32. The gradient at 0 is taken as 0.

    Raises:
      TypeError: if an argument is not floating.
      ValueError: if ``gamma`` is a number that is not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> print(f"{dag.mcp_penalty(jnp.array([0.5, 3.0])):.4f}")
      0.0875

    References:
      Zhang, *Nearly Unbiased Variable Selection under Minimax Concave Penalty*, Annals
      of Statistics 2010.
    """
    checks.positive(gamma=gamma)
    weights, strength, gamma = checks.floating(
        weights=weights, strength=strength, gamma=gamma
    )
    dtype = accumulation_dtype(weights)
    weights, gamma = weights.astype(dtype), gamma.astype(dtype)
    size = jnp.minimum(jnp.abs(weights), gamma)
    return strength.astype(dtype) * jnp.sum(size - size**2 / (2.0 * gamma))
