"""Teacher, networks, methods and evaluation of the KRR-ST examples."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import _common as common
import _distillation_data as data_
import _distillation_runs as runs
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _distillation_data import Data

import jaxkit
from jaxkit import distillation

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabConfig(common.TrainConfig):
    """The options that the examples share."""

    dataset: Literal["digits", "cifar-npz", "stand-in"] = common.option(
        "digits", "which images", paper="cifar-npz"
    )
    data: str = common.option("", "the file of cifar-npz")
    count: int = common.option(0, "training images to keep, 0 for all")
    size: int = common.option(32, "side of the images, digits excepted")
    teacher: Literal["convnet", "resnet18"] = common.option(
        "convnet", "the self-supervised teacher", paper="resnet18"
    )
    teacher_widths: tuple[int, ...] = common.option(
        (32, 64), "channels of a convnet teacher"
    )
    outputs: int = common.option(64, "numbers per representation", paper=512)
    projector: tuple[int, ...] = common.option(
        (256, 256), "widths of the head of the teacher", paper=(8192, 8192, 8192)
    )
    teacher_steps: int = common.option(300, "its steps", paper=40_000)
    teacher_batch: int = common.option(128, "its images per step", paper=256)
    widths: tuple[int, ...] = common.option(
        (16, 32), "channels of the networks of the pool", paper=(128, 256, 512)
    )
    num_models: int = common.option(5, "networks in the pool, L", paper=10)
    inner_steps: int = common.option(100, "steps until a reset, Z", paper=1000)
    num_steps: int = common.option(1000, "steps of distillation, T", paper=160_000)
    batch_size: int = common.option(256, "real images per step", paper=1024)
    learning_rate: float = common.option(1e-2, "of AdamW on the set", paper=1e-4)
    augment: bool = common.option(False, "augment real batches", paper=True)
    pretrain_steps: int = common.option(300, "on the distilled set", paper=4000)
    pretrain_batch: int = common.option(0, "pairs per step, 0 for all", paper=256)
    num_seeds: int = common.option(3, "distillations per method")
    num_evaluations: int = common.option(2, "networks trained on each set", paper=3)
    block: int = common.option(250, "steps between checkpoints", paper=1000)
    force: bool = common.option(False, "run on a CPU what needs an accelerator")


class Method(NamedTuple):
    """How a set is made.

    Attributes:
      start: which real images it starts from.
      algorithm: how it goes on; "" leaves the real images as they are.
      changes: of the settings of the algorithm.
    """

    start: str
    algorithm: str = ""
    changes: tuple[tuple[str, Any], ...] = ()


METHODS = {
    "random": Method("random"),
    "k-means, pixels": Method("pixels"),
    "k-means, teacher": Method("teacher"),
    "k-center, teacher": Method("center"),
    "KRR-ST from random": Method("random", "krr_st"),
    "KRR-ST from k-means": Method("teacher", "krr_st"),
    "KRR-ST, images only": Method("teacher", "krr_st", (("learn_targets", False),)),
    "KRR-ST, targets only": Method("teacher", "krr_st", (("learn_images", False),)),
    "KRR-ST, fresh networks": Method("teacher", "krr_st", (("reset", "always_fresh"),)),
    "KRR-ST, counter not reset": Method(
        "teacher", "krr_st", (("reset", "never_recount"),)
    ),
    "FRePo": Method("teacher", "frepo", (("margin_weight", None),)),
    "KIP": Method("teacher", "kip", (("learn_targets", True),)),
}


class Lab(NamedTuple):
    """All that does not depend on the method.

    Attributes:
      config: the options.
      data: images and labels.
      network: of the pool and of the evaluation.
      targets: representations of the training images, standardized, `[N, outputs]`.
      test_targets: those of the held-out images.
      target_fn: the teacher, standardized alike.
      target_mean: what was subtracted.
      target_std: what was divided by.
      pretrain_optimizer: trains the networks, in the pool as in the evaluation.
      clock: the processor time of each phase.
      parts: what :func:`make_parts` has made so far, by algorithm and changes.
    """

    config: LabConfig
    data: Data
    network: distillation.Network
    targets: jax.Array
    test_targets: jax.Array
    target_fn: Callable[[jax.Array], jax.Array]
    target_mean: jax.Array
    target_std: jax.Array
    pretrain_optimizer: optax.GradientTransformation
    clock: runs.Clock
    parts: dict[Any, runs.Parts]


def make_lab(config: LabConfig) -> Lab:
    """Loads the data, trains the teacher and computes the targets."""
    clock = runs.Clock()
    data = data_.load(config.dataset, config.data, size=config.size, count=config.count)
    announce(config, data)
    with clock.phase("teacher"):
        target_fn, targets, mean, std = make_targets(config, data)
        test_targets = distillation.precompute_targets(target_fn, data.test_images)
    network = jaxkit.nn.network_functions(
        lambda rngs: jaxkit.nn.ConvNet(
            data.channels, data.size, config.outputs, widths=config.widths, rngs=rngs
        )
    )
    optimizer = optax.chain(
        optax.add_decayed_weights(1e-3), optax.sgd(0.1, momentum=0.9)
    )
    return Lab(
        config,
        data,
        network,
        targets,
        test_targets,
        target_fn,
        mean,
        std,
        optimizer,
        clock,
        {},
    )


def make_targets(
    config: LabConfig, data: Data
) -> tuple[Callable, jax.Array, jax.Array, jax.Array]:
    """Trains the teacher without labels; gives it, its targets and their scale."""
    raw_fn = train_teacher(config, data)
    raw = distillation.precompute_targets(raw_fn, data.images)
    mean, std = jnp.mean(raw, axis=0), jnp.std(raw, axis=0)
    # A dead coordinate of the teacher has nothing to predict.
    std = jnp.maximum(std, 1e-4 * jnp.max(std))
    target_fn = lambda images: (raw_fn(images) - mean) / std
    return target_fn, (raw - mean) / std, mean, std


def train_teacher(config: LabConfig, data: Data) -> Callable[[jax.Array], jax.Array]:
    """Trains a network to give two views of an image one representation."""
    encoder = jaxkit.nn.network_functions(functools.partial(_encoder, config, data))
    head = jaxkit.nn.network_functions(
        lambda rngs: jaxkit.nn.BarlowTwinsHead(
            config.outputs,
            widths=config.projector,
            first_relu=config.teacher == "convnet",
            affine=config.teacher != "convnet",
            rngs=rngs,
        )
    )
    rate = optax.cosine_decay_schedule(2e-3, config.teacher_steps)
    parts = {
        "encoder": encoder,
        "head": head,
        "optimizer": optax.adamw(rate, weight_decay=1e-5),
    }
    options = {"padding": data.size // 8, "flip": data.augmented}
    augment = functools.partial(distillation.augment_view, **options)
    state = distillation.init_teacher(jax.random.key(config.seed), **parts)
    checkpoints = common.Checkpoints(config, "teacher")
    done = checkpoints.newest(config.teacher_steps)
    if done:
        state = runs.unpack(checkpoints.restore(done, runs.pack(state)))
    with common.progress("teacher", config.teacher_steps) as advance:
        while done < config.teacher_steps:
            length = min(config.block, config.teacher_steps - done)
            state, _ = distillation.train_teacher(
                state,
                data.images,
                num_steps=length,
                batch_size=min(config.teacher_batch, len(data.images)),
                augment=augment,
                **parts,
            )
            done += length
            checkpoints.save(done, runs.pack(state))
            advance(length)
    return distillation.make_target_fn(state, encoder=encoder)


def _encoder(config: LabConfig, data: Data, rngs: Any) -> Any:
    if config.teacher == "resnet18":
        if config.outputs != 512:
            raise ValueError(f"resnet18 gives 512 outputs, got {config.outputs}.")
        return jaxkit.nn.ResNet18(data.channels, rngs=rngs)
    widths = config.teacher_widths
    return jaxkit.nn.ConvNet(
        data.channels, data.size, config.outputs, widths=widths, rngs=rngs
    )


def choose(lab: Lab, start: str, size: int, key: jax.Array) -> jax.Array:
    """Chooses the real images that a set starts from."""
    images, targets = lab.data.images, lab.targets
    if start == "random":
        return distillation.random_subset(key, images, num_points=size)
    if start == "center":
        first = jax.random.randint(key, (), 0, len(images))
        return distillation.kcenter_greedy(targets, num_points=size, first=first)
    features = images if start == "pixels" else targets
    return distillation.kmeans_subset(key, features, num_points=size)


def make_set(
    lab: Lab, name: str, size: int, seed: int
) -> tuple[distillation.Synthetic, distillation.Synthetic, np.ndarray]:
    """Makes a set by one method.

    Returns:
      The real images it starts from, the set, and the outer loss before every step.
    """
    config, method = lab.config, METHODS[name]
    if method.algorithm and getattr(config, "init", ""):
        method = method._replace(start=config.init)
    subset_key, run_key = jax.random.split(jax.random.key(config.seed + seed))
    with lab.clock.phase("subsets"):
        rows = choose(lab, method.start, size, subset_key)
        start = distillation.Synthetic(lab.data.images[rows], lab.targets[rows])
    if not method.algorithm:
        return start, start, np.zeros(0, np.float32)
    parts = make_parts(lab, method)
    checkpoints = common.Checkpoints(config, f"{name}_{size}_{seed}")
    first = dict(parts)
    if checkpoints.newest(config.num_steps):
        # A checkpoint brings its own pool: spare the training of the first one.
        first["config"] = dataclasses.replace(parts["config"], reset="always_fresh")
    with lab.clock.phase("distillation"):
        online = config.augment and lab.data.augmented
        state, losses = runs.distill(
            distillation.init_distill_state(run_key, *start, **first),
            (lab.data.images, None if online else lab.targets),
            parts,
            num_steps=config.num_steps,
            batch_size=min(config.batch_size, len(lab.data.images)),
            checkpoints=checkpoints,
            block=config.block,
            label=f"{name}, {size} images, seed {seed}",
            augment=distillation.crop_and_flip if online else None,
            target_fn=lab.target_fn if online else None,
        )
    return start, state.synthetic, losses


def make_parts(lab: Lab, method: Method) -> runs.Parts:
    """Gives network, optimizers and settings of a method, the same objects each time."""
    config = lab.config
    # Compiled steps are found again by the identity of these objects.
    known = (method.algorithm, method.changes)
    if known in lab.parts:
        return lab.parts[known]
    rate = optax.linear_schedule(
        config.learning_rate, 1e-3 * config.learning_rate, config.num_steps
    )
    shared = dict(method.changes)
    if method.algorithm != "kip":
        shared |= {"num_models": config.num_models, "inner_steps": config.inner_steps}
    make = getattr(distillation.DistillConfig, method.algorithm)
    lab.parts[known] = {
        "network": kernel if method.algorithm == "kip" else lab.network,
        "outer_optimizer": optax.adamw(rate, weight_decay=0.0),
        "inner_optimizer": lab.pretrain_optimizer,
        "config": make(**shared),
    }
    return lab.parts[known]


def kernel(x: jax.Array, y: jax.Array) -> jax.Array:
    """The tangent kernel of one hidden layer of ReLUs."""
    flat = lambda images: images.reshape(images.shape[0], -1)
    return distillation.fc_nngp_ntk(flat(x), flat(y), depth=1).ntk


def train_on(
    lab: Lab, synthetic: distillation.Synthetic, key: jax.Array
) -> tuple[Any, Any]:
    """Pre-trains a new network on a set, as its users do."""
    config = lab.config
    with lab.clock.phase("evaluation"):
        return distillation.pretrain(
            key,
            synthetic,
            network=lab.network,
            optimizer=lab.pretrain_optimizer,
            num_steps=config.pretrain_steps,
            batch_size=config.pretrain_batch or None,
        )


@functools.partial(jax.jit, static_argnames="network")
def errors(
    network: distillation.Network,
    model: tuple[Any, Any],
    synthetic: distillation.Synthetic,
    images: jax.Array,
    targets: jax.Array,
) -> distillation.RepresentationError:
    """Averages both errors over held-out images."""
    each = distillation.representation_mse(network, *model, synthetic, images, targets)
    return jax.tree.map(jnp.mean, each)


def representation_errors(
    lab: Lab, synthetic: distillation.Synthetic, model: tuple[Any, Any]
) -> tuple[float, float]:
    """Measures both errors of a network that was trained on a set."""
    held_out = lab.data.test_images, lab.test_targets
    with lab.clock.phase("evaluation"):
        error = errors(lab.network, model, synthetic, *held_out)
        return float(error.head), float(error.krr)


@functools.partial(jax.jit, static_argnames="num_classes")
def probe_accuracy(
    features: jax.Array,
    labels: jax.Array,
    test_features: jax.Array,
    test_labels: jax.Array,
    *,
    num_classes: int,
) -> jax.Array:
    """Gives the test accuracy of a linear probe; its ridge is chosen on the labels."""
    half = jnp.arange(labels.size) % 2 == 0

    def score(ridge: jax.Array, where: jax.Array, x: jax.Array) -> jax.Array:
        return distillation.linear_probe(
            features, labels, x, num_classes=num_classes, ridge=ridge, where=where
        )

    def hits(ridge: jax.Array) -> jax.Array:
        total = 0.0
        for where in (half, ~half):
            found = jnp.argmax(score(ridge, where, features), -1) == labels
            total += jnp.sum(jnp.where(where, False, found))
        return total

    ridges = jnp.array(RIDGES)
    best = ridges[jnp.argmax(jax.vmap(hits)(ridges))]
    scores = score(best, jnp.ones_like(half), test_features)
    return jnp.mean(jnp.argmax(scores, -1) == test_labels)


def operations(config: LabConfig, data: Data, num_synthetic: int) -> float:
    """Counts floating-point operations of one step of distillation."""
    images, n = min(config.batch_size, len(data.images)), num_synthetic
    student = _multiply_adds(config.widths, data)
    features = config.widths[-1] * (data.size >> len(config.widths)) ** 2
    teacher = 0.0
    if config.augment and data.augmented:
        teacher = 6.3e8 * (data.size / 32) ** 2
        if config.teacher == "convnet":
            teacher = _multiply_adds(config.teacher_widths, data)
    solve = n * n * features + 2 * images * features * config.outputs
    return 2.0 * (images * (student + teacher) + 5 * n * student + solve)


def _multiply_adds(widths: tuple[int, ...], data: Data) -> float:
    total, channels = 0.0, data.channels
    for depth, width in enumerate(widths):
        total += 9 * channels * width * (data.size >> depth) ** 2
        channels = width
    return total


def announce(config: LabConfig, data: Data) -> None:
    """Says how long a large run takes; refuses to begin one on a CPU."""
    size = getattr(config, "num_synthetic", 0) or max(getattr(config, "sizes", (100,)))
    step = operations(config, data, size)
    total = config.num_steps * config.num_seeds * step
    if total < 1e15:
        return
    hours = total / 3.6e3 / 1e14
    common.console().print(
        f"{step / 1e12:.2g} TFLOP a step, {total / 1e15:.3g} PFLOP for {config.num_seeds} "
        f"distillations of one method: about {hours / 2:.2g} to {hours:.2g} hours at 200 "
        "to 100 TFLOP/s, the teacher and the evaluation apart."
    )
    if jax.default_backend() == "cpu" and not config.force:
        raise SystemExit(
            "This needs an accelerator; --force runs it on the CPU anyway."
        )
