import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import entanglement, ops, preference
from jaxkit.entanglement import Changes, PairGram

VOCAB, TIME, BATCH = 5, 4, 4
LOSS = functools.partial(preference.dpo_loss, beta=0.5)
PARTS = ("own_pair", "batch", "optimizer", "curvature")


def init(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape))
    return {"embed": draw(VOCAB, 3), "head": {"kernel": draw(3, VOCAB)}}


def log_probs(params, examples):
    """A small language model: each token sees the mean of those before it."""
    tokens, where = examples["tokens"], examples["where"]
    states = ops.masked_fill(params["embed"][tokens], where[..., None])
    count = jnp.arange(1, TIME + 1, dtype=states.dtype)[None, :, None]
    hidden = jnp.tanh(jnp.cumsum(states, axis=1) / count)
    logits = jax.nn.log_softmax(hidden[:, :-1] @ params["head"]["kernel"])
    picked = jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
    return examples["scale"] * ops.masked_sum(picked, axis=-1, where=where[:, 1:])


score = jax.jit(log_probs)


def batch(seed=1):
    rng = np.random.default_rng(seed)
    side = lambda: {
        "tokens": jnp.asarray(rng.integers(0, VOCAB, (BATCH, TIME))),
        "where": jnp.asarray(np.arange(TIME) < rng.integers(2, 5, (BATCH, 1))),
        "scale": jnp.ones(BATCH),
    }
    return side(), side()


def references():
    params = init(9)
    return tuple(score(params, side) for side in batch())


@functools.cache
def programs():
    """The report and the gradient, compiled once for all tests."""

    def report(params, new, chosen, rejected, *refs, **options):
        return entanglement.displacement_report(
            log_probs, LOSS, params, new, chosen, rejected, *refs, **options
        )

    def mean_loss(params, chosen, rejected, *refs):
        logps = log_probs(params, chosen), log_probs(params, rejected)
        return LOSS(*logps, *refs).mean()

    return jax.jit(report), jax.jit(jax.grad(mean_loss))


def explain(*args, where=(True,) * BATCH, **options):
    return programs()[0](*args, where=jnp.array(where), **options)


def descend(params, size):
    chosen, rejected = batch()
    gradient = programs()[1](params, chosen, rejected, *references())
    return jax.tree.map(lambda p, g: p - size * g, params, gradient)


@jax.jit
def jacobians(params, sides):
    """Gradients of all log-probabilities as rows, chosen before rejected."""
    rows = [
        jnp.concatenate([leaf.reshape(BATCH, -1) for leaf in jax.tree.leaves(tree)], 1)
        for tree in (jax.jacobian(log_probs)(params, side) for side in sides)
    ]
    return jnp.concatenate(rows)


def total(report):
    return Changes(*(sum(parts) for parts in zip(*report[:4], strict=True)))


def assert_sums(report, atol=1e-10):
    for summed, actual in zip(total(report), report.actual, strict=True):
        np.testing.assert_allclose(summed, actual, rtol=0, atol=atol)


