import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import entanglement, preference

BETA, SMOOTHING, LENGTH, GAMMA, TAU = 0.3, 0.1, 0.02, 0.7, 0.25
DELTA, ANCHOR, POSITIVE, SHIFT, Z = 1.2, 0.4, 5.0, 0.6, 0.35
GAIN, PENALTY = 1.3, 0.8


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slope(x):
    return sigmoid(x) * sigmoid(-x)


class Pair:
    """Log-probabilities and lengths, with the log-ratios that the formulas read."""

    def __init__(self, a, b, ref_a, ref_b, n_w, n_l):
        self.a, self.b, self.refs, self.lengths = a, b, (ref_a, ref_b), (n_w, n_l)
        self.u_w, self.u_l = a - ref_a, b - ref_b
        self.m = self.u_w - self.u_l
        self.n_w, self.n_l = n_w, n_l


def with_refs(loss, **options):
    return lambda a, b, p: loss(a, b, *p.refs, **options)


def with_lengths(loss, **options):
    return lambda a, b, p: loss(a, b, *p.lengths, **options)


def with_both(loss, **options):
    return lambda a, b, p: loss(a, b, *p.refs, *p.lengths, **options)


def cpo_with_likelihood(a, b, p):
    return preference.cpo_loss(a, b, beta=BETA) - ANCHOR * a


def orpo(p):
    x, y = p.a / p.n_w, p.b / p.n_l
    odds = lambda v: v - np.log1p(-np.exp(v))
    s = ANCHOR * sigmoid(odds(y) - odds(x))
    return (
        1 / p.n_w + s / (p.n_w * (1 - np.exp(x))),
        s / (p.n_l * (1 - np.exp(y))),
    )


def same(d):
    return d, d


# Each row: the loss, then the pair of coefficients in NumPy, derived by hand.
ROWS = {
    "dpo": (
        with_refs(preference.dpo_loss, beta=BETA),
        lambda p: same(BETA * sigmoid(-BETA * p.m)),
    ),
    "conservative": (
        with_refs(preference.dpo_loss, beta=BETA, label_smoothing=SMOOTHING),
        lambda p: same(BETA * (sigmoid(-BETA * p.m) - SMOOTHING)),
    ),
    "robust": (
        with_refs(preference.robust_dpo_loss, beta=BETA, label_smoothing=SMOOTHING),
        lambda p: same(BETA * (sigmoid(-BETA * p.m) + SMOOTHING / (1 - 2 * SMOOTHING))),
    ),
    "r_dpo": (
        with_both(preference.r_dpo_loss, beta=BETA, length_weight=LENGTH),
        lambda p: same(BETA * sigmoid(-(BETA * p.m + LENGTH * (p.n_w - p.n_l)))),
    ),
    "hinge": (
        with_refs(preference.hinge_loss, beta=BETA),
        lambda p: same(BETA * (BETA * p.m < 1)),
    ),
    "ipo": (
        with_refs(preference.ipo_loss, beta=TAU, length_normalize=False),
        lambda p: same(2 * (1 / (2 * TAU) - p.m)),
    ),
    "ipo_average": (
        with_both(preference.ipo_loss, beta=TAU),
        lambda p: tuple(
            2 / n * (1 / (2 * TAU) - p.u_w / p.n_w + p.u_l / p.n_l)
            for n in (p.n_w, p.n_l)
        ),
    ),
    "simpo": (
        with_lengths(preference.simpo_loss, beta=BETA, gamma=GAMMA),
        lambda p: tuple(
            BETA / n * sigmoid(GAMMA - BETA * (p.a / p.n_w - p.b / p.n_l))
            for n in (p.n_w, p.n_l)
        ),
    ),
    "rrhf": (
        with_lengths(preference.rrhf_loss, weight=ANCHOR),
        lambda p: (
            (p.b / p.n_l > p.a / p.n_w) / p.n_w + ANCHOR,
            (p.b / p.n_l > p.a / p.n_w) / p.n_l,
        ),
    ),
    "slic": (
        lambda a, b, p: preference.slic_loss(a, b, margin=DELTA, weight=ANCHOR),
        lambda p: (
            (p.a - p.b < DELTA) + ANCHOR,
            (p.a - p.b < DELTA) * np.ones_like(p.a),
        ),
    ),
    "cpo": (
        cpo_with_likelihood,
        lambda p: (
            BETA * sigmoid(-BETA * (p.a - p.b)) + ANCHOR,
            BETA * sigmoid(-BETA * (p.a - p.b)),
        ),
    ),
    "rpo": (
        lambda a, b, p: preference.rpo_loss(
            a, b, *p.refs, p.n_w, beta=BETA, weight=ANCHOR
        ),
        lambda p: (
            BETA * sigmoid(-BETA * p.m) + ANCHOR / p.n_w,
            BETA * sigmoid(-BETA * p.m),
        ),
    ),
    "dpop": (
        with_refs(preference.dpop_loss, beta=BETA, weight=POSITIVE),
        lambda p: tuple(
            BETA * factor * sigmoid(-BETA * (p.m - POSITIVE * np.maximum(0.0, -p.u_w)))
            for factor in (1 + POSITIVE * (p.u_w < 0), 1.0)
        ),
    ),
    "kto": (
        with_refs(
            preference.paired_kto_loss,
            beta=BETA,
            kl_estimate=Z,
            desirable_weight=GAIN,
            undesirable_weight=PENALTY,
        ),
        lambda p: (
            GAIN * BETA * slope(BETA * (p.u_w - Z)),
            PENALTY * BETA * slope(BETA * (Z - p.u_l)),
        ),
    ),
    "sppo": (
        with_refs(preference.sppo_loss, beta=BETA),
        lambda p: (2 * (0.5 / BETA - p.u_w), 2 * (0.5 / BETA + p.u_l)),
    ),
    "orpo": (with_lengths(preference.orpo_loss, weight=ANCHOR), orpo),
    "bco": (
        with_refs(preference.bco_loss, beta=BETA, reward_shift=Z),
        lambda p: (
            BETA * sigmoid(Z - BETA * p.u_w),
            BETA * sigmoid(BETA * p.u_l - Z),
        ),
    ),
    "nca": (
        with_refs(preference.nca_loss, beta=BETA),
        lambda p: (
            BETA * (sigmoid(-BETA * p.u_w) - sigmoid(BETA * p.u_w) / 2),
            BETA / 2 * sigmoid(BETA * p.u_l),
        ),
    ),
    "apo_zero": (
        with_refs(preference.apo_zero_loss, beta=BETA),
        lambda p: (BETA * slope(BETA * p.u_w), BETA * slope(BETA * p.u_l)),
    ),
    "apo_down": (
        with_refs(preference.apo_down_loss, beta=BETA),
        lambda p: (
            BETA * (slope(BETA * p.m) - slope(BETA * p.u_w)),
            BETA * slope(BETA * p.m),
        ),
    ),
    "dpo_shift": (
        with_refs(preference.dpo_shift_loss, beta=BETA, rejected_weight=SHIFT),
        lambda p: tuple(
            BETA * weight * sigmoid(-BETA * (p.u_w - SHIFT * p.u_l))
            for weight in (1.0, SHIFT)
        ),
    ),
}

