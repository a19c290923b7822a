"""Gradients of single examples, multiplied with one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import entanglement

VOCABULARY = 3


def bigram_token_log_probs(table: jax.Array, tokens: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(table)[tokens[:-1], tokens[1:]]


def bigram(table: jax.Array, tokens: jax.Array) -> jax.Array:
    return bigram_token_log_probs(table, tokens).sum()


def network(params: dict, x: jax.Array) -> jax.Array:
    hidden = jnp.tanh(x @ params["in"] + params["bias"])
    return jax.nn.log_sigmoid(hidden @ params["out"])


def network_params(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    shapes = {"in": (4, 5), "bias": (5,), "out": (5,)}
    return {k: jnp.asarray(rng.standard_normal(s)) for k, s in shapes.items()}


def network_gradients(params: dict, x: np.ndarray) -> dict[str, np.ndarray]:
    """The gradients of `network` by hand, in NumPy."""
    w = {k: np.asarray(v) for k, v in params.items()}
    hidden = np.tanh(x @ w["in"] + w["bias"])
    slope = 1 / (1 + np.exp(hidden @ w["out"]))
    back = slope[:, None] * w["out"] * (1 - hidden**2)
    return {
        "in": x[:, :, None] * back[:, None, :],
        "bias": back,
        "out": slope[:, None] * hidden,
    }


@pytest.mark.parametrize(
    ("chosen", "rejected", "want"),
    [
        ([0, 1, 2], [0, 1, 0], (4 / 3, 1 / 3, 4 / 3)),
        ([0, 1, 2, 2], [0, 0, 2, 2], (2, 0, 4 / 3)),
    ],
)
def test_bigram_by_hand(chosen: list, rejected: list, want: tuple, x64: None):
    gram = entanglement.pair_gram(
        bigram,
        jnp.zeros((VOCABULARY, VOCABULARY)),
        jnp.array([chosen]),
        jnp.array([rejected]),
    )
    np.testing.assert_allclose(jnp.stack(gram)[:, 0], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["vmap", "scan"])
def test_every_leaf_against_numpy(method: str, x64: None):
    params = network_params()
    rng = np.random.default_rng(1)
    chosen, rejected = rng.standard_normal((2, 3, 4))
    grams = entanglement.leaf_pair_gram(
        network, params, jnp.asarray(chosen), jnp.asarray(rejected), method=method
    )
    total = entanglement.pair_gram(
        network, params, jnp.asarray(chosen), jnp.asarray(rejected), method=method
    )
    w, l = (network_gradients(params, x) for x in (chosen, rejected))
    sums = np.zeros((3, 3))
    for name, gram in grams.items():
        dots = [
            (a * b).reshape(3, -1).sum(-1)
            for a, b in ((w[name], w[name]), (w[name], l[name]), (l[name], l[name]))
        ]
        np.testing.assert_allclose(jnp.stack(gram), dots, rtol=1e-11)
        sums += dots
    np.testing.assert_allclose(jnp.stack(total), sums, rtol=1e-11)


def test_a_subset_of_the_leaves_is_an_argument(x64: None):
    params = network_params()
    x = jnp.asarray(np.random.default_rng(2).standard_normal((2, 3, 4)))
    grams = entanglement.leaf_pair_gram(network, params, *x)
    only = entanglement.pair_gram(
        lambda out, x: network(params | {"out": out}, x), params["out"], *x
    )
    np.testing.assert_allclose(jnp.stack(only), jnp.stack(grams["out"]), rtol=1e-12)


def test_pairs_that_do_not_count_may_hold_nan(x64: None):
    params = network_params()
    x = np.random.default_rng(3).standard_normal((2, 3, 4))
    where = jnp.array([True, False, True])
    spoiled = x.copy()
    spoiled[:, 1] = np.nan

    @jax.jit
    def total(params: dict, x: jax.Array) -> jax.Array:
        return sum(
            map(jnp.sum, entanglement.pair_gram(network, params, *x, where=where))
        )

    clean = jax.value_and_grad(total)(params, jnp.asarray(x))
    got = jax.value_and_grad(total)(params, jnp.asarray(spoiled))
    jax.tree.map(np.testing.assert_array_equal, got, clean)
    gram = entanglement.pair_gram(network, params, *jnp.asarray(spoiled), where=where)
    assert float(gram.cross[1]) == 0.0 != float(gram.cross[0])


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_batch_gram_against_numpy(chunk_size: int | None, x64: None):
    params = network_params()
    x = np.random.default_rng(4).standard_normal((5, 4))
    got = jax.jit(
        lambda params: entanglement.batch_gram(
            network, params, jnp.asarray(x), chunk_size=chunk_size
        )
    )(params)
    flat = np.concatenate(
        [g.reshape(5, -1) for g in network_gradients(params, x).values()], axis=1
    )
    np.testing.assert_allclose(got, flat @ flat.T, rtol=1e-11)


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_token_gram_by_hand(chunk_size: int | None, x64: None):
    gram = entanglement.token_gram(
        bigram_token_log_probs,
        jnp.zeros((VOCABULARY, VOCABULARY)),
        jnp.array([0, 1, 2]),
        jnp.array([0, 1, 0]),
        chunk_size=chunk_size,
    )
    np.testing.assert_allclose(gram, [[2 / 3, 0], [0, -1 / 3]], atol=1e-14)


def test_tokens_add_up_to_the_pair(x64: None):
    table = jnp.asarray(np.random.default_rng(5).standard_normal((4, 4)))
    chosen, rejected = jnp.array([0, 1, 2, 3]), jnp.array([0, 2, 2])
    tokens = entanglement.token_gram(bigram_token_log_probs, table, chosen, rejected)
    assert tokens.shape == (3, 2)
    want = jnp.vdot(jax.grad(bigram)(table, chosen), jax.grad(bigram)(table, rejected))
    np.testing.assert_allclose(tokens.sum(), want, rtol=1e-12)


@pytest.mark.slow
def test_half_precision_parameters_give_float32_sums():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), network_params())
    x = jnp.ones((2, 1, 4), jnp.bfloat16)
    gram = jax.jit(lambda p: entanglement.pair_gram(network, p, *x))(params)
    assert {leaf.dtype for leaf in gram} == {jnp.dtype(jnp.float32)}


@pytest.mark.slow
def test_sketches_are_unbiased(x64: None):
    params = jnp.zeros(25)
    x = jnp.asarray(np.random.default_rng(6).standard_normal((2, 25)))
    exact = x @ x.T
    keys = jax.random.split(jax.random.key(0), 4000)

    def inner_products(key: jax.Array) -> jax.Array:
        # 7 buckets for 25 entries: most of them collide.
        z = entanglement.sketch_gradients(key, jnp.vdot, params, x, num_features=7)
        return z @ z.T

    draws = jax.jit(jax.vmap(inner_products))(keys)
    error = jnp.std(draws, axis=0) / np.sqrt(len(keys))
    assert np.all(np.abs(jnp.mean(draws, axis=0) - exact) < 4 * error + 1e-12)
    assert float(error[0, 1]) > 0


@pytest.mark.slow
def test_sketched_cosines_are_as_close_as_promised():
    rng = np.random.default_rng(7)
    size, features = 20_000, 1024
    x = rng.standard_normal((2, size)).astype(np.float32)
    x[1] = 0.6 * x[0] + 0.8 * x[1]
    params = {"a": jnp.zeros(15_000), "b": jnp.zeros((50, 100))}
    examples = {"a": x[:, :15_000], "b": x[:, 15_000:].reshape(2, 50, 100)}
    log_prob = lambda p, e: jnp.vdot(p["a"], e["a"]) + jnp.vdot(p["b"], e["b"])
    cosine = lambda a, b: a @ b / np.sqrt((a @ a) * (b @ b))
    exact = cosine(x[0], x[1])

    @jax.jit
    @jax.vmap
    def sketched(key: jax.Array) -> jax.Array:
        return entanglement.sketch_gradients(
            key, log_prob, params, examples, num_features=features, chunk_size=1
        )

    z = sketched(jax.random.split(jax.random.key(1), 20))
    errors = [cosine(*np.asarray(pair)) - exact for pair in z]
    rms = float(np.sqrt(np.mean(np.square(errors))))
    expected = np.sqrt((1 + exact**2) / features)
    assert rms < 1.5 * expected


def test_bad_input():
    params, x = network_params(), jnp.ones((2, 4))
    gram = entanglement.pair_gram
    with pytest.raises(ValueError, match=r"`method` must be one of.*got 'loop'"):
        gram(network, params, x, x, method="loop")
    with pytest.raises(ValueError, match=r"`chosen` and `rejected`.*2 and 1"):
        gram(network, params, x, x[:1])
    with pytest.raises(ValueError, match=r"`log_prob` must return a scalar.*\(4,\)"):
        gram(lambda p, x: x * p["out"][0], params, x, x)
    with pytest.raises(TypeError, match=r"params\['step'\].*int32"):
        gram(network, params | {"step": jnp.zeros((), jnp.int32)}, x, x)
    with pytest.raises(ValueError, match=r"`where` must be bool of shape \(2,\)"):
        gram(network, params, x, x, where=jnp.ones(3, jnp.bool_))
    with pytest.raises(ValueError, match=r"`chunk_size` must be at least 1, got 0"):
        entanglement.batch_gram(network, params, x, chunk_size=0)
    with pytest.raises(ValueError, match=r"`token_log_probs` must return.*got \(\)"):
        entanglement.token_gram(network, params, x[0], x[0])
    with pytest.raises(TypeError, match=r"`key` must be a typed key"):
        entanglement.sketch_gradients(jnp.zeros(2), network, params, x)
    with pytest.raises(ValueError, match=r"`num_features` must be at least 1, got 0"):
        entanglement.sketch_gradients(
            jax.random.key(0), network, params, x, num_features=0
        )
