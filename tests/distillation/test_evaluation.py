"""What networks have learned from a distilled set, and what they learn after it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import distillation

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((6, 2, 2, 1))
TARGETS = RNG.standard_normal((6, 3))


def flat(images: jax.Array) -> jax.Array:
    return images.reshape(images.shape[0], -1)


def make_linear(num_outputs: int) -> distillation.Network:
    """A linear map that counts its steps where others keep batch statistics."""

    def init(key: jax.Array) -> tuple[dict, dict]:
        kernel = jax.random.normal(key, (4, num_outputs))
        params = {"scale": jnp.ones(4), "linear": {"kernel": kernel}}
        return params, {"steps": jnp.zeros(())}

    def embed(params: dict, stats: dict, images: jax.Array) -> jax.Array:
        return flat(images) * params["scale"].astype(images.dtype)[None]

    def apply(params: dict, stats: dict, images: jax.Array, train: bool) -> tuple:
        kernel = params["linear"]["kernel"].astype(images.dtype)
        outputs = embed(params, stats, images) @ kernel
        return outputs, {"steps": stats["steps"] + float(train)}

    return distillation.Network(init, embed, apply)


LINEAR = make_linear(3)
BINARY = make_linear(2)


def test_errors_are_those_of_the_formulas(x64: None):
    params, stats = LINEAR.init(jax.random.key(0))
    synthetic = distillation.Synthetic(
        jnp.asarray(RNG.standard_normal((3, 2, 2, 1))),
        jnp.asarray(RNG.standard_normal((3, 3))),
    )
    where = np.arange(6) != 2
    got = distillation.representation_mse(
        LINEAR,
        params,
        stats,
        synthetic,
        np.where(where[:, None, None, None], IMAGES, np.nan),
        np.where(where[:, None], TARGETS, np.nan),
        coef=1e-2,
        where=where,
    )
    flat_real, flat_syn = (
        IMAGES.reshape(6, -1),
        np.asarray(synthetic.images).reshape(3, -1),
    )
    head = ((flat_real @ np.asarray(params["linear"]["kernel"]) - TARGETS) ** 2).mean(1)
    ones = lambda x: np.column_stack([x, np.ones(len(x))])
    f_s, f_t = ones(flat_syn), ones(flat_real)
    gram = f_s @ f_s.T
    ridge = 1e-2 * np.trace(gram) * np.eye(3)
    solved = f_t @ f_s.T @ np.linalg.solve(gram + ridge, np.asarray(synthetic.targets))
    krr = ((solved - TARGETS) ** 2).mean(1)
    np.testing.assert_allclose(got.head, np.where(where, head, 0.0), rtol=1e-10)
    np.testing.assert_allclose(got.krr, np.where(where, krr, 0.0), rtol=1e-10)


def test_outputs_that_do_not_fit_the_targets_are_refused():
    params, stats = BINARY.init(jax.random.key(0))
    images, targets = jnp.ones((6, 2, 2, 1)), jnp.ones((6, 3))
    synthetic = distillation.Synthetic(images, targets)
    with pytest.raises(ValueError, match=r"outputs.*\(6, 2\) and \(6, 3\)"):
        distillation.representation_mse(
            BINARY, params, stats, synthetic, images, targets
        )


def softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(1, keepdims=True))
    return grown / grown.sum(1, keepdims=True)


def test_one_step_of_finetuning_is_one_step_down_the_cross_entropy(x64: None):
    labels = np.array([0, 1, 1, 0, 1, 0])
    params, stats = BINARY.init(jax.random.key(0))
    after, stats = distillation.finetune(
        jax.random.key(1),
        params,
        stats,
        IMAGES,
        labels,
        network=BINARY,
        optimizer=optax.sgd(0.5),
        num_steps=1,
    )
    x, kernel = IMAGES.reshape(6, -1), np.asarray(params["linear"]["kernel"])
    slope = x.T @ (softmax(x @ kernel) - np.eye(2)[labels]) / 6
    np.testing.assert_allclose(
        after["linear"]["kernel"], kernel - 0.5 * slope, rtol=1e-5
    )
    # The rest of the network learns too, in training mode.
    assert not np.allclose(after["scale"], 1.0)
    assert float(stats["steps"]) == 1.0


def test_every_image_is_seen_once_in_an_epoch():
    # Each image touches one weight alone, by an amount that shrinks when repeated.
    images = jnp.eye(4).reshape(4, 2, 2, 1)
    labels = jnp.zeros(4, jnp.int32)
    zeros = {"scale": jnp.ones(4), "linear": {"kernel": jnp.zeros((4, 2))}}
    after, stats = distillation.finetune(
        jax.random.key(0),
        zeros,
        {"steps": jnp.zeros(())},
        images,
        labels,
        network=BINARY,
        optimizer=optax.sgd(1.0),
        num_steps=2,
        batch_size=2,
    )
    np.testing.assert_allclose(after["linear"]["kernel"][:, 0], 0.25, rtol=1e-6)
    assert float(stats["steps"]) == 2.0


def blank(key: jax.Array, images: jax.Array) -> jax.Array:
    keep = jax.random.bernoulli(key, 0.0, images.shape)
    return jnp.where(keep, images, 0.0)


def test_batches_are_augmented():
    params, stats = BINARY.init(jax.random.key(0))
    after, _ = distillation.finetune(
        jax.random.key(1),
        params,
        stats,
        jnp.ones((2, 2, 2, 1)),
        jnp.zeros(2, jnp.int32),
        network=BINARY,
        optimizer=optax.sgd(1.0),
        num_steps=1,
        augment=blank,
    )
    np.testing.assert_array_equal(after["linear"]["kernel"], params["linear"]["kernel"])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": jnp.ones((6, 4))}, ValueError, r"`images` must have shape \(N"),
        ({"images": jnp.ones((6, 2, 2, 1), int)}, TypeError, r"`images`.*int"),
        ({"labels": jnp.ones(6)}, TypeError, r"`labels` must have an integer dtype"),
        ({"labels": jnp.ones(5, int)}, ValueError, r"`labels` must have shape \(6,\)"),
        ({"batch_size": 0}, ValueError, r"`batch_size` must be at least 1, got 0"),
        ({"num_steps": -1}, ValueError, r"`num_steps` must be at least 0, got -1"),
    ],
)
def test_bad_input_of_finetuning_is_refused(changes, error, message):
    params, stats = BINARY.init(jax.random.key(0))
    images = changes.pop("images", jnp.ones((6, 2, 2, 1)))
    labels = changes.pop("labels", jnp.zeros(6, int))
    options = {"network": BINARY, "optimizer": optax.sgd(1.0), "num_steps": 1}
    with pytest.raises(error, match=message):
        distillation.finetune(
            jax.random.key(1), params, stats, images, labels, **{**options, **changes}
        )


def test_a_new_head_leaves_the_body():
    trained, _ = LINEAR.init(jax.random.key(0))
    trained["scale"] = 2.0 * trained["scale"]
    fresh, _ = BINARY.init(jax.random.key(1))
    params = distillation.replace_head(trained, fresh)
    np.testing.assert_array_equal(params["scale"], trained["scale"])
    np.testing.assert_array_equal(params["linear"]["kernel"], fresh["linear"]["kernel"])


def test_a_head_that_is_not_there_is_named():
    params, _ = LINEAR.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"one of kernel, linear, scale, got 'head'"):
        distillation.replace_head(params, params, head="head")


def test_bodies_that_differ_are_refused():
    trained = {"scale": jnp.ones(3), "linear": jnp.ones(2)}
    fresh = {"scale": jnp.ones(4), "linear": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\) at scale"):
        distillation.replace_head(trained, fresh)
    with pytest.raises(ValueError, match="the same structure"):
        distillation.replace_head({"linear": jnp.ones(2)}, fresh)
