"""Losses over many classes, value and gradients, on random and trained embeddings."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._harness import Case, Goal, Program, Work, jax_program
from benchmarks._peers import optional_module, within
from jaxkit import hypersphere, ops

__all__ = ["cases"]

SIZES = {
    "small": (10_000, 85_742),
    "full": (10_000, 85_742, 1_000_000),
    "accelerator": (85_742, 1_000_000),
}
"""Classes; 512 embeddings of 512 features."""
LOSSES: dict[str, Any] = {
    "sface": hypersphere.SFaceConfig(),
    "arcface": hypersphere.MarginConfig.arcface(),
    "cosface": hypersphere.MarginConfig.cosface(),
}
LIBRARY = "pytorch-metric-learning"
ACTIVE = 128
"""Most active classes of a slice of 1024, an eighth; slices of accelerators are wider."""
MEMORY = Goal("streaming", temp_bytes=4 * 1024 * (512 + 512) * 4 + 8 * 512 * 512 * 4)
GOALS = {
    ("sface", "random"): (Goal(f"{LIBRARY}, arcface", 4.0), MEMORY),
    ("arcface", "random"): (Goal(f"{LIBRARY}, arcface", 1.8), MEMORY),
}
PEERS_UP_TO = 100_000
"""More classes would take the peers tens of gigabytes."""


def cases(preset: str, max_length: int | None) -> list[Case]:
    """Every loss on random embeddings, the first two also on trained ones."""
    kinds = [(name, "random") for name in LOSSES]
    kinds += [("sface", "trained"), ("arcface", "trained")]
    narrow = jnp.bfloat16 if preset == "accelerator" else None
    all_cases = []
    for count in within(SIZES[preset], max_length):
        for loss, data in kinds:
            if count > PEERS_UP_TO and loss == "cosface":
                continue
            build = functools.partial(_programs, loss, data, count, narrow)
            goals = GOALS.get((loss, data), ()) if count == 85_742 else ()
            dtype = narrow or jnp.float32
            tolerance = 0.1 if narrow else 2e-3
            title = f"{loss}, {data}, C={count}"
            all_cases.append(Case(title, build, goals, dtype, tolerance))
    return all_cases


def _programs(loss: str, data: str, classes: int, narrow: Any) -> list[Program]:
    x, w, labels = _inputs(data, classes)
    config = LOSSES[loss]
    stream = functools.partial(hypersphere.streaming_loss, compute_dtype=narrow)
    chunk = {"class_chunk": 1024} if narrow is None else {}
    limit = ACTIVE if narrow is None else 8 * ACTIVE
    active = functools.partial(stream, active_limit=limit, **chunk)
    separable = loss == "sface"
    # Softmax: the gradient alone can leave classes out, not the normalizer.
    forms: dict[str, tuple[Callable, int]] = {
        "active set": (active, 1 if separable else 2),
        "streaming": (stream, 3),
    }
    if not separable:
        forms.pop("active set")
        if data == "trained":
            wider = functools.partial(active, active_eps=1e-4)
            forms |= {"active set": (active, 2), "active set, 1e-4": (wider, 2)}
    if classes <= PEERS_UP_TO:
        dense = functools.partial(hypersphere.hypersphere_loss, compute_dtype=narrow)
        forms["all cosines"] = dense, 3
    programs = [
        jax_program(name, _slopes(form, config, labels), x, w, work=_work(x, w, count))
        for name, (form, count) in forms.items()
    ]
    for count, name in ((3, "three products"), (1, "one product")):
        floor = functools.partial(_products, count, narrow)
        work = _work(x, w, count)
        programs.append(jax_program(name, floor, x, w, work=work, same=False))
    if narrow is None and classes <= PEERS_UP_TO and optional_module("torch"):
        programs += _peers(loss, x, w, labels)
    return programs


def _peers(loss: str, x: jax.Array, w: jax.Array, labels: jax.Array) -> list[Program]:
    torch = optional_module("benchmarks._torch_hypersphere")
    peak_bytes = optional_module("benchmarks._torch_log_probs").peak_bytes
    plain = torch.plain_programs(x, w, labels)
    library = torch.library_programs(x, w, labels)
    made = {}
    if loss in plain:
        made["torch"] = plain[loss], True
    # It has no SFace: the loss that users run in its place is the peer of that.
    other = loss if loss != "sface" else "arcface"
    if other in library:
        made[f"{LIBRARY}, {other}"] = library[other], other == loss
    work = _work(x, w, 3)
    return [
        Program(name, run, work, peak_bytes(run), same)
        for name, (run, same) in made.items()
    ]


def _inputs(data: str, classes: int) -> tuple[jax.Array, ...]:
    """Random vectors, or samples near their classes, which come in groups of ten.

    As after training: embeddings at cosines of about 0.75 to their own class, and
    class weights of one group at about 0.3 to each other.
    """
    size = min(512, classes)
    keys = jax.random.split(jax.random.key(0), 4)
    labels = jax.random.randint(keys[0], (size,), 0, classes)
    x = jax.random.normal(keys[1], (size, size))
    w = jax.random.normal(keys[2], (classes, size))
    if data == "trained":
        groups = jax.random.normal(keys[3], (-(-classes // 10), size))
        w += 0.65 * jnp.repeat(groups, 10, axis=0)[:classes]
        x = ops.l2_normalize(w[labels]) + 0.9 * ops.l2_normalize(x)
    return x, w, labels


def _slopes(form: Callable, config: Any, labels: jax.Array) -> Callable:
    """The mean loss and both gradients."""

    def run(x: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
        total = lambda x, w: ops.masked_mean(form(x, w, labels, config))
        value, slopes = jax.value_and_grad(total, argnums=(0, 1))(x, w)
        return value, *slopes

    return run


def _work(x: jax.Array, w: jax.Array, products: int) -> Work:
    """The products; inputs are read and gradients written."""
    return Work(2.0 * products * x.size * w.shape[0], 2.0 * (x.nbytes + w.nbytes))


def _products(
    count: int, narrow: Any, x: jax.Array, w: jax.Array
) -> tuple[jax.Array, ...]:
    """The bare products of a pass over slices of classes, one or all three."""
    num_slices = -(-w.shape[0] // 1024)
    size = -(-w.shape[0] // num_slices)
    multiply = functools.partial(jnp.einsum, preferred_element_type=x.dtype)
    cast = lambda array: array if narrow is None else array.astype(narrow)

    def body(i: jax.Array, carry: tuple) -> tuple:
        largest, dx, dw = carry
        start = jnp.minimum(i * size, w.shape[0] - size)
        rows = cast(jax.lax.dynamic_slice_in_dim(w, start, size))
        scores = multiply("cd,bd->cb", rows, cast(x))
        if count == 1:
            scores = jnp.where(rows[:, :1] > 0, scores, 0.0)
            return jnp.maximum(largest, jnp.max(scores, axis=0)), dx, dw
        scores = cast(scores)
        dx += multiply("cb,cd->bd", scores, rows)
        new = multiply("cb,bd->cd", scores, cast(x))
        return largest, dx, jax.lax.dynamic_update_slice_in_dim(dw, new, start, 0)

    start = jnp.zeros(len(x)), jnp.zeros_like(x), jnp.zeros_like(w)
    return jax.lax.fori_loop(0, num_slices, body, start)
