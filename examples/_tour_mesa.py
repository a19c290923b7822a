"""The claims about mesa-optimization and linear attention in the tour."""

from typing import Any

import _common as common
import _mesa_training as training
import jax
import jax.numpy as jnp
import mesa_capability
import mesa_full_one
import mesa_gradient_flow
import mesa_random_init
import numpy as np
from _claims import Claim, Picture

from jaxkit import mesa, ops

FORMS = ("chunked", "parallel", "recurrent", "associative")


def run(config: common.TrainConfig) -> tuple[list[Claim], list[Picture]]:
    """Measures every claim of the system."""
    with jax.enable_x64(True):
        claims = [*exact_limits(), closed_form(), conserved(), corollary(), *forms()]
    parts = (sampled(config), full_one(), random_start(config), capability(config))
    for more, _ in parts:
        claims += more
    return claims, [picture for _, picture in parts]


def _claim(statement: str, *values: Any, **options: Any) -> Claim:
    return Claim("mesa", statement, *map(float, values), **options)


def exact_limits() -> list[Claim]:
    """Theorem 4.1: the flow of all entries of A and B ends at c2 / c1."""
    claims = []
    for law in ("gaussian", "sparse"):
        moments = mesa_capability.MOMENTS[law](5)
        _, c2 = mesa.flow_constants(moments, length=100)
        start = mesa.init_diagonal(5, a=0.5, b=1.5, dtype=jnp.float64)
        times = np.linspace(0.0, 20.0, 21) / float(c2)
        a, b = mesa_random_init.follow(
            jax.tree.map(lambda leaf: leaf[None], start), moments, times, length=100
        )
        product = jnp.mean(jnp.diagonal(a[0, -1]) * jnp.diagonal(b[0, -1]))
        limit = mesa.limit_product(moments, length=100)
        title = f"{law}: exact flow ends at ab = c2 / c1 (T = 100)"
        claims.append(_claim(title, limit, product, 1e-6))
    return claims


def closed_form() -> Claim:
    """The solution in closed form against an adaptive integrator."""
    c1, c2 = mesa.flow_constants(mesa.gaussian_moments(5), length=100)
    times = jnp.linspace(0.0, 8.0, 9) / c2
    starts = jnp.array([[0.1, 0.5, 2.0, -0.3], [0.1, 1.5, 2.0, 0.7]])
    exact = mesa.reduced_flow_solution(starts[0], starts[1], c1, c2, times[:, None])

    def field(time: jax.Array, ab: tuple) -> tuple:
        return mesa.reduced_flow_rhs(*ab, c1, c2)

    path = jax.jit(lambda: ops.integrate(field, tuple(starts), times, substeps=400))()
    error = max(jnp.max(jnp.abs(x - y)) for x, y in zip(exact, path, strict=True))
    return _claim(
        "closed-form flow equals Runge-Kutta (largest error)",
        *(0.0, error, 1e-8),
        kind="absolute",
    )


def conserved() -> Claim:
    """The balance along the flow of a finite batch from a random start."""
    key_x, key_params = jax.random.split(jax.random.key(0))
    x = mesa.sample_ar_sequences(
        key_x, batch_shape=(6,), length=6, dim=2, dtype=jnp.complex128
    )
    params = mesa.init_gaussian(key_params, 2, stddev=0.5, dtype=jnp.float64)

    @jax.jit
    def follow(params: mesa.LSAParams) -> mesa.Trajectory:
        return mesa.gradient_flow(
            lambda p: jnp.mean(mesa.ar_loss(p, x, implementation="quadratic")),
            params,
            jnp.linspace(0.0, 1.0, 6),
            method="dopri5",
            rtol=1e-11,
            atol=1e-13,
        )

    balance = mesa.balance(follow(params).params)
    drift = jnp.max(jnp.abs(balance - balance[0])) / jnp.abs(balance[0])
    return _claim(
        "|KQ|\u00b2 - |PV|\u00b2 is conserved, any batch and start (relative drift)",
        *(0.0, drift, 1e-8),
        kind="absolute",
    )


def corollary() -> Claim:
    """Corollary 4.1: the trained layer takes one step of gradient descent."""
    x = mesa.sample_ar_sequences(
        jax.random.key(1), batch_shape=(4,), length=12, dim=3, dtype=jnp.complex128
    )
    params = mesa.init_diagonal(3, a=0.6, b=0.35, dtype=jnp.float64)
    weights = mesa.ols_gradient_step(x, step_size=0.6 * 0.35)
    step = jnp.einsum("ntij,ntj->nti", weights, x[:, 1:-1])
    error = jnp.max(jnp.abs(mesa.lsa_predict(params, x) - step))
    return _claim(
        "the layer is one gradient step on least squares (largest difference)",
        *(0.0, error, 1e-12),
        kind="absolute",
    )


def forms() -> list[Claim]:
    """The forms of linear attention, of the delta rule and of the mesa layer."""
    keys = jax.random.split(jax.random.key(2), 4)
    query, key, value = (
        jax.random.normal(k, (70, 1, 4), jnp.complex128) for k in keys[:3]
    )
    decay = -jax.random.uniform(keys[3], (70, 1), jnp.float64)

    def attend(form: str) -> jax.Array:
        return ops.linear_attention(
            query, key, value, log_decay=decay, implementation=form, chunk_size=16
        )

    exact = attend("quadratic")
    error = max(jnp.max(jnp.abs(attend(form) - exact)) for form in FORMS)
    beta = jnp.full((70, 1), 0.1)
    delta = [
        ops.delta_rule(query, key, value, beta, implementation=form, chunk_size=16)
        for form in ("chunked", "recurrent")
    ]
    layer = [
        ops.mesa_attention(query, key, value, ridge=0.1, solver=solver)
        for solver in ("rls", "solve")
    ]
    gaps = {
        "the five forms of linear attention agree": error,
        "the two forms of the delta rule agree": jnp.max(jnp.abs(delta[0] - delta[1])),
        "recursion and Cholesky give one mesa layer": jnp.max(
            jnp.abs(layer[0] - layer[1])
        ),
    }
    return [
        _claim(f"{statement} (largest difference)", 0.0, gap, 1e-11, kind="absolute")
        for statement, gap in gaps.items()
    ]