# At log-probabilities -12, -15, references -11, -14.5 and lengths 8, 10.
GOLDEN = {
    "dpo": (0.161228953603, 0.161228953603),
    "conservative": (0.131228953603, 0.131228953603),
    "robust": (0.198728953603, 0.198728953603),
    "r_dpo": (0.164207285443, 0.164207285443),
    "ipo": (5.0, 5.0),
    "ipo_average": (0.51875, 0.415),
    "simpo": (0.025057041456, 0.020045633165),
    "slic": (0.4, 0.0),
    "cpo": (0.486715149212, 0.086715149212),
    "dpop": (1.510003890762, 0.251667315127),
    "kto": (0.093608702369, 0.059035099069),
    # Published with a factor 1/2 in front of the loss.
    "sppo": (2 * 2.666666666667, 2 * 1.166666666667),
    "orpo": (0.157180422920, 0.025744338336),
    "bco": (0.197103138802, 0.113262200639),
    "nca": (0.108499132565, 0.069385523198),
    "apo_zero": (0.073337493507, 0.074579702003),
    "apo_down": (0.001242208496, 0.074579702003),
    "dpo_shift": (0.165692372872, 0.099415423723),
}


def random_pairs(count=200):
    rng = np.random.default_rng(3)
    a, b = -rng.uniform(0.5, 30.0, (2, count))
    refs = np.stack([a, b]) + rng.normal(0.0, 4.0, (2, count))
    return a, b, *refs, *rng.integers(1, 20, (2, count)).astype(np.float64)


def won_long_ago():
    """Past every target, where some losses pull back."""
    return tuple(np.array([x]) for x in (-1.0, -40.0, -20.0, -20.0, 5.0, 5.0))


def example():
    return tuple(np.array([x]) for x in (-12.0, -15.0, -11.0, -14.5, 8.0, 10.0))


