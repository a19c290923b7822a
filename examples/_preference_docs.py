"""Preference pairs made of real text: the documentation of installed packages.

The texts are the descriptions of public functions and classes of NumPy, SciPy, JAX
and Optax, read from their docstrings. The prompt is the full name. The chosen answer
is the first sentence of the description and the rejected one that of something else,
or they are the first two sentences in their true and in the other order. So the
better answer is known, and it takes reading to find it: both are correct sentences of
one style.
"""

import importlib
import inspect
import re
from typing import Literal, NamedTuple

import numpy as np
from _preference_data import Pair

MODULES = (
    "numpy",
    "numpy.fft",
    "numpy.linalg",
    "numpy.ma",
    "numpy.random",
    "scipy.fft",
    "scipy.integrate",
    "scipy.interpolate",
    "scipy.linalg",
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.signal",
    "scipy.sparse",
    "scipy.sparse.linalg",
    "scipy.spatial",
    "scipy.special",
    "scipy.stats",
    "jax",
    "jax.lax",
    "jax.nn",
    "jax.numpy",
    "jax.random",
    "optax",
)

Kind = Literal["order", "other"]


class Entry(NamedTuple):
    """Where a function is found, its name, and the sentences that describe it."""

    module: str
    name: str
    sentences: tuple[str, ...]


def read_entries() -> list[Entry]:
    """Reads the descriptions, each text once."""
    entries: dict[tuple[str, ...], Entry] = {}
    for module in MODULES:
        members = vars(importlib.import_module(module))
        for name in sorted(members):
            value = members[name]
            if name.startswith("_") or not callable(value):
                continue
            sentences = split_description(inspect.getdoc(value) or "")
            if sentences:
                entries.setdefault(sentences, Entry(module, name, sentences))
    return list(entries.values())


def split_description(docstring: str) -> tuple[str, ...]:
    """Gives the sentences before the first section, list or formula."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", docstring):
        if re.search(r"\n\s*(-{3,}|={3,})", paragraph) or re.match(
            r"\s*(>>>|\.\.|[-*] |Args|LAX|JAX imp|Refer)", paragraph
        ):
            break
        text = " ".join(paragraph.split())
        if not re.fullmatch(r"\w+\(.*\)", text):
            paragraphs.append(text)
    sentences = re.split(r"(?<=[a-z)`][.!?]) (?=[A-Z])", " ".join(paragraphs))
    return tuple(s for s in sentences if s) if len(sentences[0]) > 20 else ()


def make_pairs(
    entries: list[Entry], *, kind: Kind, max_bytes: int, seed: int
) -> list[Pair]:
    """Makes one pair of each entry that has text enough and not too much.

    Args:
      entries: the descriptions; those of "other" answer for one another, so pass
        the training part and the held-out part separately.
      kind: "order" swaps the first two sentences; "other" takes another entry.
      max_bytes: the longest chosen answer.
      seed: picks the other entry.

    Returns:
      The pairs, the answers with a leading space.
    """
    count = 2 if kind == "order" else 1
    parts = [(f"{e.module}.{e.name}", e.sentences[:count]) for e in entries]
    parts = [
        (name, sentences)
        for name, sentences in parts
        if len(sentences) == count and len(" ".join(sentences).encode()) < max_bytes
    ]
    random = np.random.default_rng(seed)
    # A cyclic shift of a random order never gives an entry its own description.
    order = random.permutation(len(parts))
    other = dict(zip(order, np.roll(order, 1), strict=True))
    pairs = []
    for i, (name, sentences) in enumerate(parts):
        wrong = sentences[::-1] if kind == "order" else parts[other[i]][1]
        right, wrong = (" " + " ".join(text) for text in (sentences, wrong))
        pairs.append(Pair(f"{name}:", right, wrong))
    return pairs


def split_entries(
    entries: list[Entry], *, held_out: float, seed: int
) -> tuple[list[Entry], list[Entry]]:
    """Holds entries out; one name (such as that of NumPy and JAX) stays together."""
    names = sorted({entry.name for entry in entries})
    order = np.random.default_rng(seed).permutation(len(names))
    out = {names[i] for i in order[: round(held_out * len(names))]}
    return (
        [entry for entry in entries if entry.name not in out],
        [entry for entry in entries if entry.name in out],
    )
