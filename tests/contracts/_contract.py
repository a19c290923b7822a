"""One row of the contract table: what a public function promises, with samples."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Bad", "Contract", "cast", "complex_normal", "scalarize"]

Samples = Callable[[np.random.Generator], tuple[Any, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bad:
    """A call that must be refused, with the words the refusal must contain."""

    error: type[Exception]
    match: str
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contract:
    """Sample inputs of one public function and the checks that apply to it.

    Attributes:
      function: the public function.
      samples: makes float64 or complex128 positional arguments from a generator.
      kwargs: static options and fixed keyword arrays.
      hyper: traced keyword arguments, each with two admissible values.
      differentiable: positions of the arguments with gradients; () for none.
      twice: whether second derivatives exist.
      random: whether argument 0 is a key made by the suite.
      vmapped: positions mapped over by the vmap and sharding checks; None means all.
      mask: makes a bool mask for ``where``; None for functions without one.
      poisoned: positions that the mask covers, entry by entry along leading axes.
      loss: whether low precision inputs must come back as at least float32.
      low: tolerance of bfloat16 inputs; None where they are refused or pointless.
      extremes: argument tuples at the edge of the domain; value and gradient finite.
      bad: calls that must be refused.
    """

    function: Callable[..., Any]
    samples: Samples
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    hyper: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    differentiable: tuple[int, ...] = ()
    twice: bool = True
    random: bool = False
    vmapped: tuple[int, ...] | None = None
    mask: Callable[[], np.ndarray] | None = None
    poisoned: tuple[int, ...] = ()
    loss: bool = False
    low: float | None = 3e-2
    extremes: tuple[tuple[Any, ...], ...] = ()
    bad: tuple[Bad, ...] = ()

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function with the row's options."""
        hyper = {name: values[0] for name, values in self.hyper.items()}
        if self.random and isinstance(args[0], jax.Array):
            # The suite repeats a draw on purpose: the same key, the same numbers.
            args = (jax.random.clone(args[0]), *args[1:])
        return self.function(*args, **{**hyper, **self.kwargs, **kwargs})

    def args(self, seed: int = 0, dtype: Any = None) -> tuple[Any, ...]:
        """Makes positional arguments, cast to the precision of `dtype`."""
        args = self.samples(np.random.default_rng(seed))
        if self.random:
            args = (jax.random.key(seed), *args)
        return cast(args, jnp.float64 if dtype is None else dtype)


def cast(tree: Any, dtype: Any) -> Any:
    """Casts floating leaves to `dtype` and complex ones to its complex partner."""
    partner = {"float64": jnp.complex128}.get(jnp.dtype(dtype).name, jnp.complex64)

    def one(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(
            leaf.dtype, jax.dtypes.prng_key
        ):
            return leaf
        array = np.asarray(leaf)
        if np.iscomplexobj(array):
            return jnp.asarray(array, partner)
        if np.issubdtype(array.dtype, np.floating):
            return jnp.asarray(array, dtype)
        return leaf

    return jax.tree.map(one, tree)


def scalarize(out: Any) -> jax.Array:
    """Contracts every floating leaf with fixed weights, to a real scalar."""
    total = jnp.zeros(())
    for index, leaf in enumerate(jax.tree.leaves(out)):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        rng = np.random.default_rng(100 + index)
        dtype = leaf.real.dtype
        total = total.astype(dtype)
        total += jnp.sum(
            jnp.asarray(rng.standard_normal(leaf.shape), dtype) * leaf.real
        )
        if jnp.iscomplexobj(leaf):
            weights = jnp.asarray(rng.standard_normal(leaf.shape), dtype)
            total += jnp.sum(weights * leaf.imag)
    return total


def complex_normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Draws a complex array with independent standard normal parts."""
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
