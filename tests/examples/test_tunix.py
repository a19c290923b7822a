"""Log-probs through hidden states equal those of the library's own full logits."""

import _tunix as tunix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

# The library reads variables and maps over shards in ways that JAX and Flax left.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TOKENS = jnp.array([[7, 3, 11, 5, 29, 31, 2, 17], [1, 39, 8, 8, 13, 4, 0, 0]])
WHERE = jnp.array(
    [
        [False, False, False, True, True, True, True, True],
        [False, False, True, True, True, True, False, False],
    ]
)


@pytest.fixture(params=tunix.TINY)
def model(request: pytest.FixtureRequest):
    pytest.importorskip("tunix", reason="the optional extra `tunix` is not installed")
    model = tunix.TINY[request.param](nnx.Rngs(0))
    # Their start makes nearly uniform logits; larger weights tell heads apart.
    nnx.update(model, jax.tree.map(lambda x: 20 * x, nnx.state(model, nnx.Param)))
    return model


def full_log_probs(model, tokens, mask):
    """Log-softmax of all logits, each token given those before it."""
    positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
    causal = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))
    logits, _ = model(tokens, positions, None, causal & mask[:, None, :])
    everything = np.asarray(jax.nn.log_softmax(logits))
    rows, columns = np.indices(tokens[:, 1:].shape)
    return everything[rows, columns, np.asarray(tokens)[:, 1:]]


@pytest.mark.parametrize("left", [0, 2])
def test_log_probs_are_those_of_the_full_logits(model, left):
    pad = lambda x: jnp.pad(x, ((0, 0), (left, 0)))
    tokens, where, mask = pad(TOKENS), pad(WHERE), pad(TOKENS > 0)
    expected = np.where(where[:, 1:], full_log_probs(model, tokens, mask), 0.0).sum(1)
    got = jax.jit(lambda m: tunix.log_probs(m, tokens, where=where, mask=mask))(model)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert np.all(np.abs(np.diff(expected)) > 0.1)


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="Gemma 1 to 3"):
        tunix.hidden_fn(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
