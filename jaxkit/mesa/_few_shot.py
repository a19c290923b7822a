"""In-context linear regression: the task, and the best single step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.mesa._few_shot_inputs import (
    covariance_arrays,
    few_shot_arrays,
    preconditioner_array,
)
from jaxkit.mesa._validate import broadcast_real
from jaxkit.ops import cholesky_solve
from jaxkit.typing import ArrayLike, Key

__all__ = [
    "FewShotBatch",
    "few_shot_gamma",
    "few_shot_learning_rate",
    "few_shot_loss",
    "few_shot_optimal_loss",
    "few_shot_predict",
    "sample_few_shot",
]

_HIGHEST = jax.lax.Precision.HIGHEST


class FewShotBatch(NamedTuple):
    """Tasks of linear regression with their examples and one query.

    Attributes:
      inputs: the example inputs, shape ``[..., num_examples, dim]``.
      targets: the noisy example targets, shape ``[..., num_examples]``.
      query: the query input, shape ``[..., dim]``.
      query_target: the noiseless target of the query, shape ``[...]``.
    """

    inputs: jax.Array
    targets: jax.Array
    query: jax.Array
    query_target: jax.Array


@jit(static_argnames=("batch_shape", "num_examples"))
def sample_few_shot(
    key: Key,
    covariance: ArrayLike,
    *,
    batch_shape: tuple[int, ...] = (),
    num_examples: int,
    noise_variance: ArrayLike = 0.0,
) -> FewShotBatch:
    r"""Samples tasks of noisy linear regression.

    .. math:: x_i, x_q \sim \mathcal{N}(0, \Lambda), \quad w \sim \mathcal{N}(0, I),
       \quad y_i = w^\top x_i + \epsilon_i, \quad \epsilon_i \sim
       \mathcal{N}(0, \sigma^2)

    Args:
      key: a typed random key.
      covariance: ``Lambda``, positive definite, shape ``[dim, dim]``.
      batch_shape: leading axes of the result; static.
      num_examples: ``N``, at least 1; static.
      noise_variance: ``sigma^2``, a scalar, at least 0.

    Returns:
      A :class:`FewShotBatch` in the dtype of ``covariance``, at least float32.

    Raises:
      TypeError: if ``key`` is no typed key or ``covariance`` not real.
      ValueError: if a shape does not fit or ``num_examples`` is less than 1.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> batch = mesa.sample_few_shot(
      ...     jax.random.key(0), jnp.eye(3), batch_shape=(4,), num_examples=6)
      >>> batch.inputs.shape, batch.query_target.shape
      ((4, 6, 3), (4,))

    References:
      Zhang, Frei and Bartlett, *Trained Transformers Learn Linear Models
      In-Context*, 2023, section 3.
    """
    checks.typed_key(key)
    checks.at_least("num_examples", num_examples, 1)
    covariance, (noise,) = covariance_arrays(covariance, noise_variance=noise_variance)
    dtype, dim = covariance.dtype, covariance.shape[-1]
    factor = jnp.linalg.cholesky(covariance)
    key_x, key_w, key_noise = jax.random.split(key, 3)
    z = jax.random.normal(key_x, (*batch_shape, num_examples + 1, dim), dtype)
    x = jnp.einsum("...i,oi->...o", z, factor, precision=_HIGHEST)
    w = jax.random.normal(key_w, (*batch_shape, dim), dtype)
    y = jnp.einsum("...ni,...i->...n", x, w, precision=_HIGHEST)
    epsilon = jax.random.normal(key_noise, (*batch_shape, num_examples), dtype)
    return FewShotBatch(
        inputs=x[..., :-1, :],
        targets=y[..., :-1] + jnp.sqrt(noise) * epsilon,
        query=x[..., -1, :],
        query_target=y[..., -1],
    )


@jit(static_argnames=("num_examples",))
def few_shot_gamma(
    covariance: ArrayLike, *, num_examples: int, noise_variance: ArrayLike = 0.0
) -> jax.Array:
    r"""Computes the matrix whose inverse is the best preconditioner.

    .. math:: \Gamma = \left(1 + \tfrac1N\right) \Lambda + \tfrac{1}{N}
       \left(\operatorname{tr} \Lambda + \sigma^2\right) I

    Args:
      covariance: ``Lambda``, shape ``[dim, dim]``.
      num_examples: ``N``, at least 1; static.
      noise_variance: ``sigma^2``, a scalar.

    Returns:
      ``Gamma``, shape ``[dim, dim]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if a shape does not fit or ``num_examples`` is less than 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> print(mesa.few_shot_gamma(jnp.eye(2), num_examples=4))
      [[1.75 0.  ]
       [0.   1.75]]

    References:
      Zhang, Frei and Bartlett, *Trained Transformers Learn Linear Models
      In-Context*, 2023, theorem 4.1; with noise: Mahankali, Hashimoto and Ma, 2023.
    """
    checks.at_least("num_examples", num_examples, 1)
    covariance, (noise,) = covariance_arrays(covariance, noise_variance=noise_variance)
    identity = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
    ridge = (jnp.trace(covariance) + noise) / num_examples
    return (1 + 1 / num_examples) * covariance + ridge * identity


@jit()
def few_shot_predict(
    preconditioner: ArrayLike, inputs: ArrayLike, targets: ArrayLike, query: ArrayLike
) -> jax.Array:
    r"""Predicts by one preconditioned gradient step from zero.

    .. math:: \hat y = x_q^\top P\, \frac1N \sum_{i=1}^N y_i x_i

    With ``P`` the inverse of :func:`few_shot_gamma` it is the best predictor of one
    linear self-attention layer.

    Args:
      preconditioner: ``P``, shape ``[dim, dim]``.
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
      >>> print(mesa.few_shot_predict(
      ...     jnp.eye(1), jnp.ones((2, 1)), jnp.array([1.0, 3.0]), jnp.ones(1)))
      2.0

    References:
      von Oswald et al., *Transformers Learn In-Context by Gradient Descent*, 2023,
      proposition 1.
    """
    inputs, targets, query = few_shot_arrays(inputs, targets, query)
    p = preconditioner_array("preconditioner", preconditioner, inputs)
    mean = jnp.einsum("...ni,...n->...i", inputs, targets, precision=_HIGHEST)
    step = jnp.einsum("oi,...i->...o", p, mean, precision=_HIGHEST)
    return jnp.sum(query * step, axis=-1) / inputs.shape[-2]


@jit(static_argnames=("num_examples",))
def few_shot_loss(
    preconditioner: ArrayLike,
    covariance: ArrayLike,
    *,
    num_examples: int,
    noise_variance: ArrayLike = 0.0,
) -> jax.Array:
    r"""Computes the exact expected squared error of any preconditioner.

    .. math:: E(\hat y - w^\top x_q)^2 = \operatorname{tr} \Lambda \left(P \Lambda
       \Gamma P^\top - P \Lambda - \Lambda P^\top + I\right)

    Args:
      preconditioner: ``P`` of :func:`few_shot_predict`, shape ``[..., dim, dim]``.
      covariance: ``Lambda``, shape ``[dim, dim]``.
      num_examples: ``N``, at least 1; static.
      noise_variance: ``sigma^2`` of the example targets, a scalar; the target of the
        query is noiseless.

    Returns:
      The loss (without a factor of one half), shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if a shape does not fit or ``num_examples`` is less than 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> print(mesa.few_shot_loss(jnp.zeros((3, 3)), jnp.eye(3), num_examples=4))
      3.0

    References:
      Zhang, Frei and Bartlett, *Trained Transformers Learn Linear Models
      In-Context*, 2023, theorem 4.2.
    """
    (p,) = checks.floating(preconditioner=preconditioner)
    covariance, (noise,) = covariance_arrays(covariance, noise_variance=noise_variance)
    dim = covariance.shape[-1]
    checks.shape("preconditioner", p, (dim, dim))
    gamma = few_shot_gamma(
        covariance, num_examples=num_examples, noise_variance=noise
    ).astype(covariance.dtype)
    p = p.astype(covariance.dtype)
    second = jnp.matmul(covariance, gamma, precision=_HIGHEST)
    left = jnp.einsum("ij,...jk->...ik", covariance, p, precision=_HIGHEST)
    quadratic = jnp.einsum("...ij,jk,...ik->...", left, second, p, precision=_HIGHEST)
    linear = jnp.einsum("...ij,ji->...", left, covariance, precision=_HIGHEST)
    return quadratic - 2 * linear + jnp.trace(covariance)


@jit(static_argnames=("num_examples",))
def few_shot_optimal_loss(
    covariance: ArrayLike, *, num_examples: int, noise_variance: ArrayLike = 0.0
) -> jax.Array:
    r"""Computes the least loss that one linear self-attention layer can reach.

    .. math:: \operatorname{tr} \Lambda - \operatorname{tr}(\Lambda^2 \Gamma^{-1})

    Args:
      covariance: ``Lambda``, positive definite, shape ``[dim, dim]``.
      num_examples: ``N``, at least 1; static.
      noise_variance: ``sigma^2``, a scalar.

    Returns:
      The loss, a scalar, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if a shape does not fit or ``num_examples`` is less than 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> covariance = jnp.diag(jnp.array([0.4, 1.0, 1.7, 2.5]))
      >>> loss = mesa.few_shot_optimal_loss(
      ...     covariance, num_examples=12, noise_variance=0.5)
      >>> print(f"{loss:.4f}")
      1.6290

    References:
      Zhang, Frei and Bartlett, *Trained Transformers Learn Linear Models
      In-Context*, 2023, theorem 4.2.
    """
    covariance, (noise,) = covariance_arrays(covariance, noise_variance=noise_variance)
    checks.at_least("num_examples", num_examples, 1)
    identity = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
    # tr(Lambda Gamma^-1 (Gamma - Lambda)): with many examples the two traces of the
    # definition cancel, and so would the last difference if it were not written out.
    excess = covariance + (jnp.trace(covariance) + noise) * identity
    solved = cholesky_solve(covariance + excess / num_examples, excess)
    return jnp.sum(covariance * solved.T) / num_examples


@jit(static_argnames=("dim", "num_examples"))
def few_shot_learning_rate(
    dim: int, *, num_examples: int, noise_variance: ArrayLike = 0.0
) -> jax.Array:
    r"""Computes the best step of one layer for isotropic inputs.

    .. math:: \eta = \frac{N}{N + d + 1 + \sigma^2}

    It is the inverse of :func:`few_shot_gamma` for the covariance ``I``.

    Args:
      dim: the input dimension ``d``, at least 1; static.
      num_examples: ``N``, at least 1; static.
      noise_variance: ``sigma^2``, shape ``[...]``.

    Returns:
      The step on the mean gradient, shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``noise_variance`` is not real.
      ValueError: if a size is less than 1.

    Examples:
      >>> from jaxkit import mesa
      >>> print(mesa.few_shot_learning_rate(3, num_examples=4))
      0.5

    References:
      Mahankali, Hashimoto and Ma, *One Step of Gradient Descent is Provably the
      Optimal In-Context Learner with One Layer of Linear Self-Attention*, 2023.
    """
    checks.at_least("dim", dim, 1)
    checks.at_least("num_examples", num_examples, 1)
    (noise,) = broadcast_real(noise_variance=noise_variance)
    return num_examples / (num_examples + dim + 1 + noise)
