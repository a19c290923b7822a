"""A step of distillation against its parts and eager PyTorch; gradients in loops."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks._harness import Case, Goal, Program, Work, jax_program
from benchmarks._peers import optional_module
from jaxkit import distillation
from jaxkit.nn import ConvNet, network_functions

__all__ = ["step_cases"]


class Size(NamedTuple):
    """A distillation: synthetic and real images, their shape, blocks and outputs."""

    synthetic: int
    batch: int
    side: int
    channels: int
    widths: tuple[int, ...]
    outputs: int

    @property
    def title(self) -> str:
        """The size in words."""
        widths = "-".join(map(str, self.widths))
        return f"n={self.synthetic}, B={self.batch}, {self.side} pixels, {widths}"


SIZES = {
    "small": (
        Size(20, 256, 8, 1, (16, 32), 64),
        Size(50, 256, 16, 3, (16, 32, 64), 128),
    ),
    "full": (
        Size(20, 256, 8, 1, (16, 32), 64),
        Size(50, 256, 16, 3, (16, 32, 64), 128),
        Size(100, 256, 32, 3, (32, 64, 128), 128),
    ),
    "accelerator": (Size(1000, 1024, 32, 3, (128, 256, 512), 512),),
}
MODELS = 5
RATE, DECAY, MOMENTUM = 0.1, 1e-3, 0.9
STEP_GOALS = (Goal("its parts alone", 1 / 1.5), Goal("torch eager", 1.0))
LOOP_GOALS = (Goal("in lax.scan", 1.0), Goal("in lax.cond", 1.0))


def step_cases(preset: str, max_length: int | None) -> list[Case]:
    """One outer step, and one inner step inside control flow, of every size."""
    sizes = SIZES[preset]
    if max_length is not None:
        sizes = tuple(s for s in sizes if s.batch <= max_length) or (
            sizes[0]._replace(synthetic=4, batch=max_length),
        )
    steps = [
        Case(
            f"KRR-ST step, {size.title}",
            functools.partial(_step_programs, size),
            goals=STEP_GOALS,
            tolerance=2e-2,
        )
        for size in sizes
    ]
    loops = [
        Case(
            f"inner step, {size.title}",
            functools.partial(_loop_programs, size),
            goals=LOOP_GOALS,
            tolerance=1e-2,
        )
        for size in sizes
    ]
    return [*steps, *loops]


def _network(size: Size) -> distillation.Network:
    return network_functions(
        lambda rngs: ConvNet(
            size.channels, size.side, size.outputs, widths=size.widths, rngs=rngs
        )
    )


def _pairs(size: Size) -> tuple[distillation.Synthetic, distillation.Synthetic]:
    """Smooth images, whose features are correlated as those of real ones."""
    keys = jax.random.split(jax.random.key(0), 3)
    count, coarse = size.batch + size.synthetic, max(size.side // 4, 1)
    noise = jax.random.normal(keys[0], (count, coarse, coarse, size.channels))
    images = jax.image.resize(
        noise, (count, size.side, size.side, size.channels), "linear"
    )
    mix = jax.random.normal(keys[1], (images[0].size, size.outputs))
    targets = jnp.tanh(images.reshape(count, -1) @ mix / size.side)
    cut = lambda x: (x[: size.synthetic], x[size.synthetic :])
    (xs, xt), (ys, yt) = cut(images), cut(targets)
    return distillation.Synthetic(xs, ys), distillation.Synthetic(xt, yt)


def _parts(network: distillation.Network, method: str = "auto") -> dict[str, Any]:
    return {
        "network": network,
        "outer_optimizer": optax.adamw(1e-3, weight_decay=0.0),
        "inner_optimizer": optax.chain(
            optax.add_decayed_weights(DECAY), optax.sgd(RATE, momentum=MOMENTUM)
        ),
        "config": distillation.DistillConfig(
            num_models=MODELS, inner_steps=10, method=method
        ),
    }


def _step_programs(size: Size) -> list[Program]:
    network = _network(size)
    parts = _parts(network)
    synthetic, real = _pairs(size)
    state = distillation.init_distill_state(jax.random.key(1), *synthetic, **parts)

    def ours(method: str) -> Callable:
        step = distillation.make_distill_step(**_parts(network, method))

        def run(state: Any, images: jax.Array, targets: jax.Array) -> tuple:
            after, metrics = step(state, images, targets)
            norms = metrics.grad_norm_images, metrics.grad_norm_targets
            return metrics.loss, *norms, _norm(after.synthetic), _norm(after.pool)

        return run

    work = _work(size)
    programs = [
        jax_program(name, ours(method), state, *real, work=work)
        for name, method in (("step", "auto"), ("step, Cholesky", "cholesky"))
    ]
    first = jax.jit(distillation.make_distill_step(**parts))(state, *real)[1]
    model = jax.tree.map(lambda x: x[first.models[0]], state.pool)
    programs.append(_apart(network, model, synthetic, real, work))
    peers = optional_module("torch") and optional_module(
        "benchmarks._torch_distillation"
    )
    if peers and jax.default_backend() == "cpu":
        run = peers.distill_step(model, synthetic, real, (RATE, MOMENTUM, DECAY))
        _check_torch(run, programs[0])
        programs.append(Program("torch eager", run, work, same=False))
    return programs


def _check_torch(run: Callable[[], Any], ours: Program) -> None:
    """Compares the loss and both gradient norms, all that the peer reports."""
    for ours_value, theirs in zip(ours.run()[:3], run(), strict=True):
        error = abs(float(ours_value) - float(theirs)) / abs(float(theirs))
        if not error < 2e-2:
            raise RuntimeError(f"the step of PyTorch differs from ours by {error:.1e}.")


def _norm(tree: Any) -> jax.Array:
    # Something of every array that a step writes, so that none is left out.
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return sum(jnp.vdot(x, x) for x in floats)


def _apart(
    network: distillation.Network,
    model: distillation.Pool,
    synthetic: distillation.Synthetic,
    real: distillation.Synthetic,
    work: Work,
) -> Program:
    """The outer gradient and the inner step as two programs without any branch."""
    optimizer = _parts(network)["inner_optimizer"]

    def outer(synthetic: distillation.Synthetic, real: distillation.Synthetic) -> Any:
        embed = lambda x: network.embed(model.params, model.batch_stats, x)
        features = embed(real.images)
        loss = lambda s: jnp.mean(
            distillation.krr_loss(embed(s.images), s.targets, features, real.targets)
        )
        return jax.value_and_grad(loss)(synthetic)

    def inner(model: distillation.Pool, synthetic: distillation.Synthetic) -> Any:
        return distillation.inner_step(
            model, synthetic, network=network, optimizer=optimizer
        )

    gradient = jax_program("outer", outer, synthetic, real, work=work)
    step = jax_program("inner", inner, model, synthetic, work=work)
    run = lambda: (gradient.run(), step.run())
    return Program("its parts alone", run, work, same=False)


def _loop_programs(size: Size) -> list[Program]:
    network = _network(size)
    optimizer = _parts(network)["inner_optimizer"]
    synthetic, _ = _pairs(size)
    params, stats = network.init(jax.random.key(0))
    model = distillation.Pool(params, stats, optimizer.init(params), jnp.int32(0))
    step = functools.partial(
        distillation.inner_step, network=network, optimizer=optimizer
    )

    def kernels(model: distillation.Pool) -> Any:
        # Not the biases: batch norm takes them out, so their gradients are rounding.
        convs = model.params["convs"]
        return [convs[i]["kernel"] for i in convs], model.params["linear"]["kernel"]

    def scanned(unroll: int) -> Callable:
        def run(model: distillation.Pool, pairs: distillation.Synthetic) -> Any:
            body = lambda carry, _: (step(carry, pairs), None)
            # Two turns, for the compiler takes a loop of one apart.
            return kernels(jax.lax.scan(body, model, length=2, unroll=unroll)[0])

        return run

    def twice(model: distillation.Pool, pairs: distillation.Synthetic) -> Any:
        return kernels(step(step(model, pairs), pairs))

    def guarded(model: distillation.Pool, pairs: distillation.Synthetic) -> Any:
        for _ in range(2):
            model = jax.lax.cond(model.age < 9, step, lambda m, _: m, model, pairs)
        return kernels(model)

    ways = {
        "two steps": twice,
        "scan, unrolled": scanned(2),
        "in lax.scan": scanned(1),
        "in lax.cond": guarded,
    }
    return [
        jax_program(name, way, model, synthetic, work=_inner_work(size, 2))
        for name, way in ways.items()
    ]


def _forward_flops(size: Size) -> float:
    """Flops of one image through the network."""
    side, channels, flops = size.side, size.channels, 0.0
    for width in size.widths:
        flops += 2.0 * 9 * channels * width * side**2
        side, channels = side // 2, width
    return flops + 2.0 * channels * side**2 * size.outputs


def _features(size: Size) -> int:
    return size.widths[-1] * (size.side >> len(size.widths)) ** 2


def _inner_work(size: Size, steps: int) -> Work:
    images = size.side**2 * size.channels * size.synthetic
    flops = 3.0 * steps * _forward_flops(size) * size.synthetic
    return Work(flops, 4.0 * steps * (images + 4 * _features(size) * size.outputs))


def _work(size: Size) -> Work:
    """Real forward, synthetic forward and gradient, the solve, one inner step."""
    inner = _inner_work(size, 1)
    n, p, k = size.synthetic, _features(size), size.outputs
    network = _forward_flops(size) * (size.batch + 2.0 * n)
    solve = 2.0 * (n**2 * p + n**3 / 3) + 4.0 * p * k * (size.batch + n)
    images = size.side**2 * size.channels * (size.batch + 2 * n)
    return Work(inner.flops + network + solve, inner.bytes + 4.0 * images)