@functools.cache
def all_coefficients():
    """Every row at the random pairs and the two examples, in one program."""

    @jax.jit
    def run(a, b, *rest):
        pair = Pair(a, b, *rest)
        return {
            name: entanglement.loss_coefficients(loss, a, b, pair)
            for name, (loss, _) in ROWS.items()
        }

    with jax.enable_x64(True):
        points = zip(random_pairs(), won_long_ago(), example(), strict=True)
        return run(*(jnp.asarray(np.concatenate(p)) for p in points))


def test_the_table_has_its_21_rows():
    assert len(ROWS) == 21
    assert set(GOLDEN) == set(ROWS) - {"hinge", "rrhf", "rpo"}


@pytest.mark.parametrize("name", ROWS)
def test_coefficients_equal_the_table(name):
    want = ROWS[name][1](Pair(*random_pairs()))
    got = all_coefficients()[name]
    np.testing.assert_allclose(got.chosen[:-2], want[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got.rejected[:-2], want[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", GOLDEN)
def test_coefficients_equal_the_reference_numbers(name):
    got = all_coefficients()[name]
    got = (float(got.chosen[-1]), float(got.rejected[-1]))
    np.testing.assert_allclose(got, GOLDEN[name], rtol=0, atol=1.1e-12)


@pytest.mark.usefixtures("x64")
def test_losses_equal_the_reference_numbers():
    a, b, ref_a, ref_b, _, _ = example()
    refs = (a, b, ref_a, ref_b)
    values = (
        (preference.dpo_loss(*refs, beta=BETA), 0.770957047790),
        (preference.ipo_loss(*refs, beta=TAU, length_normalize=False), 6.25),
        (preference.dpop_loss(*refs, beta=BETA, weight=POSITIVE), 1.825674437415),
    )
    for got, want in values:
        np.testing.assert_allclose(got[0], want, rtol=0, atol=6e-13)


def test_signs_are_not_assumed():
    for name in ("ipo", "conservative", "nca", "sppo"):
        assert float(all_coefficients()[name].chosen[-2]) < 0, name


def test_dpop_pushes_equally_where_training_starts():
    logps = (jnp.array([-3.0]), jnp.array([-4.0]))
    got = entanglement.loss_coefficients(preference.dpop_loss, *logps, *logps)
    np.testing.assert_allclose(got, [[0.05], [0.05]], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_a_loss_that_couples_the_batch():
    rng = np.random.default_rng(0)
    logps = tuple(jnp.asarray(-rng.uniform(1.0, 9.0, 5)) for _ in range(4))
    got = entanglement.loss_coefficients(preference.aot_loss, *logps, beta=0.5)
    total = lambda a, b: preference.aot_loss(a, b, *logps[2:], beta=0.5).sum()
    slopes = jax.grad(total, argnums=(0, 1))(*logps[:2])
    np.testing.assert_allclose(got.chosen, -slopes[0], rtol=1e-14)
    np.testing.assert_allclose(got.rejected, slopes[1], rtol=1e-14)
    # The sort gives a pair the push of another rank than the plain loss.
    plain = entanglement.loss_coefficients(preference.dpo_loss, *logps, beta=0.5)
    assert np.abs(got.chosen - plain.chosen).max() > 1e-3


def test_a_saturated_pair_underflows_without_nan():
    logps = (jnp.array([0.0]), jnp.array([-3e4]), jnp.array([-1.0]), jnp.array([-1.0]))
    got = entanglement.loss_coefficients(preference.dpo_loss, *logps)
    assert got.chosen[0] == got.rejected[0] == 0.0


def test_masked_pairs_get_no_push_and_low_precision_is_widened():
    logps = tuple(jnp.array([-3.0, jnp.nan], jnp.bfloat16) for _ in range(4))
    got = entanglement.loss_coefficients(
        preference.dpo_loss, *logps, where=jnp.array([True, False])
    )
    assert got.chosen.dtype == jnp.float32
    np.testing.assert_allclose(got.chosen, [0.05, 0.0], rtol=1e-6)
    np.testing.assert_allclose(got.rejected, [0.05, 0.0], rtol=1e-6)


def test_bad_calls():
    one = jnp.ones(1)
    with pytest.raises(ValueError, match=r"`chosen_logps`.*\(2,\) and \(1,\)"):
        entanglement.loss_coefficients(preference.cpo_loss, jnp.ones(2), one)
    with pytest.raises(ValueError, match=r"one value per pair, shape \(1,\), got \(\)"):
        entanglement.loss_coefficients(lambda a, b: (a - b).sum(), one, one)
    with pytest.raises(TypeError, match=r"`rejected_logps`.*int32"):
        entanglement.loss_coefficients(preference.cpo_loss, one, jnp.ones(1, int))
