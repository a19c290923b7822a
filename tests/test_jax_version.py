"""Refuses the JAX releases that compute wrong numbers or crash."""

import jax
import jax.numpy as jnp
import numpy as np

BROKEN = """\
JAX {version} computes wrong numbers on this machine: the squared norm of a matrix
times each of {rows:,} rows, jitted, is off by up to {error:.1%}. jax 0.10.2 is known
to do this on CPU (jax-ml/jax#39103), and 0.11.0 to crash (#39257): install a version
that satisfies 'jax>=0.10.0,!=0.10.2,!=0.11.0,<0.13', or set
XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= before Python starts."""


def worst_relative_error(num_rows: int, dtype: type) -> float:
    """Compares a jitted reduction of matrix-vector products with NumPy."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((3, 3)).astype(dtype)
    rows = rng.standard_normal((num_rows, 3)).astype(dtype)
    norms = jax.jit(jax.vmap(lambda row: jnp.sum(jnp.square(matrix @ row))))
    want = np.square(rows.astype(np.float64) @ matrix.T).sum(axis=1)
    return float(np.max(np.abs(np.asarray(norms(rows)) - want) / want))


def test_reduction_over_32769_rows_is_right():
    rows = 32_769
    error = worst_relative_error(rows, np.float32)
    assert error < 1e-4, BROKEN.format(version=jax.__version__, rows=rows, error=error)


def test_reduction_over_16385_float64_rows_is_right(x64: None):
    rows = 16_385
    error = worst_relative_error(rows, np.float64)
    assert error < 1e-12, BROKEN.format(version=jax.__version__, rows=rows, error=error)


def test_the_installed_version_is_inside_the_bounds():
    version = tuple(int(part) for part in jax.__version__.split(".")[:3])
    assert (0, 10, 0) <= version < (0, 13, 0), jax.__version__
    assert version not in {(0, 10, 2), (0, 11, 0)}, jax.__version__
