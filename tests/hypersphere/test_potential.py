"""The potential of SFace: closed form, derivatives, and the flow down it."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import hypersphere as hs
from jaxkit import ops

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

NODES, WEIGHTS = np.polynomial.legendre.leggauss(60)


def quadrature(theta: float, sharpness: float, angle: float) -> float:
    """Integrates sigmoid(k (t - a)) sin t from 0 to theta over pieces around the bend."""
    steps = np.array([-40, -20, -10, -5, -2, 0, 2, 5, 10, 20, 40]) / sharpness
    cuts = np.clip(np.concatenate([[0.0], angle + steps, [theta]]), 0.0, theta)
    total = 0.0
    for low, high in itertools.pairwise(cuts):
        t = low + (high - low) * (NODES + 1) / 2
        gate = 1.0 / (1.0 + np.exp(-sharpness * (t - angle)))
        total += (high - low) / 2 * np.sum(WEIGHTS * gate * np.sin(t))
    return total


def both(theta: Any, config: Any) -> hs.IntraInter:
    cos = jnp.cos(theta)
    intra = hs.sface_intra_potential(cos, config)
    return hs.IntraInter(intra, hs.sface_inter_potential(cos, config))


def curves(theta: Any, config: Any) -> dict[str, Any]:
    """Potentials with their derivatives by the angle, gates and forces."""
    by_angle = jax.jacfwd(both)(theta, config)
    return {
        "value": both(theta, config),
        "by_angle": by_angle,
        "curvature": jax.jacfwd(jax.jacrev(both))(theta, config),
        "gate": hs.sface_rescale(theta, config),
        "force": hs.sface_force(theta, config),
    }


@jax.jit
def table(theta: jax.Array, config: Any) -> dict[str, Any]:
    return jax.vmap(curves, in_axes=(0, None))(theta, config)


def config_of(sharpness: float, intra: float, inter: float) -> hs.SFaceConfig:
    number = jnp.asarray
    return hs.SFaceConfig(
        scale=number(64.0),
        intra_sharpness=number(sharpness),
        inter_sharpness=number(sharpness),
        intra_angle=number(intra),
        inter_angle=number(inter),
    )


POINTS = np.array([0.7, 0.8, 0.9, 1.2, 1.23, 1.3, 1.5, 0.3, np.pi / 2, 1.16474])


def published() -> dict[str, Any]:
    return table(jnp.asarray(POINTS), config_of(80.0, 0.8, 1.23))


def test_gates_forces_and_potentials_of_the_defaults():
    out = published()
    gate, value, force = out["gate"], out["value"], out["force"]
    np.testing.assert_allclose(gate.intra[:2], [0.0214624083, 32.0], rtol=3e-9)
    np.testing.assert_allclose(
        gate.inter[3:6], [58.6769474244, 32.0, 0.235791353564], rtol=1e-11
    )
    np.testing.assert_allclose(
        value.intra[jnp.array([0, 1, 2, 4, 6])],
        [1.70267621813e-4, 0.391976701994, 4.79494536264, 23.1865565578, 40.0505901870],
        rtol=1e-11,
        atol=1e-9,
    )
    np.testing.assert_allclose(
        value.inter[:7],
        [
            27.5641824515,
            23.2035118635,
            18.3973204346,
            1.86959454809,
            0.525269071392,
            0.00285466403987,
            3.3232028e-10,
        ],
        rtol=1e-11,
        atol=1e-9,
    )
    np.testing.assert_allclose(
        force.intra[jnp.array([1, 8])], [32 * np.sin(0.8), 64.0], rtol=1e-14
    )
    np.testing.assert_allclose(force.inter[9], 58.47992, rtol=1e-7)
    whole = hs.sface_inter_potential(1.0, hs.SFaceConfig())
    np.testing.assert_allclose(whole, 42.6142824653, rtol=1e-6)


@pytest.mark.parametrize("sharpness", [1.0, 10.0, 80.0])
def test_the_closed_form_equals_quadrature(sharpness: float):
    intra, inter = 0.8, 1.23
    theta = np.array([0.0, 0.2, 0.8, 0.8001, 1.23, 1.2299, 1.6, 2.4, 3.1, np.pi])
    out = table(jnp.asarray(theta), config_of(sharpness, intra, inter))
    pull = [64 * quadrature(t, sharpness, intra) for t in theta]
    push = [64 * quadrature(np.pi - t, sharpness, np.pi - inter) for t in theta]
    atol = 1e-9
    np.testing.assert_allclose(out["value"].intra, pull, rtol=0, atol=atol)
    np.testing.assert_allclose(out["value"].inter, push, rtol=0, atol=atol)
    # Its slope is exact, and it bends the right way everywhere.
    gate, slope = out["gate"], out["by_angle"]
    np.testing.assert_allclose(slope.intra, gate.intra * np.sin(theta), atol=1e-12)
    np.testing.assert_allclose(slope.inter, -gate.inter * np.sin(theta), atol=1e-12)
    assert np.all(np.asarray(out["value"].intra) >= 0)
    assert np.all(np.asarray(out["value"].inter) >= 0)


def test_second_derivatives_are_those_of_the_gates():
    out = published()
    t, k = POINTS, 80.0
    gate = np.asarray(out["gate"].intra) / 64
    want = 64 * (k * gate * (1 - gate) * np.sin(t) + gate * np.cos(t))
    np.testing.assert_allclose(out["curvature"].intra, want, rtol=1e-9, atol=1e-9)
    gate = np.asarray(out["gate"].inter) / 64
    want = 64 * (k * gate * (1 - gate) * np.sin(t) - gate * np.cos(t))
    np.testing.assert_allclose(out["curvature"].inter, want, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_derivatives_by_hyper_parameters():
    theta, h = jnp.asarray(POINTS), 1e-5
    config = config_of(80.0, 0.8, 1.23)
    by_config = jax.jit(jax.vmap(jax.jacfwd(both, argnums=1), in_axes=(0, None)))
    here, value = by_config(theta, config), jax.vmap(both, (0, None))
    scale = value(theta, config)
    np.testing.assert_allclose(here.intra.scale * 64, scale.intra, rtol=1e-12)
    for name, up, down in (
        ("sharpness", (80 + h, 0.8, 1.23), (80 - h, 0.8, 1.23)),
        ("angle", (80.0, 0.8 + h, 1.23 + h), (80.0, 0.8 - h, 1.23 - h)),
    ):
        above, below = (value(theta, config_of(*at)) for at in (up, down))
        for kind in ("intra", "inter"):
            difference = (getattr(above, kind) - getattr(below, kind)) / (2 * h)
            got = getattr(getattr(here, kind), f"{kind}_{name}")
            # At the bend itself the accelerated series is least exact.
            np.testing.assert_allclose(got, difference, rtol=1e-5, atol=2e-5)


NUM_STEPS = 2000


def pushed(embedding: jax.Array, weights: jax.Array, form: str) -> jax.Array:
    config = hs.SFaceConfig(form=form)
    loss = lambda x: hs.hypersphere_loss(x[None], weights, LABEL, config)[0]
    return -jax.grad(loss)(embedding)


LABEL = np.array([0])


@jax.jit
def follow(start: Any, weights: Any, time: Any) -> tuple[jax.Array, jax.Array]:
    """Lets embeddings flow, and gives the last ones and their potential on the way."""

    def one(start: Any, weights: Any, time: Any) -> tuple[jax.Array, jax.Array]:
        field = lambda _, x: time * pushed(x, weights, "gated")
        times = jnp.linspace(0.0, 1.0, 11)
        path = ops.integrate(field, start, times, substeps=NUM_STEPS // 10)
        config = hs.SFaceConfig(form="potential")
        height = lambda x: hs.hypersphere_loss(x[None], weights, LABEL, config)[0]
        return path[-1], jax.vmap(height)(path)

    return jax.vmap(one)(start, weights, time)


def test_the_gradient_flow_crosses_angles_when_it_should():
    # A weight of zero neither pulls nor pushes: what is left is one class at angle 0.
    pull, push = np.array([[1.0, 0], [0, 0]]), np.array([[0.0, 0], [1, 0]])
    legs = (
        (pull, 1.5, 1.0, 0.00833948291636),
        (pull, 1.0, 0.8, 0.00427360465426),
        (pull, 0.8, 0.75, 0.0162898156),
        (pull, 0.75, 0.7, 0.876597514),
        (push, 0.5, 1.0, 0.0118838956041),
        (push, 1.0, 1.23, 0.00422367603276),
        (push, 1.23, 1.30, 0.055954551741),
    )
    length = 1.5
    weights = jnp.asarray([leg[0] for leg in legs])
    begin = np.array([leg[1] for leg in legs])
    start = length * jnp.asarray(np.stack([np.cos(begin), np.sin(begin)], axis=-1))
    # A longer embedding turns more slowly, by the square of its length.
    time = jnp.asarray([leg[3] * length**2 for leg in legs])
    end, height = follow(start, weights, time)
    angle = np.arctan2(end[:, 1], end[:, 0])
    np.testing.assert_allclose(angle, [leg[2] for leg in legs], rtol=0, atol=3e-9)
    # The flow keeps the length and never climbs.
    np.testing.assert_allclose(np.hypot(*np.asarray(end).T), length, rtol=1e-10)
    assert np.all(np.diff(height, axis=1) < 1e-9)


def test_the_potential_falls_along_the_flow_of_sface():
    rng = np.random.default_rng(0)
    angle, length = rng.uniform(0, 2 * np.pi, 7), rng.uniform(0.6, 2.0, 7)
    start = length * np.stack([np.cos(angle), np.sin(angle)])
    weights = jnp.asarray(rng.standard_normal((7, 2, 2)))
    end, height = follow(jnp.asarray(start.T), weights, jnp.full(7, 0.01))
    assert np.all(np.diff(height, axis=1) <= 1e-9)
    assert np.max(height[:, 0] - height[:, -1]) > 1.0
    np.testing.assert_allclose(jnp.linalg.norm(end, axis=1), length, rtol=1e-9)


@pytest.mark.slow
def test_far_from_the_gate_the_angle_closes_as_if_there_were_none():
    # tan(theta / 2) shrinks by exp(-s t) while the gate is wide open.
    begin = np.array([1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.1])
    start = jnp.asarray(np.stack([np.cos(begin), np.sin(begin)], axis=-1))
    weights = jnp.asarray(np.array([[[1.0, 0], [0, 0]]] * len(begin)))
    time = 0.008
    end, _ = follow(start, weights, jnp.full(len(begin), time))
    want = 2 * np.arctan(np.tan(begin / 2) * np.exp(-64 * time))
    angle = np.arctan2(end[:, 1], end[:, 0])
    np.testing.assert_allclose(angle, want, rtol=0, atol=2e-8)


@pytest.mark.slow
def test_the_gates_of_the_twin_are_close_to_those_of_sface():
    theta = np.linspace(0.01, 3.13, 2000)
    x = jnp.asarray(np.stack([np.cos(theta), np.sin(theta)], axis=-1))
    config = hs.SFaceConfig(form="cosine")

    def gate(weights: np.ndarray) -> np.ndarray:
        labels = np.zeros(len(x), int)
        loss = lambda x: jnp.sum(hs.hypersphere_loss(x, weights, labels, config))
        # A weight of zero leaves one force, whose size is the gate times the sine.
        return np.linalg.norm(jax.grad(loss)(x), axis=1) / np.sin(theta) / 64

    exact = hs.sface_rescale(jnp.asarray(theta))
    intra = np.abs(gate(np.array([[1.0, 0], [0, 0]])) - exact.intra / 64)
    inter = np.abs(gate(np.array([[0.0, 0], [1, 0]])) - exact.inter / 64)
    assert 2.5e-3 < np.max(intra) < 2.75e-3
    assert 0.9e-3 < np.max(inter) < 1.05e-3


@pytest.mark.slow
def test_the_value_of_sface_rises_while_the_angle_closes():
    x = jnp.asarray(np.stack([np.cos([0.9, 0.7]), np.sin([0.9, 0.7])], axis=-1))
    weights, labels = np.array([[1.0, 0], [0, 0]]), np.array([0, 0])
    value = hs.sface_loss(x, weights, labels)
    np.testing.assert_allclose(value, [-39.76970, -0.01642], atol=5e-6)
    potential = hs.sface_potential_loss(x, weights, labels)
    assert potential[1] < potential[0]
