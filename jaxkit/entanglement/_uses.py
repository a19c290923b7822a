"""Checks that every parameter meets exactly one counting operation.

The counting operations see one use of a parameter each: of a parameter used twice
(tied embedding and head, a layer applied twice) they would miss the products between
the uses, and of one used by an ordinary operation everything. Both are mistakes that
no number shows, so the program is read before it runs.
"""

import collections
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from jaxkit.entanglement._accumulator import COUNTED
from jaxkit.typing import PyTree

__all__ = ["check_uses"]

_SAME_NUMBERS = {
    "convert_element_type",
    "copy",
    "optimization_barrier",
    "pvary",
    "pcast",
    "reshape",
    "sharding_constraint",
    "squeeze",
    "transpose",
}
"""Primitives whose result holds the entries of their argument and no others."""


def check_uses(function: Callable[..., Any], params: PyTree, *args: PyTree) -> None:
    """Raises unless ``function(params, *args)`` counts each parameter just once."""
    program = jax.make_jaxpr(function)(params, *args).jaxpr
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(params)]
    leaves = [_Leaf(path, 1) for path in paths]
    uses, _ = _uses(program, dict(zip(program.invars, leaves, strict=False)))
    counted: collections.Counter[str] = collections.Counter()
    for leaf, kind in uses:
        if leaf is None:
            raise ValueError(
                "An operation with an accumulator has a parameter that is not a leaf "
                "of `params`; give frozen parameters no accumulator."
            )
        if kind != COUNTED:
            raise ValueError(
                f"`params{leaf.path}` must be used by operations with an accumulator "
                f"alone, which would miss its use by {kind!r}."
            )
        counted[leaf.path] += leaf.times
    for path, times in counted.items():
        if times > 1:
            raise ValueError(
                f"`params{path}` is used {times} times (tied or shared weights); the "
                f"accumulator would miss the products between its uses. Use pair_gram."
            )


class _Leaf(NamedTuple):
    """A leaf of the parameters, and how often the program that holds it runs."""

    path: str
    times: int


Leaves = dict[Any, _Leaf]
Uses = list[tuple[_Leaf | None, str]]


def _uses(program: Any, leaves: Leaves) -> tuple[Uses, list[_Leaf | None]]:
    """Lists the uses of each leaf, and which leaf each result of a program is."""
    known = dict(leaves)
    uses: Uses = []
    # Literals cannot be hashed and come from no leaf.
    leaf_of = lambda v: None if hasattr(v, "val") else known.get(v)
    for eqn in program.eqns:
        name = eqn.primitive.name
        given = [leaf_of(v) for v in eqn.invars]
        if name == "name" and eqn.params["name"] == COUNTED:
            uses.append((given[0], COUNTED))
            continue
        if name in _SAME_NUMBERS:
            results = given
        else:
            inner, results = _inner_uses(eqn, given)
            uses += inner
        known |= {
            out: leaf
            for out, leaf in zip(eqn.outvars, results, strict=False)
            if leaf is not None
        }
    return uses, [leaf_of(v) for v in program.outvars]


def _inner_uses(eqn: Any, given: list[_Leaf | None]) -> tuple[Uses, list]:
    name = eqn.primitive.name
    programs = list(_programs(eqn))
    if name == "cond":
        given = given[1:]
    if name == "scan" and len(programs) == 1:
        given = _per_step(eqn, programs[0], given)
    uses: Uses = []
    results: list[_Leaf | None] = []
    for program in programs:
        if len(program.invars) != len(given):
            return [(leaf, name) for leaf in given if leaf is not None], []
        leaves = {
            v: leaf
            for v, leaf in zip(program.invars, given, strict=True)
            if leaf is not None
        }
        inner, results = _uses(program, leaves)
        uses += inner
    if not programs:
        uses = [(leaf, name) for leaf in given if leaf is not None]
    return uses, [] if name == "scan" else results


def _per_step(eqn: Any, program: Any, given: list[_Leaf | None]) -> list[_Leaf | None]:
    """Counts what each step of a loop is given again as often as it runs."""
    leaves = []
    for leaf, outer, inner in zip(given, eqn.invars, program.invars, strict=True):
        # What is scanned over gives each step its own part: one use altogether.
        if leaf is not None and outer.aval.shape == inner.aval.shape:
            leaf = leaf._replace(times=leaf.times * eqn.params["length"])
        leaves.append(leaf)
    return leaves


def _programs(eqn: Any) -> Iterator[Any]:
    """Yields the programs that an equation runs."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner
