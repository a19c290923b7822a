"""What the hyper-parameters of all losses have in common: ranges and a dtype."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks
from jaxkit.hypersphere._protocol import Terms
from jaxkit.typing import PyTree, ScalarLike

__all__ = [
    "ANGLE",
    "INNER_SHARE",
    "MARGIN",
    "NON_NEGATIVE",
    "POSITIVE",
    "SHARE",
    "Hyperparameters",
    "Interval",
    "SoftmaxHyperparameters",
    "check_number",
    "known_zero_as_none",
    "static_field",
]


class Interval(NamedTuple):
    """The values that a hyper-parameter may take."""

    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False


# Beyond a right angle the guard of an additive angle no longer makes sense.
MARGIN = Interval(0.0, math.pi / 2, high_open=True)
SHARE = Interval(0.0, 1.0)
INNER_SHARE = Interval(0.0, 1.0, low_open=True, high_open=True)
POSITIVE = Interval(0.0, low_open=True)
NON_NEGATIVE = Interval(0.0)
ANGLE = Interval(0.0, math.pi, low_open=True, high_open=True)


def static_field(default: Any) -> Any:
    """A field of a configuration that is part of its structure, not a leaf."""
    return dataclasses.field(default=default, metadata={"static": True})


def known_zero_as_none(value: ScalarLike | None) -> ScalarLike | None:
    """Gives None for a plain 0, which switches a term off instead of computing it."""
    return None if isinstance(value, int | float) and value == 0 else value


def check_number(
    name: str,
    value: object,
    interval: Interval,
    kinds: tuple[type, ...] = (int, float, np.number),
) -> None:
    """Raises ``ValueError`` if a value is a plain number out of its range."""
    if isinstance(value, kinds) and not isinstance(value, bool):
        checks.within(name, float(value), **interval._asdict())


class Hyperparameters:
    """Base of the configurations: a pytree of numbers, checked where they are known."""

    kind: ClassVar[str] = "separable"
    normalized: ClassVar[bool] = True
    ranges: ClassVar[Mapping[str, Interval]] = {}

    def __post_init__(self) -> None:
        # Rebuilding a tree may put anything in the place of a number, such as the 0
        # of an `in_axes`: only what is surely a number is checked here.
        self._check_numbers((float, np.floating))

    def check(self) -> None:
        """Raises ``ValueError`` on a number that is known and out of its range."""
        self._check_numbers((int, float, np.number))

    def _check_numbers(self, kinds: tuple[type, ...]) -> None:
        for name, interval in self.ranges.items():
            check_number(name, getattr(self, name), interval, kinds)

    def active_cosine(self, eps: ScalarLike) -> jax.Array:
        """Gives the cosine below which another class has a slope under ``eps * scale``.

        Minus infinity where no such bound is known: then every class is active.
        """
        return jnp.full((), -jnp.inf, jnp.asarray(eps).dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftmaxHyperparameters(Hyperparameters):
    """Base of the softmax losses, all of which can smooth the labels."""

    kind: ClassVar[str] = "softmax"

    label_smoothing: ScalarLike | None = None

    def _check_numbers(self, kinds: tuple[type, ...]) -> None:
        super()._check_numbers(kinds)
        share = Interval(0.0, 1.0, high_open=True)
        check_number("label_smoothing", self.label_smoothing, share, kinds)

    def softmax_terms(
        self, logit: jax.Array, num_classes: int, context: PyTree = ()
    ) -> Terms:
        """Gives the terms of a cross-entropy whose own class has the logit ``logit``."""
        if self.label_smoothing is None:
            return Terms(jnp.zeros_like(logit), context, logit)
        smoothing = jnp.asarray(self.label_smoothing, logit.dtype)
        share = smoothing / num_classes
        return Terms((smoothing - share) * logit, context, logit, share)
