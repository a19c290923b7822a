"""The claims about dataset distillation in the tour."""

import math
from typing import Any

import _common as common
import _distillation_lab as lab_
import _distillation_runs as runs
import distillation_biased_gradient
import distillation_kip
import distillation_krr_st
import jax
import jax.numpy as jnp
from _claims import Claim, Picture

from jaxkit import distillation

SUBSET, DISTILLED = "k-means, teacher", "KRR-ST from k-means"


def run(config: common.TrainConfig) -> tuple[list[Claim], list[Picture]]:
    """Measures every claim of the system."""
    with jax.enable_x64(True):
        claims = [by_hand(), derivative(), infinite_network(), *toys()]
    more, picture = points(config)
    errors, curves = representations(config)
    return [*claims, *more, *errors], [picture, curves]


def _claim(statement: str, *values: Any, **options: Any) -> Claim:
    return Claim("distillation", statement, *map(float, values), **options)


def _by_hand() -> tuple[jax.Array, ...]:
    """Two synthetic and two real examples of one feature, with their targets."""
    column = lambda *values: jnp.array(values, jnp.float64)[:, None]
    return column(1, 2), column(1, 3), column(3, 0), column(5, 1)


def by_hand() -> Claim:
    """The outer loss of a case that takes a sheet of paper."""
    loss = jnp.mean(distillation.krr_loss(*_by_hand(), coef=1 / 7))
    return _claim("outer loss of two images, by hand: 29/18", 29 / 18, loss, 1e-12)


def derivative() -> Claim:
    """The closed-form derivative against differentiating the solver."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((6, 9), (6, 3), (8, 9), (8, 3))
    args = [
        jax.random.normal(key, shape, jnp.float64)
        for key, shape in zip(keys, shapes, strict=True)
    ]

    def slope(method: str) -> list[jax.Array]:
        loss = lambda *args: jnp.mean(distillation.krr_loss(*args, method=method))
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*args)

    want = slope("autodiff")
    gap = max(
        jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))
        for method in ("cholesky", "primal", "qr")
        for a, b in zip(slope(method), want, strict=True)
    )
    title = "closed-form gradients equal those of the solver (largest difference)"
    return _claim(title, 0.0, gap, 1e-9, kind="absolute")


def infinite_network() -> Claim:
    """The tangent kernel of one hidden layer at two points."""
    x, y = jnp.array([[1.0, 0.0]], jnp.float64), jnp.array([[1.0, 1.0]], jnp.float64)
    ntk = distillation.fc_nngp_ntk(x, y, bias_variance=0.0).ntk[0, 0]
    exact = (1.0 + 0.75 * math.pi) / math.pi + 0.75
    return _claim("tangent kernel of one layer, by hand", exact, ntk, 1e-12)


def toys() -> list[Claim]:
    """An augmented inner problem: the mean gradient of one draw is biased."""
    first, second = distillation_biased_gradient.TOYS
    rows = (
        ("random scale: mean gradient of one draw (exact: 1)", first, 2.0, 1, 1.5),
        ("random scale: four draws inside one loss", first, 2.0, 4, 1.125),
        ("masking: gradient without bias", second, 1.0, 0, -2 / 27),
        ("masking: one draw reports a stationary point", second, 1.0, 1, 0.0),
    )
    return [
        _claim(
            title,
            value,
            distillation_biased_gradient.toy_gradient(toy, x, num_inside=count),
            1e-12,
            kind="absolute",
        )
        for title, toy, x, count, value in rows
    ]


def points(config: Any) -> tuple[list[Claim], Picture]:
    """KIP: digits in ten images."""
    small = distillation_kip.Config(sizes=(10,), num_seeds=1, seed=config.seed)
    data = distillation_kip.data_.load("digits")
    results = distillation_kip.run_all(small, data, runs.Clock())
    claims = [
        _claim(
            f"KIP, digits: held-out error with {size} images",
            bound,
            1.0 - results[size][0].accuracies[1],
            1.0,
            kind="bound",
        )
        for size, bound in ((10, 0.05),)
    ]
    caption = (
        "Digits distilled into 10 images for the tangent kernel, beside the random "
        "subset that they start from."
    )
    return claims, Picture(caption, distillation_kip.draw_images(results, data))


def representations(config: Any) -> tuple[list[Claim], Picture]:
    """KRR-ST: a fraction of the error that subsets leave."""
    methods = (SUBSET, DISTILLED)
    small = distillation_krr_st.Config(
        methods=methods,
        num_seeds=1,
        full=False,
        labels_per_class=0,
        seed=config.seed,
    )
    lab = lab_.make_lab(small)
    judge = distillation_krr_st.Judge(lab, small)
    results = {
        name: distillation_krr_st.run_method(lab, judge, name, small)
        for name in methods
    }
    scores = {name: row.scores for name, row in results.items()}
    head = {name: values[..., 0].mean() for name, values in scores.items()}
    claims = [
        _claim(
            f"KRR-ST, digits, 20 images: held-out error over that of {name}",
            *(bound, head[DISTILLED] / head[name], 1.0),
            kind="bound",
        )
        for name, bound in ((SUBSET, 0.75),)
    ]
    caption = (
        "New networks trained on 20 digits: their error to the teacher on held-out "
        "digits, for real images and for distilled ones."
    )
    return claims, Picture(caption, distillation_krr_st.draw(results, scores))