@pytest.mark.usefixtures("x64")
def test_each_part_equals_the_explicit_formula():
    params, sides, refs = init(), batch(), references()
    rng = np.random.default_rng(3)
    # Any update at all: part gradient, part noise.
    new = jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape), descend(params, 0.3)
    )
    report = explain(params, new, *sides, *refs)
    assert_sums(report)
    grads = np.asarray(jacobians(params, sides))
    logps = [np.asarray(score(params, side)) for side in sides]
    margin = logps[0] - logps[1] - np.asarray(refs[0] - refs[1])
    push = 0.5 / (1 + np.exp(0.5 * margin))
    weights = np.concatenate([push, -push]) / BATCH
    update = np.concatenate(
        [
            np.ravel(n - p)
            for n, p in zip(*map(jax.tree.leaves, (new, params)), strict=True)
        ]
    )
    descent = weights @ grads
    size = np.linalg.norm(update) / np.linalg.norm(descent)
    np.testing.assert_allclose(report.step_size, size, rtol=1e-12)
    gram = grads @ grads.T
    own = np.zeros(2 * BATCH)
    for i in range(BATCH):
        for row in (i, BATCH + i):
            own[row] = size * (
                weights[i] * gram[row, i] + weights[BATCH + i] * gram[row, BATCH + i]
            )
    rest = size * gram @ weights - own
    optimizer = grads @ (update - size * descent)
    actual = np.concatenate(
        [
            np.asarray(score(new, side)) - np.asarray(score(params, side))
            for side in sides
        ]
    )
    curvature = actual - grads @ update
    for name, want in zip(
        (*PARTS, "actual"), (own, rest, optimizer, curvature, actual), strict=True
    ):
        got = np.concatenate(getattr(report, name))
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12, err_msg=name)
    # The Gram of each pair, where known, gives the same.
    i = np.arange(BATCH)
    known = PairGram(gram[i, i], gram[i, BATCH + i], gram[BATCH + i, BATCH + i])
    short = explain(params, new, *sides, *refs, gram=known)
    for left, right in zip(
        jax.tree.leaves(short), jax.tree.leaves(report), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_plain_descent_has_no_optimizer_part_and_little_curvature():
    params = init()
    curved = []
    for size in (1e-2, 5e-3):
        report = explain(params, descend(params, size), *batch(), *references())
        assert_sums(report)
        np.testing.assert_allclose(report.step_size, size, rtol=1e-9)
        np.testing.assert_allclose(report.optimizer, 0.0, atol=1e-13)
        curved.append(np.abs(report.curvature).max())
    # Beyond the first order: a quarter of it at half the step.
    np.testing.assert_allclose(curved[0] / curved[1], 4.0, rtol=0.05)


@pytest.mark.usefixtures("x64")
def test_adam_has_a_large_optimizer_part():
    params, sides, refs = init(), batch(), references()
    optimizer = optax.adam(1e-2)
    gradient = programs()[1](params, *sides, *refs)
    with jax.numpy_dtype_promotion("standard"):
        update, _ = optimizer.update(gradient, optimizer.init(params))
    new = optax.apply_updates(params, update)
    report = explain(params, new, *sides, *refs)
    assert_sums(report)
    assert np.abs(report.optimizer).max() > 0.1 * np.abs(report.actual).max()


@pytest.mark.usefixtures("x64")
def test_a_subset_of_the_parameters():
    params, sides, refs = init(), batch(), references()
    head = params["head"]
    inside = lambda head, examples: log_probs({**params, "head": head}, examples)
    new = jax.tree.map(lambda leaf: leaf + 0.1, head)

    @jax.jit
    def run(head, new):
        return entanglement.displacement_report(
            inside, LOSS, head, new, *sides, *refs, chunk_size=3
        )

    report = run(head, new)
    assert_sums(report)
    full = explain(params, {**params, "head": new}, *sides, *refs)
    # What happened is the same; what one pair is to blame for is not.
    for left, right in zip(report.actual, full.actual, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-14)
    assert np.abs(np.subtract(report.own_pair, full.own_pair)).max() > 1e-4
    first = entanglement.update_changes(
        inside, head, jax.tree.map(lambda n, p: n - p, new, head), sides[0]
    )
    np.testing.assert_allclose(
        first, report.actual.chosen - report.curvature.chosen, atol=1e-13
    )


@pytest.mark.usefixtures("x64")
def test_padding_changes_nothing():
    params, sides, refs = init(), batch(), references()
    other = tuple(
        {**side, "tokens": jnp.where(side["where"], side["tokens"], 0)}
        for side in sides
    )
    assert not all(side["where"].all() for side in sides)
    new = descend(params, 0.3)
    for left, right in zip(
        jax.tree.leaves(explain(params, new, *other, *refs)),
        jax.tree.leaves(explain(params, new, *sides, *refs)),
        strict=True,
    ):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_a_sharded_batch():
    params, sides, refs = init(), batch(), references()
    new = jax.tree.map(lambda leaf: 0.9 * leaf, params)
    sharded = explain(params, new, *ops.shard_batch((*sides, *refs), ops.data_mesh(4)))
    plain = explain(params, new, *sides, *refs)
    for left, right in zip(
        jax.tree.leaves(sharded), jax.tree.leaves(plain), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_pairs_that_do_not_count():
    params, sides, refs = init(), batch(), references()
    keep = np.array([False, True, True, False])
    scales = jnp.asarray(np.where(keep, 1.0, np.nan))
    poisoned = tuple({**side, "scale": scales} for side in sides)
    poisoned_refs = tuple(jnp.where(keep, ref, np.nan) for ref in refs)
    new = jax.tree.map(lambda leaf: 1.1 * leaf, params)

    def run(sides, refs, *where):
        return explain(params, new, *sides, *refs, where=where)

    report = run(poisoned, poisoned_refs, *keep)
    assert_sums(report)
    kept = jax.tree.map(lambda leaf: leaf[jnp.array([1, 2, 1, 2])], (sides, refs))
    want = run(*kept, True, True, False, False)
    # The mean is over the pairs that count: each of them twice gives the same.
    doubled = run(*kept, True, True, True, True)
    np.testing.assert_allclose(report.step_size, doubled.step_size, rtol=1e-12)
    for name in (*PARTS, "actual"):
        got, expected = getattr(report, name), getattr(want, name)
        for left, right in zip(got, expected, strict=True):
            np.testing.assert_allclose(left[1:3], right[:2], rtol=1e-12, atol=1e-14)
            np.testing.assert_array_equal(left[jnp.array([0, 3])], 0.0)


@pytest.mark.usefixtures("x64")
def test_no_update_changes_nothing():
    params = init()
    report = explain(params, params, *batch(), *references())
    for leaf in jax.tree.leaves(report):
        np.testing.assert_array_equal(leaf, 0.0)


@pytest.mark.usefixtures("x64")
def test_both_orders_equal_finite_differences():
    params, (chosen, _) = init(), batch()
    rng = np.random.default_rng(5)
    update = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), params
    )

    @jax.jit
    def run(params, step):
        moved = jax.tree.map(lambda p, u: p + step * u, params, update)
        return log_probs(moved, chosen)

    first, second = entanglement.update_changes(
        log_probs, params, update, chosen, order=2
    )
    once = entanglement.update_changes(log_probs, params, update, chosen)
    np.testing.assert_array_equal(once, first)
    h = 1e-4
    up, here, down = (run(params, s) for s in (h, 0.0, -h))
    np.testing.assert_allclose(first, (up - down) / (2 * h), atol=1e-6)
    np.testing.assert_allclose(second, (up - 2 * here + down) / h**2, atol=1e-5)
    # Past the trust step the second-order prediction has turned its sign.
    eta = entanglement.trust_step(first, second)
    inside = jnp.where(jnp.isfinite(eta), 0.9 * eta, 1.0)
    assert jnp.all(jnp.sign(first + inside * second / 2) == jnp.sign(first))


