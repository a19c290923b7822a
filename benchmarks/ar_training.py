"""A training step of the autoregressive model, and the data it trains on."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._harness import Case, Goal, Program, Work, jax_program
from benchmarks._peers import optional_module, within
from jaxkit import mesa

__all__ = ["cases"]

DIM = 5
CHUNK = 2 * DIM
"""The chunk that the model takes: longer ones only add scores."""
SIZES = {"small": (1000, 100), "full": (1000, 100), "accelerator": (10_000, 100)}
"""How many sequences, and how long."""


def cases(preset: str, max_length: int | None) -> list[Case]:
    """The gradient of the loss, and the sampling of the sequences."""
    count, length = SIZES[preset]
    (length,) = within((length,), max_length)
    size = f"m={count}, T={length}, d={DIM}"
    return [
        Case(
            f"value and gradient of the loss, {size}",
            functools.partial(_training, count, length),
            goals=(Goal("torch layer", 50.0),),
        ),
        Case(f"sampling, {size}", functools.partial(_sampling, count, length)),
    ]


def _training(count: int, length: int) -> list[Program]:
    sample = functools.partial(_sample, count=count, length=length)
    x = jax.jit(sample)(jax.random.key(0))
    params = mesa.init_gaussian(jax.random.key(1), DIM, stddev=0.3)
    forms = {
        # A product of complex numbers with a sum is 8 flops, 4 if one is real. The
        # embedding has 2 d entries; the state is 2 d times d, written and read.
        "auto": 32 * DIM**2,
        "recurrent": 32 * DIM**2,
        "chunked": 24 * CHUNK * DIM + 32 * DIM**2,
        "parallel": 24 * CHUNK * DIM + 32 * DIM**2,
        "quadratic": 24 * length * DIM,
    }
    programs = [
        jax_program(
            name,
            functools.partial(_value_and_grad, name),
            params,
            x,
            work=_work(flops, x),
        )
        for name, flops in forms.items()
    ]
    if jax.default_backend() != "cpu":
        return programs
    # From scratch at every position: the Gram matrix of all tokens before.
    loop = _work(16 * length * DIM**2, x)
    if optional_module("torch"):
        torch_peers = optional_module("benchmarks._torch")
        given = (params.kq, params.pv, x)
        # By the definition: all scores of every prefix, for its last column.
        layer = _work(24 * DIM * length**2 // 3, x)
        run = torch_peers.ar_layer_value_and_grad(*given)
        programs.append(Program("torch layer", run, layer))
        run = torch_peers.ar_value_and_grad(*given)
        programs.append(Program("torch loop", run, loop))
    given = (np.array(params.kq), np.array(params.pv), np.array(x))
    run = functools.partial(numpy_value_and_grad, *given)
    return [*programs, Program("NumPy loop", run, loop)]


def _work(flops_per_token: int, x: jax.Array) -> Work:
    projections = 24 * DIM**2
    tokens = x.shape[0] * x.shape[1]
    return Work(3.0 * tokens * (flops_per_token + projections), float(x.nbytes))


def _value_and_grad(
    implementation: str, params: mesa.LSAParams, x: jax.Array
) -> tuple[jax.Array, mesa.LSAParams]:
    loss = lambda p: jnp.mean(mesa.ar_loss(p, x, implementation=implementation))
    return jax.value_and_grad(loss)(params)


def numpy_value_and_grad(kq: np.ndarray, pv: np.ndarray, x: np.ndarray) -> Any:
    """The paper's formula one position after the other, with a gradient by hand."""
    before = np.concatenate([np.zeros_like(x[:, :1]), x[:, :-1]], 1)
    embedded = np.concatenate([x, before], -1)
    loss, kq_grad, pv_grad = 0.0, np.zeros_like(kq), np.zeros_like(pv)
    for t in range(2, x.shape[1]):
        seen = embedded[:, :t].swapaxes(1, 2)
        gram = seen @ seen.swapaxes(1, 2).conj() / (t - 1)
        token = embedded[:, t - 1]
        read = (gram @ (token @ kq.T)[..., None])[..., 0]
        error = (read @ pv.T - x[:, t]) / len(x)
        loss += 0.5 * len(x) * np.sum(error.real**2 + error.imag**2)
        pv_grad += (error.T @ read.conj()).real
        # The Gram matrix is its own adjoint.
        back = (gram @ (error @ pv)[..., None])[..., 0]
        kq_grad += (back.T @ token.conj()).real
    return np.float32(loss), kq_grad, pv_grad


def _sample(key: jax.Array, *, count: int, length: int) -> jax.Array:
    return mesa.sample_ar_sequences(key, batch_shape=(count,), length=length, dim=DIM)


def _sampling(count: int, length: int) -> list[Program]:
    entries = count * length * DIM
    # A complex product is 6 flops; an entry of complex64 has 8 bytes.
    counted = Work(6.0 * entries, 8.0 * entries)
    sample = functools.partial(_sample, count=count, length=length)
    programs = [
        jax_program("sampling", sample, jax.random.key(0), work=counted),
        jax_program(
            "powers by exp",
            functools.partial(_by_exp, count, length),
            jax.random.key(0),
            work=counted,
            same=False,
        ),
    ]
    loops: dict[str, Callable] = {
        "a loop over sequences": _one_by_power,
        "and over tokens": _one_by_product,
    }
    for name, one in loops.items():
        run = functools.partial(_loop, one, count, length)
        programs.append(Program(name, run, counted, same=False))
    return programs


def _by_exp(count: int, length: int, key: jax.Array) -> jax.Array:
    """Cheaper to compute and less accurate: the error grows with the angle."""
    key_initial, key_angle = jax.random.split(key)
    first = jax.random.normal(key_initial, (count, 1, DIM))
    angle = jax.random.uniform(key_angle, (count, 1, DIM), maxval=2 * jnp.pi)
    angle = angle * jnp.arange(float(length))[None, :, None]
    return jax.lax.complex(first * jnp.cos(angle), first * jnp.sin(angle))


def _loop(one: Callable, count: int, length: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([one(rng, length) for _ in range(count)])


def _draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    phase = np.exp(2j * np.pi * rng.random(DIM)).astype(np.complex64)
    return rng.standard_normal(DIM).astype(np.complex64), phase


def _one_by_power(rng: np.random.Generator, length: int) -> np.ndarray:
    first, phase = _draw(rng)
    return first * phase ** np.arange(length, dtype=np.int64)[:, None]


def _one_by_product(rng: np.random.Generator, length: int) -> np.ndarray:
    token, phase = _draw(rng)
    matrix, tokens = np.diag(phase), []
    for _ in range(length):
        tokens.append(token)
        token = matrix @ token
    return np.stack(tokens)
