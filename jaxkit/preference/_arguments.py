"""Which fields of a pair a loss asks for."""

import inspect
from collections.abc import Callable
from typing import Any

from jaxkit.preference._pairs import PairLogps
from jaxkit.typing import ArrayLike

__all__ = ["pair_arguments"]


def pair_arguments(
    loss_fn: Callable[..., Any], pair: PairLogps
) -> tuple[tuple[ArrayLike, ...], dict[str, ArrayLike]]:
    """Gives the arguments of `loss_fn` that come from the pair.

    By name if the function names its first argument as the losses here do; else all
    that the pair holds, in order.
    """
    fields = {f"{name}_logps": value for name, value in pair._asdict().items()}
    names = inspect.signature(loss_fn).parameters
    if "chosen_logps" not in names:
        return tuple(value for value in fields.values() if value is not None), {}
    wanted = {name: value for name, value in fields.items() if name in names}
    for name, value in wanted.items():
        if value is None:
            field = name.removesuffix("_logps")
            raise ValueError(f"The loss needs `pair.{field}`, got None.")
    return (), wanted
