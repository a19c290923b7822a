"""Gradient flow and gradient descent of any loss, recorded along the way."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.mesa._model import LSAParams
from jaxkit.ops import abs_squared, integrate
from jaxkit.typing import ArrayLike, PyTree

__all__ = ["Trajectory", "balance", "gradient_descent", "gradient_flow"]

LossFn: TypeAlias = Callable[[Any], jax.Array]


class Trajectory(NamedTuple):
    """A gradient flow at the times asked for.

    Attributes:
      times: the times, shape ``[num_times]``.
      params: the parameters, each leaf with a leading axis ``num_times``.
      loss: the loss, shape ``[num_times]``.
      grad_sq_norm: the squared norm of the gradient, shape ``[num_times]``; the loss
        falls at exactly this rate.
    """

    times: jax.Array
    params: PyTree
    loss: jax.Array
    grad_sq_norm: jax.Array


def gradient_flow(
    loss_fn: LossFn,
    params: PyTree,
    times: ArrayLike,
    *,
    method: str | Callable[..., Any] = "rk4",
    substeps: int = 1,
    rtol: float = 1e-8,
    atol: float = 1e-10,
) -> Trajectory:
    r"""Follows the gradient flow of a loss.

    .. math:: \frac{d\theta}{d\tau} = -\nabla L(\theta), \qquad
       \frac{dL}{d\tau} = -\|\nabla L\|^2

    Complex parameters move along the conjugate of what :func:`jax.grad` returns: the
    direction of steepest descent. An explicit method is stable only while the step
    times the largest curvature stays below about 2.7 (``"rk4"``) or 2 (``"euler"``);
    near the optimum of the reduced flow that curvature is ``c1 (a^2 + b^2)``, which
    grows with the sixth power of the scale of the data. A start in a saddle stays
    there. Not compiled: jit the function that calls it.

    Args:
      loss_fn: maps parameters to a real scalar.
      params: the start, a pytree of floating or complex arrays.
      times: increasing, shape ``[num_times]``; ``params`` is the state at the first.
      method: as in :func:`jaxkit.ops.integrate`.
      substeps: steps between two times of the fixed-step methods.
      rtol: relative tolerance of ``"dopri5"``.
      atol: absolute tolerance of ``"dopri5"``.

    Returns:
      The :class:`Trajectory`.

    Raises:
      TypeError: if the loss is not real or a parameter is not floating or complex.
      ValueError: if the loss is no scalar, or an option is invalid.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import mesa
      >>> loss_fn = lambda x: 0.5 * jnp.sum(x**2)
      >>> flow = mesa.gradient_flow(loss_fn, jnp.ones(1), jnp.linspace(0.0, 1.0, 11))
      >>> print(f"{flow.params[-1, 0]:.4f} {flow.loss[-1]:.4f}")
      0.3679 0.0677

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, section 3.
    """
    params = _check(loss_fn, params)
    (times,) = checks.floating(times=times)
    descent = jax.grad(lambda theta: -loss_fn(theta))
    states = integrate(
        lambda _, theta: jax.tree.map(jnp.conj, descent(theta)),
        params,
        times,
        method=method,
        substeps=substeps,
        rtol=rtol,
        atol=atol,
    )

    def record(theta: PyTree) -> tuple[jax.Array, jax.Array]:
        loss, grads = jax.value_and_grad(loss_fn)(theta)
        return loss, _sum_squares(grads)

    # One state at a time: a vmap would hold the batch of a sampled loss num_times
    # times over.
    loss, grad_sq_norm = jax.lax.map(record, states)
    return Trajectory(times, states, loss, grad_sq_norm)


def gradient_descent(
    loss_fn: LossFn,
    params: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    record: Callable[[Any], PyTree] | None = None,
) -> tuple[PyTree, PyTree]:
    r"""Minimizes a loss by a fixed number of optimizer steps, in one scan.

    .. math:: \theta_{k+1} = \theta_k + \mathrm{update}\left(\overline{\mathrm{grad}
       \,L(\theta_k)}\right)

    Complex gradients are conjugated before the optimizer sees them, as descent
    demands; do not add :func:`conjugate_updates` here. Not compiled: jit the
    function that calls it.

    Args:
      loss_fn: maps parameters to a real scalar.
      params: the start, a pytree of floating or complex arrays.
      optimizer: an optax transformation.
      num_steps: the number of steps, at least 0.
      record: what to keep of the parameters, any pytree of arrays; None keeps the
        loss.

    Returns:
      The final parameters, and the records with a leading axis ``num_steps + 1``:
      entry ``k`` belongs to the parameters after ``k`` steps.

    Raises:
      TypeError: if the loss is not real or a parameter is not floating or complex.
      ValueError: if the loss is no scalar or ``num_steps`` is negative.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import mesa
      >>> loss_fn = lambda x: 0.5 * jnp.sum(x**2)
      >>> params, losses = mesa.gradient_descent(
      ...     loss_fn, jnp.ones(1), optax.sgd(0.5), num_steps=2)
      >>> print(params, losses)
      [0.25] [0.5     0.125   0.03125]

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, section 6.
    """
    params = _check(loss_fn, params)
    checks.at_least("num_steps", num_steps, 0)
    keep = loss_fn if record is None else record

    def step(carry: tuple[PyTree, PyTree], _: None) -> Any:
        theta, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(theta)
        entry = loss if record is None else record(theta)
        grads = jax.tree.map(jnp.conj, grads)
        updates, state = optimizer.update(grads, state, theta)
        return (optax.apply_updates(theta, updates), state), entry

    carry = (params, optimizer.init(params))
    (params, _), records = jax.lax.scan(step, carry, length=num_steps)
    last = keep(params)
    records = jax.tree.map(
        lambda head, tail: jnp.concatenate([head, jnp.asarray(tail)[None]]),
        records,
        last,
    )
    return params, records


@jit()
def balance(params: LSAParams) -> jax.Array:
    r"""Computes the quantity that gradient flow conserves.

    .. math:: C = \|\mathrm{KQ}\|_F^2 - \|\mathrm{PV}\|_F^2

    Conserved for any batch and any start, because the prediction is bilinear in the
    two matrices. Plain gradient descent with step ``eta`` changes it by exactly
    ``eta^2`` times the same difference of the gradients.

    Args:
      params: the parameters, with any leading axes, such as those of a trajectory.

    Returns:
      The difference over the last two axes, real, shape ``[...]``, at least float32.

    Raises:
      TypeError: if a parameter is not floating or complex.

    Examples:
      >>> from jaxkit import mesa
      >>> print(mesa.balance(mesa.init_diagonal(2, a=1.0, b=0.5)))
      1.5

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, lemma 5.2; the general statement is derived in the guide.
    """
    kq, pv = checks.inexact(kq=params.kq, pv=params.pv)
    dtype = accumulation_dtype(kq, pv)
    kq_norm = jnp.sum(abs_squared(kq.astype(dtype)), axis=(-2, -1))
    return kq_norm - jnp.sum(abs_squared(pv.astype(dtype)), axis=(-2, -1))


def _sum_squares(tree: PyTree) -> jax.Array:
    leaves = [jnp.sum(abs_squared(leaf)) for leaf in jax.tree.leaves(tree)]
    dtype = accumulation_dtype(*leaves)
    return sum((leaf.astype(dtype) for leaf in leaves), start=jnp.zeros((), dtype))


def _check(loss_fn: LossFn, params: PyTree) -> PyTree:
    params = jax.tree.map(lambda leaf: checks.inexact(params=leaf)[0], params)
    out = jax.eval_shape(loss_fn, params)
    leaf = jax.tree.leaves(out)
    if len(leaf) != 1 or leaf[0].shape != ():
        shapes = ", ".join(str(x.shape) for x in leaf) or "nothing"
        raise ValueError(f"`loss_fn` must return one scalar, got {shapes}.")
    if not jnp.issubdtype(leaf[0].dtype, jnp.floating):
        raise TypeError(f"`loss_fn` must return a real value, got {leaf[0].dtype}.")
    return params
