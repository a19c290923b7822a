"""Errors of float32 ridge regression against float64, as a table.

Run with ``python -m benchmarks.ridge_accuracy``; seconds on a CPU.

The features are those of a fresh ReLU network on inputs of decaying variance, as smooth
images have: most of them share one direction, so the Gram matrix is ill-conditioned.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import distillation

__all__ = ["main"]

CASES = (
    (50, 512, "trace"),
    (200, 512, "trace"),
    (600, 512, "trace"),
    (600, 512, "mean_trace"),
    (100, 40, "trace"),
    (100, 40, "mean_trace"),
)
METHODS = ("cholesky", "primal", "qr")
NUM_REAL, NUM_OUTPUTS = 64, 8


def main(cases: Sequence[tuple[int, int, str]] = CASES) -> dict[str, list[float]]:
    """Prints relative errors of the loss's gradients to targets and features."""
    print(f"| n | features | ridge | condition | {' | '.join(METHODS)} |")
    print("| ---: | ---: | --- | ---: |" + " ---: |" * len(METHODS))
    results = {}
    with jax.enable_x64(True):
        for num_s, width, scale in cases:
            data = _problem(num_s, width)
            exact = _gradients(data, scale, "cholesky", jnp.float64)
            errors = {
                method: [
                    float(np.linalg.norm(got - want) / np.linalg.norm(want))
                    for got, want in zip(
                        _gradients(data, scale, method, jnp.float32), exact, strict=True
                    )
                ]
                for method in METHODS
            }
            cells = [" / ".join(f"{e:.0e}" for e in errors[m]) for m in METHODS]
            condition = f"{_condition(data[0], scale):.0e}"
            row = (str(num_s), str(width), scale, condition, *cells)
            print(f"| {' | '.join(row)} |", flush=True)
            for method in METHODS:
                results[f"{num_s}, {width}, {scale}, {method}"] = errors[method]
    return results


def _problem(num_s: int, width: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((num_s + NUM_REAL, 64)) / np.arange(1, 65)
    hidden = np.maximum(inputs @ rng.standard_normal((64, 256)) / 4, 0)
    features = np.maximum(hidden @ rng.standard_normal((256, width)) / 16, 0)
    targets = features @ rng.standard_normal((width, NUM_OUTPUTS)) / np.sqrt(width)
    y_s = targets[:num_s] + 0.1 * rng.standard_normal((num_s, NUM_OUTPUTS))
    return features[:num_s], y_s, features[num_s:], targets[num_s:]


def _gradients(
    data: tuple[np.ndarray, ...], scale: str, method: str, dtype: jnp.dtype
) -> list[np.ndarray]:
    """Gradients to targets and features, in float64 whatever they were computed in."""

    def loss(*args: jax.Array) -> jax.Array:
        return jnp.mean(distillation.krr_loss(*args, scale=scale, method=method))

    gradients = jax.jit(jax.grad(loss, (1, 0)))(*(jnp.asarray(a, dtype) for a in data))
    return [np.asarray(g, np.float64) for g in gradients]


def _condition(feat_s: np.ndarray, scale: str) -> float:
    gram = feat_s @ feat_s.T + 1.0
    ridge = 1e-6 * np.trace(gram) / (len(gram) if scale == "mean_trace" else 1)
    values = np.linalg.eigvalsh(gram)
    return float((values[-1] + ridge) / (max(values[0], 0.0) + ridge))


if __name__ == "__main__":
    main()
