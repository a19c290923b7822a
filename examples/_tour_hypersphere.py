"""The claims about hypersphere losses in the tour."""

import dataclasses
import importlib.util
from typing import Any

import _common as common
import hypersphere_circle
import hypersphere_force_curves as curves
import jax
import jax.numpy as jnp
import numpy as np
from _claims import Claim, Picture

from jaxkit import hypersphere, ops
from jaxkit.hypersphere import SFaceConfig


def run(config: common.TrainConfig) -> tuple[list[Claim], list[Picture]]:
    """Measures every claim of the system."""
    with jax.enable_x64(True):
        claims = [
            two_samples(),
            potential_gradient(),
            potential_value(),
            crossing_time(),
            streamed(),
            normalizer(),
        ]
    falling, picture = descent()
    claims.append(falling)
    pictures = [picture]
    if importlib.util.find_spec("sklearn") is not None:
        more_claims, picture = circle(config)
        claims += more_claims
        pictures.append(picture)
    return claims, pictures


def _claim(statement: str, *values: Any, **options: Any) -> Claim:
    return Claim("hypersphere", statement, *map(float, values), **options)


def _random(num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((8, 6)), rng.standard_normal((num_classes, 6))
    return x, w, rng.integers(0, num_classes, 8)


def two_samples() -> Claim:
    """SFace of two samples and three classes on the circle, in plain NumPy."""
    classes, samples = np.array([0.0, 1.2, 2.5]), np.array([0.9, 0.75])
    theta = np.abs(samples[:, None] - classes)
    own = np.arange(3) == np.array([[0], [1]])
    gate = lambda u: 64.0 / (1.0 + np.exp(-u))
    pull = -gate(80.0 * (theta - 0.8)) * np.cos(theta)
    push = gate(-80.0 * (theta - 1.23)) * np.cos(theta)
    value = np.sum(np.where(own, pull, push)) / 2
    x = np.array([[2.0], [3.0]]) * np.asarray(curves.at(samples))
    losses = hypersphere.sface_loss(x, curves.at(classes), np.array([0, 1]))
    return _claim("SFace of two samples on the circle", value, losses.mean(), 1e-12)


def potential_gradient() -> Claim:
    """The potential has the gradient of the loss."""
    x, w, labels = _random(12)
    gradients = [
        jax.grad(lambda x, w, f=loss: jnp.sum(f(x, w, labels)), argnums=(0, 1))(x, w)
        for loss in (hypersphere.sface_loss, hypersphere.sface_potential_loss)
    ]
    gap = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), *gradients)
    title = "SFace's potential has the gradient of SFace (largest difference)"
    return _claim(title, 0.0, max(jax.tree.leaves(gap)), 1e-11, kind="absolute")


def potential_value() -> Claim:
    """The potential in closed form against Gauss-Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    angles = 0.75 * (nodes + 1.0)
    force = 64.0 / (1.0 + np.exp(-80.0 * (angles - 0.8))) * np.sin(angles)
    integral = 0.75 * np.sum(weights * force)
    value = hypersphere.sface_intra_potential(np.cos(1.5))
    title = "SFace's potential at an angle of 1.5 is the work against its pull"
    return _claim(title, integral, value, 1e-10)


def crossing_time() -> Claim:
    """An embedding under the pull alone passes an angle of 1 at the exact time."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    angles = 1.25 + 0.25 * nodes
    speed = np.asarray(hypersphere.sface_force(angles).intra)
    time = 0.25 * np.sum(weights / speed)

    def field(_: jax.Array, theta: jax.Array) -> jax.Array:
        return -hypersphere.sface_force(theta).intra

    times = jnp.array([0.0, time])
    path = jax.jit(
        lambda: ops.integrate(field, jnp.asarray(1.5), times, substeps=200)
    )()
    title = "gradient flow of SFace is at an angle of 1.0 when theory says"
    return _claim(title, 1.0, path[-1], 1e-9)


def streamed() -> Claim:
    """Classes in slices give the loss and gradients of all classes at once."""
    x, w, labels = _random(50)
    results = []
    for loss in (
        hypersphere.hypersphere_loss,
        lambda *args: hypersphere.streaming_loss(*args, class_chunk=7),
    ):
        total = lambda x, w, f=loss: jnp.mean(f(x, w, labels, SFaceConfig()))
        results.append(jax.value_and_grad(total, argnums=(0, 1))(x, w))
    gap = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), *results)
    title = "streaming over classes changes nothing (largest difference)"
    return _claim(title, 0.0, max(jax.tree.leaves(gap)), 1e-11, kind="absolute")


def normalizer() -> Claim:
    """The density on the sphere of three dimensions has a closed form."""
    value = hypersphere.vmf_log_normalizer(10.0, dim=3)
    exact = np.log(10.0 / (4 * np.pi * np.sinh(10.0)))
    return _claim("von Mises-Fisher normalizer in closed form", exact, value, 1e-8)


@jax.enable_x64(True)
def descent() -> tuple[Claim, Picture]:
    """The potential falls along the flow while the loss may rise."""
    config = curves.Config()
    path = curves.descend(config)
    rise = max(0.0, float(np.max(np.diff(path.potential))))
    angles = jnp.linspace(0.0, jnp.pi / 2, config.num_points)
    drawn = {
        name: tuple(map(np.asarray, curves.forces(angles, jax.tree.map(float, loss))))
        for name, loss in (curves.SFACE | curves.SOFTMAX).items()
    }
    caption = (
        "Pull and push of SFace and of losses with a softmax on one angle; below, an "
        "embedding that follows the flow of SFace: both angles improve throughout, the "
        "loss rises in between, the potential falls."
    )
    title = "SFace's potential never rises along the flow (largest rise)"
    claim = _claim(title, 0.0, rise, 1e-12, kind="absolute")
    return claim, Picture(caption, curves.draw(np.asarray(angles), drawn, path))


def circle(config: Any) -> tuple[list[Claim], Picture]:
    """Ten classes of digits on a circle, a fifth of the labels wrong."""
    small = hypersphere_circle.Config(dims=(2,), rates=(0.2,), seed=config.seed)
    data = hypersphere_circle.split_digits(*hypersphere_circle.read_digits())
    results = {
        (name, 2, 0.2, small.seed): hypersphere_circle.run(
            small, data, name, 2, 0.2, small.seed
        )
        for name in hypersphere_circle.LOSSES
    }
    sface = results["SFace", 2, 0.2, small.seed]
    arcface = results["ArcFace s=64", 2, 0.2, small.seed]
    gaps = hypersphere_circle.gaps(sface.weights)
    claims = [
        _claim(
            "digits on a circle, 20 % wrong labels: SFace's classes 36 degrees apart "
            "(smallest gap)",
            *(36.0, gaps.min(), 9.0),
            kind="absolute",
        ),
        _claim(
            "there ArcFace (s=64) has a lower accuracy than SFace",
            *(sface.accuracy, arcface.accuracy, 1.0),
            kind="bound",
        ),
    ]
    caption = (
        "Embeddings of test digits and class weights, a fifth of the labels wrong."
    )
    figure = hypersphere_circle.draw(dataclasses.replace(small), results, data)
    return claims, Picture(caption, figure)
