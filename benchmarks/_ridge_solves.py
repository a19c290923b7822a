"""Ridge regression: the closed-form derivative against autodiff, and what QR costs.

The peers: "autodiff" is the regression as it is usually written, with both kernel
matrices and a Cholesky solve; the goal is against it. "autodiff, weights first" is the
same solve in the order of ours, without the kernel matrix of real and synthetic
examples: what is left of the ratio against it is the derivative alone. "qr" is the
accurate method, whose ratio is its price.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks._harness import Case, Goal, Program, Work, jax_program
from benchmarks._peers import within
from jaxkit import distillation

__all__ = ["solver_cases"]

SIZES = {
    # synthetic examples, features, real examples, outputs
    "small": ((50, 257, 256, 64), (500, 2049, 512, 128)),
    "full": ((50, 257, 256, 64), (500, 2049, 512, 128), (1000, 257, 512, 128)),
    "accelerator": ((1000, 8193, 1024, 512), (2000, 8193, 1024, 512)),
}
GOALS = (Goal("autodiff", 1.5),)


def solver_cases(preset: str, max_length: int | None) -> list[Case]:
    """The outer loss with its gradient to synthetic features and targets."""
    return [
        Case(
            f"ridge, n={count}, p={size[1]}, B={size[2]}, k={size[3]}",
            functools.partial(_programs, count, *size[1:]),
            # Small products are a matter of dispatch, and p < n of another method.
            goals=GOALS if 500 <= count <= size[1] else (),
        )
        for size in SIZES[preset]
        for count in within((size[0],), max_length)
    ]


def _programs(num_s: int, width: int, batch: int, outputs: int) -> list[Program]:
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (num_s, width), (num_s, outputs), (batch, width), (batch, outputs)
    args = [
        jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)
    ]
    loss = functools.partial(
        distillation.krr_loss, coef=1e-3, bias=False, stop_gradient_ridge=True
    )
    short, long = min(num_s, width), max(num_s, width)
    # The Gram matrix, its factor, and seven products of features with targets.
    flops = 2.0 * short**2 * long + short**3 / 3 + 10.0 * num_s * width * outputs
    flops += 4.0 * batch * width * outputs
    work = Work(flops, 4.0 * sum(a.size for a in args))
    exact = "cholesky" if num_s <= width else "primal"
    forms: dict[str, Callable] = {
        exact: functools.partial(loss, method=exact),
        "autodiff": _as_usually_written,
        "autodiff, weights first": functools.partial(loss, method="autodiff"),
        "qr": functools.partial(loss, method="qr"),
    }
    return [
        jax_program(name, _value_and_gradient(form), *args, work=work)
        for name, form in forms.items()
    ]


def _value_and_gradient(loss: Callable) -> Callable:
    mean = lambda *args: jnp.mean(loss(*args))
    return jax.value_and_grad(mean, argnums=(0, 1))


def _as_usually_written(
    feat_s: jax.Array, y_s: jax.Array, feat_t: jax.Array, y_t: jax.Array
) -> jax.Array:
    """Two kernel matrices and a Cholesky solve, differentiated step by step."""
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    k_ss, k_ts = product(feat_s, feat_s.T), product(feat_t, feat_s.T)
    ridge = 1e-3 * jax.lax.stop_gradient(jnp.trace(k_ss))
    factor = jnp.linalg.cholesky(k_ss + ridge * jnp.eye(len(k_ss)))
    alpha = jax.scipy.linalg.cho_solve((factor, True), y_s)
    return jnp.mean(jnp.square(product(k_ts, alpha) - y_t), axis=1)