def sampled(config: Any) -> tuple[list[Claim], Picture]:
    """Figures 1 to 3: training on sequences."""
    laws = [law for law in training.LAWS if law.scale == 1.0]
    small = mesa_gradient_flow.Config(
        **{
            name: getattr(config, name)
            for name in (
                "count",
                "length",
                "epochs",
                "seed",
                "block",
                "output",
                "resume",
            )
        }
    )
    results = {law.slug: mesa_gradient_flow.run(small, law) for law in laws}
    claims = []
    for law, tolerance in zip(laws, (0.08, 0.01), strict=True):
        r = results[law.slug]
        title = f"{law.name}: training on sequences ends there (T = {config.length})"
        claims.append(_claim(title, r["limit"], r["sampled"][-1, 1], tolerance))
    x = mesa.sample_ar_sequences(
        jax.random.key(config.seed), batch_shape=(20_000,), length=20, dim=5
    )
    moments = mesa.gaussian_moments(5)
    product = mesa.limit_product(moments, length=100)
    ratio = training.ratio(mesa.init_diagonal(5, a=1.0, b=product), x)
    expected = mesa.expected_ratio(moments, product)
    title = "gaussian: prediction / truth, 1/5 as training length grows (T = 100)"
    claims.append(_claim(title, expected, ratio, 0.02))
    caption = (
        "Training on sequences (solid) against exact descent (dashed) and the "
        "closed-form flow (dotted); the gray lines are the limits at this length and "
        "at infinite length."
    )
    return claims, Picture(caption, mesa_gradient_flow.draw(results, laws))


def full_one() -> tuple[list[Claim], Picture]:
    """Figure 7 and theorem 4.3: the vector of ones."""
    reference = mesa_full_one.REFERENCES[0]
    _, measured, limits = mesa_full_one.compare(reference)
    tag = f"T{reference.length}/d{reference.dim}/{reference.start[0]:g}"
    masked = mesa.limit_product(mesa.ones_moments(5), length=100)
    off = reference.alpha_off
    claims = [
        _claim(
            "ones: free training ends off the diagonal, A_12",
            off,
            measured[f"{tag}/alpha'"],
            1e-6,
        ),
        _claim(
            "ones: loss after free training",
            reference.loss,
            measured[f"{tag}/loss"],
            1e-8,
        ),
        _claim(
            "ones: masked training ends at ab = c2 / c1",
            masked,
            measured[f"{tag}/masked ab"],
            1e-6,
        ),
    ]
    caption = (
        "Vector of ones: the exact flow leaves the diagonal and reaches a lower loss; "
        "with masked gradients it stays diagonal."
    )
    return claims, Picture(caption, mesa_full_one.draw_exact(limits, reference))


def random_start(config: Any) -> tuple[list[Claim], Picture]:
    """Figures 5 and 6: the diagonal emerges from noise."""
    small = mesa_random_init.Config(seed=config.seed)
    flows = {
        name: mesa_random_init.exact_flow(small, law)
        for name, law in mesa_random_init.LAWS.items()
    }
    flow = flows["gaussian"]
    worst = np.max(np.abs(flow["products"][:, -1] - flow["limit"]))
    rest = max(flow["off A"][:, -1].max(), flow["off B"][:, -1].max())
    claims = [
        _claim(
            "random start: every coordinate ends at c2 / c1 (largest error)",
            0.0,
            worst,
            1e-6,
            kind="absolute",
        ),
        _claim(
            "random start: the off-diagonal entries vanish (largest)",
            0.0,
            rest,
            1e-5,
            kind="absolute",
        ),
    ]
    caption = (
        "Random start, exact flow: the coordinates reach one product at different "
        "times; off-diagonal entries decay, but for sparse tokens those of A stay."
    )
    figure = mesa_random_init.draw_curves(small, flows, {})
    return claims, Picture(caption, figure)


def capability(config: Any) -> tuple[list[Claim], Picture]:
    """Theorem 4.2: the risk that context does not remove."""
    small = mesa_capability.Config(seed=config.seed)
    results = {
        law: mesa_capability.measure(small, law) for law in mesa_capability.MOMENTS
    }
    claims = []
    for law, asymptote in (("gaussian", 0.4), ("uniform", 0.16), ("rademacher", 0.0)):
        risk = results[law]
        title = f"{law}: relative risk at t = 100 (t to infinity: {asymptote:g})"
        tolerance = 4 * risk.error[98]
        values = (risk.theory[98], risk.layer[98], tolerance)
        claims.append(_claim(title, *values, kind="absolute"))
    risk = results["gaussian"]
    title = "gaussian: the mesa layer beats one step (risk at t = 20)"
    claims.append(_claim(title, risk.layer[18], risk.mesa[18], 1e-3, kind="bound"))
    caption = (
        "Relative risk of the trained step and of the mesa layer on the same "
        "sequences, against the position in the sequence."
    )
    return claims, Picture(caption, mesa_capability.draw(results))
