"""What the tiles of a vocabulary cost: memory, communication, rounding."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

from jaxkit import ops
from tests.ops._log_softmax_formula import draw, gradients, log_probs

MEBIBYTE = 2**20


def pull_back(**kwargs: Any) -> Callable[..., Any]:
    """Turns hidden states, weight, labels and cotangent into values and gradients."""

    def both(
        hidden: jax.Array, weight: jax.Array, labels: jax.Array, cotangent: jax.Array
    ) -> Any:
        function = lambda h, w: ops.linear_selected_log_probs(h, w, labels, **kwargs)
        out, back = jax.vjp(function, hidden, weight)
        return out, *back(cotangent)

    return both


def temporary_mebibytes(tokens: int, vocabulary: int, **kwargs: Any) -> float:
    shapes = (
        jax.ShapeDtypeStruct((tokens, 512), jnp.float32),
        jax.ShapeDtypeStruct((vocabulary, 512), jnp.float32),
        jax.ShapeDtypeStruct((tokens,), jnp.int32),
        jax.ShapeDtypeStruct((tokens,), jnp.float32),
    )
    compiled = jax.jit(pull_back(**kwargs)).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes / MEBIBYTE


@pytest.mark.parametrize("vocabulary", [32768, 131072])
def test_a_gradient_takes_little_memory_whatever_the_vocabulary(vocabulary: int):
    assert temporary_mebibytes(2048, vocabulary) < 32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokens", "vocabulary", "kwargs", "limit"),
    [
        # A prime, 2 * 64303, and many tokens: hidden states take 64 MiB there.
        (2048, 50257, {}, 40),
        (2048, 128606, {}, 40),
        (32768, 32768, {}, 256),
        (2048, 32768, {"skip_masked": True}, 64),
        (2048, 32768, {"chunk_size": 32768}, 768),
    ],
)
def test_memory_of_other_sizes(
    tokens: int, vocabulary: int, kwargs: dict[str, Any], limit: int
):
    assert temporary_mebibytes(tokens, vocabulary, **kwargs) < limit


def test_a_vocabulary_without_divisors_is_covered_once(x64: None):
    # A prime above the widest tile: the last tile of the default overlaps.
    x = draw(tokens=3, features=2, vocabulary=8209)
    x = x._replace(bias=0 * x.bias, temperature=1.0, logit_softcap=1e9)
    cotangent = np.arange(3.0)
    out, *grads = jax.jit(pull_back())(x.hidden, x.weight, x.labels, cotangent)
    mask = np.ones(3, bool)
    np.testing.assert_allclose(out, log_probs(x, mask), rtol=0, atol=1e-7)
    for got, want in zip(grads, gradients(x, mask, cotangent), strict=False):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-7)


def float32_inputs(tokens: int = 16) -> tuple[jax.Array, ...]:
    x = draw(tokens=tokens, features=4, vocabulary=24)
    cotangent = np.random.default_rng(5).standard_normal(tokens)
    floats = (jnp.asarray(a, jnp.float32) for a in (x.hidden, x.weight, cotangent))
    hidden, weight, cotangent = floats
    return hidden, weight, jnp.asarray(x.labels, jnp.int32), cotangent


def close(got: Any, want: Any) -> None:
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=2e-6)


def collectives(text: str) -> set[str]:
    kinds = "all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter"
    return set(re.findall(rf"= \S+ ({kinds})(?:-start)?\(", text))


@pytest.mark.parametrize(
    ("leading", "weight_spec"),
    [((16,), jax.P()), ((4, 4), jax.P()), ((4, 4), jax.P(None, "data"))],
)
def test_a_sharded_batch_is_not_gathered(
    leading: tuple[int, ...], weight_spec: jax.sharding.PartitionSpec
):
    mesh = ops.data_mesh(4)
    hidden, weight, labels, cotangent = float32_inputs()
    args = (
        hidden.reshape(*leading, 4),
        weight,
        labels.reshape(leading),
        cotangent.reshape(leading),
    )
    batch = jax.P("data")
    specs = (batch, weight_spec, batch, batch)
    placed = jax.device_put(args, tuple(NamedSharding(mesh, s) for s in specs))
    compiled = jax.jit(pull_back(chunk_size=8)).lower(*placed).compile()
    # Of a weight that is spread, a tile at a time; its gradient is summed.
    text = compiled.as_text()
    gathered = set(re.findall(r"= (\S+)\{[\d,]*\} all-gather", text))
    assert gathered == (set() if weight_spec == jax.P() else {"f32[8,4]"})
    assert collectives(text) - {"all-gather"} == {"all-reduce"}
    close(compiled(*placed), jax.jit(pull_back(chunk_size=8))(*args))


def test_tokens_are_gathered_where_some_are_skipped():
    # The docstring says so; the check above can fail.
    mesh = ops.data_mesh(4)
    args = float32_inputs()
    specs = (jax.P("data"), jax.P(), jax.P("data"), jax.P("data"))
    placed = jax.device_put(args, tuple(NamedSharding(mesh, s) for s in specs))
    run = jax.jit(pull_back(chunk_size=8, skip_masked=True))
    assert "all-gather" in collectives(run.lower(*placed).compile().as_text())


@pytest.mark.parametrize(("vocab_axis", "skip_masked"), [(0, False), (1, True)])
def test_a_vocabulary_spread_over_devices_gives_the_same_numbers(
    vocab_axis: int, skip_masked: bool
):
    mesh = jax.make_mesh(
        (2, 2), ("data", "vocabulary"), axis_types=(AxisType.Auto,) * 2
    )
    hidden, weight, labels, cotangent = float32_inputs()
    # The last class of the first device, next to the first of the second.
    labels = labels.at[1].set(11).at[2].set(12)
    weight = weight if vocab_axis == 0 else weight.T
    where = jnp.arange(16) % 3 > 0
    bias = jnp.linspace(-1.0, 1.0, 24)

    def function(axis_name: str | None) -> Callable[..., Any]:
        def values(
            hidden: jax.Array, weight: jax.Array, bias: jax.Array, *rest: jax.Array
        ) -> Any:
            labels, where = rest
            out = ops.token_statistics(
                hidden,
                weight,
                labels,
                bias=bias,
                vocab_axis=vocab_axis,
                # Not a divisor of the 12 classes of a device: its tiles overlap.
                chunk_size=5,
                skip_masked=skip_masked,
                axis_name=axis_name,
                where=where,
            )
            return out.log_probs, out.entropy, out.log_sum_sq_probs, out.is_top1

        return values

    rows = jax.P("data")
    columns = jax.P("vocabulary")
    weight_spec = columns if vocab_axis == 0 else jax.P(None, "vocabulary")
    spread = jax.shard_map(
        function("vocabulary"),
        mesh=mesh,
        in_specs=(rows, weight_spec, columns, rows, rows),
        out_specs=rows,
    )

    def gradient(values: Callable[..., Any]) -> Callable[..., Any]:
        def total(*args: jax.Array) -> tuple[jax.Array, Any]:
            out = values(*args)
            weighted = [i * jnp.vdot(cotangent, leaf) for i, leaf in enumerate(out[:3])]
            return jnp.vdot(cotangent, out[0]) + sum(weighted), out

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))

    args = (hidden, weight, bias, labels, where)
    run = gradient(spread)
    close(run(*args), gradient(function(None))(*args))
    placed = jax.device_put(
        args,
        tuple(NamedSharding(mesh, s) for s in (rows, weight_spec, columns, rows, rows)),
    )
    assert "all-gather" not in collectives(run.lower(*placed).compile().as_text())


@pytest.mark.parametrize(
    "kwargs", [{"chunk_size": 24}, {"chunk_size": 1, "skip_masked": True}]
)
def test_bfloat16_gradients_are_rounded_once(kwargs: dict[str, Any]):
    # 700 tokens are more than one group that can be skipped.
    hidden, weight, labels, cotangent = float32_inputs(700)
    narrow = [a.astype(jnp.bfloat16) for a in (hidden, weight)]
    wide = [a.astype(jnp.float32) for a in narrow]
    out, *got = jax.jit(pull_back(**kwargs))(*narrow, labels, cotangent)
    want_out, *want = jax.jit(pull_back(**kwargs))(*wide, labels, cotangent)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, want_out, rtol=1e-6, atol=1e-6)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == jnp.bfloat16
        # Half a unit in the last of 8 bits, and the rounding of float32.
        error = np.abs(np.asarray(g, np.float32) - np.asarray(w))
        assert np.max(error / (np.abs(np.asarray(w)) + 1e-3)) < 1.001 * 2**-8


def test_two_policies_of_equal_weights_have_a_ratio_of_exactly_one():
    hidden, weight, labels, _ = float32_inputs()

    def log_ratio(weight: jax.Array, reference: jax.Array) -> tuple[jax.Array, Any]:
        policy = ops.linear_selected_log_probs(hidden, weight, labels, chunk_size=8)
        fixed = ops.linear_selected_log_probs(hidden, reference, labels, chunk_size=8)
        ratio = policy - jax.lax.stop_gradient(fixed)
        return jnp.sum(ratio), ratio

    gradient, ratio = jax.jit(jax.grad(log_ratio, has_aux=True))(weight, weight + 0.0)
    np.testing.assert_array_equal(ratio, 0.0)
    assert np.any(gradient)
