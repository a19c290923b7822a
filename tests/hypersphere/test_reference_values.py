"""Two samples on the circle: values and gradients known to eleven digits."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import hypersphere as hs
from tests.hypersphere._reference import CIRCLE, polar

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

LENGTHS = np.array([2.0, 3.0])
T1 = 0.01 * np.mean(np.cos([0.9, 0.45]))
# The bias with which the published value was computed; the exact one is below.
ROUNDED_BIAS = 44.208216281849

VALUES: dict[str, tuple[Any, float, Any]] = {
    "sface": (hs.SFaceConfig(), 34.099963094787, None),
    "potential": (hs.SFaceConfig(form="potential"), 34.996566602562, None),
    "twin": (hs.SFaceConfig(form="cosine"), 34.9967587952, None),
    "small_scale": (hs.SFaceConfig.small_scale(), 38.2841002615, None),
    "normface": (hs.MarginConfig.normface(), 2.70472298703, None),
    "cosface": (hs.MarginConfig.cosface(), 27.6789897815, None),
    "arcface": (hs.MarginConfig.arcface(), 29.932037871, None),
    "detached": (
        hs.MarginConfig(angle_margin=0.5, detach_margin=True),
        29.932037871,
        None,
    ),
    "mild_arcface": (
        hs.MarginConfig.arcface(scale=16.0, margin=0.3),
        5.09044154758,
        None,
    ),
    "sphereface_0": (hs.SphereFaceConfig(annealing=0.0), 3.62670179681, None),
    "sphereface_5": (hs.SphereFaceConfig(), 1.17710562514, None),
    "revised": (hs.SphereFaceConfig.revised(), 14.1480960536, None),
    "sphereface2": (hs.SphereFace2Config(bias=ROUNDED_BIAS), 41.6661523495, None),
    "d_softmax": (hs.DSoftmaxConfig(), 31.7897234147, None),
    "adacos": (hs.AdaCosConfig(), 0.928063025579, None),
    "curricularface": (
        hs.CurricularFaceConfig(),
        24.0346288556,
        hs.CurricularFaceState(T1),
    ),
    "adaface": (
        hs.AdaFaceConfig(),
        32.1411778324,
        hs.AdaFaceState(LENGTHS.mean(), LENGTHS.std(ddof=1)),
    ),
    "magface": (hs.MagFaceConfig(), 30.6144397711, None),
    "circle": (hs.CircleClassConfig(), 172.94415409, None),
    "softmax": (hs.SoftmaxConfig(), 1.3569187299, None),
}


@functools.cache
def computed() -> dict[str, Any]:
    x, w, labels = map(jnp.asarray, CIRCLE)
    unit = jnp.asarray(polar([0.0, 1.2, 2.5], np.ones(3)))

    def mean(name: str, x: Any, w: Any) -> Any:
        config, _, state = VALUES[name]
        return jnp.mean(hs.hypersphere_loss(x, w, labels, config, state=state))

    def program(x: Any, w: Any) -> dict[str, Any]:
        out = {name: mean(name, x, w) for name in VALUES}
        by_x = jax.grad(mean, argnums=1)
        for name in ("sface", "potential", "arcface", "detached"):
            out[f"{name}_dx"] = by_x(name, x, w)
        out["sface_dw"] = jax.grad(mean, argnums=2)("sface", x, unit)
        return out

    return jax.tree.map(np.asarray, jax.jit(program)(x, w))


@pytest.mark.parametrize("name", list(VALUES))
def test_value(name: str):
    want = VALUES[name][1]
    # The numbers are given to eleven or twelve significant digits.
    np.testing.assert_allclose(computed()[name], want, rtol=2e-11)


def test_gradients_of_sface():
    out = computed()
    want = [[-13.51814730195, 10.727341308164], [4.9560682577744, -5.3199732618906]]
    np.testing.assert_allclose(out["sface_dx"], want, rtol=1e-12)
    np.testing.assert_allclose(out["potential_dx"], out["sface_dx"], rtol=1e-13)
    angles = np.array([0.0, 1.2, 2.5])
    tangents = polar(angles + np.pi / 2, np.ones(3))
    by_angle = np.sum(tangents * out["sface_dw"], axis=1)
    want = [-3.2456147463298, -9.4566466131532, -4.465300794354e-12]
    np.testing.assert_allclose(by_angle, want, rtol=1e-10, atol=1e-15)


def test_gradients_of_arcface_with_and_without_the_margin():
    out = computed()
    np.testing.assert_allclose(
        out["arcface_dx"][1], [10.86952474, -11.66763207], rtol=1e-9
    )
    np.testing.assert_allclose(
        out["detached_dx"][1], [8.11807189, -8.71415064], rtol=1e-9
    )


def test_scales_and_biases():
    for classes, scale in ((10, 3.107344796848), (1000, 9.767626279950)):
        got = hs.adacos_init(classes).scale
        np.testing.assert_allclose(got, scale, rtol=1e-7)
    # Three classes: a form that cancels gives 44.208216 instead.
    for classes, bias in (
        (3, 44.208240530772477),
        (10, 12.950177875501),
        (1000, 7.942881482671),
        (85742, 3.488238671246),
    ):
        got = hs.sphereface2_initial_bias(classes)
        np.testing.assert_allclose(got, bias, rtol=1e-12)


def test_sphereface_annealing():
    steps = jnp.asarray([0, 10, 10_000])
    want = [1000.0, 1000 / 2.2, 5.0]
    np.testing.assert_allclose(hs.sphereface_annealing(steps), want, rtol=1e-12)


def test_presets():
    angles = lambda config: (config.intra_angle, config.inter_angle)
    assert angles(hs.SFaceConfig()) == (0.80, 1.23)
    assert angles(hs.SFaceConfig.casia_webface()) == (0.87, 1.20)
    assert angles(hs.SFaceConfig.vggface2()) == (0.88, 1.25)
    assert angles(hs.SFaceConfig.ms1mv2()) == (0.90, 1.20)
    assert angles(hs.SFaceConfig.small_scale()) == (0.8, 1.4)
    assert hs.SFaceConfig().scale == 64
    assert hs.SFaceConfig().intra_sharpness == hs.SFaceConfig().inter_sharpness == 80