def test_nearly_equal_answers_keep_their_digits():
    # The two answers differ by one part in 1e4; in float32 the difference of the
    # inner products has no digit left, the product with the direction has.
    features = jnp.array([[1.0, 3e-4, 0.0]]), jnp.array([[1.0, 0.0, 1e-4]])
    linear = lambda params, features: jnp.tanh(features @ params)
    loss = lambda chosen, rejected: preference.cpo_loss(chosen, rejected, beta=1.0)
    params = jnp.zeros(3)
    push = np.exp(0.0) / 2
    new = push * (features[0] - features[1])[0]
    report = entanglement.displacement_report(linear, loss, params, new, *features)
    assert report.actual.chosen.dtype == jnp.float32
    assert_sums(report, atol=1e-7)
    np.testing.assert_allclose(report.own_pair.chosen, [push * 9e-8], rtol=1e-5)
    np.testing.assert_allclose(report.own_pair.rejected, [-push * 1e-8], rtol=1e-5)


def test_bad_calls():
    params, features = jnp.zeros(2), jnp.ones((3, 2))
    model = lambda params, features: features @ params
    loss = lambda a, b: preference.cpo_loss(a, b)
    report = functools.partial(entanglement.displacement_report, model, loss)
    with pytest.raises(ValueError, match=r"`chosen` and `rejected`.*got 3 and 2"):
        report(params, params, features, features[:2])
    with pytest.raises(ValueError, match=r"leaves of `chosen` must share a leading"):
        report(params, params, {"a": features, "b": features[:1]}, features)
    tree = {"x": jnp.ones(2, jnp.int32)}
    with pytest.raises(TypeError, match=r"`params\['x'\]`.*int32"):
        report(tree, tree, features, features)
    with pytest.raises(ValueError, match=r"same structure"):
        entanglement.update_changes(model, params, {"x": params}, features)
    with pytest.raises(ValueError, match=r"`params` and `update`.*\(2,\) and \(3,\)"):
        entanglement.update_changes(model, params, jnp.zeros(3), features)
    with pytest.raises(ValueError, match=r"`order` must be 1 or 2, got 3"):
        entanglement.update_changes(model, params, params, features, order=3)
    with pytest.raises(ValueError, match=r"one number per example.*got \(\)"):
        entanglement.displacement_report(
            lambda p, f: jnp.sum(f @ p), loss, params, params, features, features
        )
    with pytest.raises(TypeError, match=r"`where` must have dtype bool, got float32"):
        report(params, params, features, features, where=jnp.ones(3))
    with pytest.raises(ValueError, match=r"`chunk_size` must be at least 1, got 0"):
        report(params, params, features, features, chunk_size=0)
