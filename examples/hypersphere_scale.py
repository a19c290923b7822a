"""Many classes, up to a million and more: slices, active classes, shards, samples.

Losses: SFace (Zhong et al., *SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face
Recognition*, IEEE Transactions on Image Processing 2021) and ArcFace, on synthetic
embeddings: unit vectors at a fixed cosine to the direction of their identity. What
is trained are the class weights, by plain gradient descent, on a few batches over
and over; the gradient of the embeddings is computed as a network would need it.

Four ways of computing the same step:

    all cosines   the matrix of cosines and normalized weights in memory
    streaming     a slice of classes at a time; forward and backward in one pass (SFace)
    active set    of each slice only the classes that some embedding is close to
    sampled       a random tenth of the classes, with those of the batch (Partial-FC)

The first three end at the same class weights, up to rounding and the bound of the
active set, and the JSON file says how far from those of streaming each way ends; the
last trains on fewer negatives. The first is left out where the matrix would be large.
Classes are spread over all devices and samples over `--data-devices` of them; class
weights, their gradient and the updates never leave their device.

How to read the table: times are related to streaming, in the same run. The memory is
what the compiler reserves on one device beside its class weights. Their gradient is
part of it, twice: that of the device itself and the sum over the data axis.

Command: python examples/hypersphere_scale.py --output outputs/scale
On four virtual CPU devices:
    JAX_NUM_CPU_DEVICES=4 python examples/hypersphere_scale.py --data-devices 2
Time: about a minute on two CPU cores; the paper preset wants an accelerator.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import _common as common
import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import hypersphere, ops

WAYS = ("all cosines", "streaming", "active set", "sampled")
LOSSES: dict[str, Any] = {
    "sface": hypersphere.SFaceConfig(),
    "arcface": hypersphere.MarginConfig.arcface(),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.BaseConfig):
    """The options."""

    classes: int = common.option(40_960, "identities", paper=1_000_000)
    dim: int = common.option(128, "features of an embedding", paper=512)
    batch: int = common.option(256, "embeddings per step", paper=512)
    batches: int = common.option(2, "batches that are repeated")
    steps: int = common.option(10, "steps of gradient descent", paper=50)
    rate: float = common.option(0.002, "step size, for class weights of length 1")
    cosine: float = common.option(0.7, "of embeddings to their identity")
    loss: str = common.option("sface", "sface or arcface")
    chunk: int = common.option(1024, "classes of a slice", paper=8192)
    active: int = common.option(128, "most active classes of a slice", paper=1024)
    sampled: float = common.option(0.1, "share of the classes that are sampled")
    data_devices: int = common.option(1, "devices along the data axis")
    dtype: str = common.option("float32", "of the products", paper="bfloat16")
    dense_limit: float = common.option(1e8, "most cosines to keep in memory")


def make_mesh(config: Config) -> jax.sharding.Mesh:
    """Spreads classes over all devices that the samples leave."""
    if jax.device_count() % config.data_devices:
        raise ValueError(
            f"`data_devices` must divide the {jax.device_count()} devices, "
            f"got {config.data_devices}."
        )
    shape = config.data_devices, jax.device_count() // config.data_devices
    if config.classes % shape[1]:
        raise ValueError(
            f"`classes` must be a multiple of the {shape[1]} devices that share them, "
            f"got {config.classes}."
        )
    auto = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh(shape, ("data", "classes"), axis_types=auto)


def make_data(config: Config, mesh: jax.sharding.Mesh) -> tuple[jax.Array, ...]:
    """Draws class weights ``[classes, dim]`` and batches of embeddings and labels."""
    place = lambda *axes: jax.NamedSharding(mesh, jax.P(*axes))
    keys = jax.random.split(jax.random.key(config.seed), 4)

    @jax.jit(out_shardings=(place("classes"), place(None, "data"), place(None, "data")))
    def draw() -> tuple[jax.Array, ...]:
        weights = jax.random.normal(keys[0], (config.classes, config.dim))
        weights *= config.dim**-0.5
        shape = config.batches, config.batch
        labels = jax.random.randint(keys[1], shape, 0, config.classes)
        draw_unit = lambda key: ops.l2_normalize(
            jax.random.normal(key, (*shape, config.dim))
        )
        # A batch never has two directions for one identity: labels hardly repeat.
        identity, noise = draw_unit(keys[2]), draw_unit(keys[3])
        rest = (1.0 - config.cosine**2) ** 0.5
        return weights, config.cosine * identity + rest * noise, labels

    return draw()


def make_losses(config: Config, mesh: jax.sharding.Mesh) -> dict[str, Callable]:
    """Gives the ways that fit, the one to compare with first.

    Each is a function of embeddings, weights, labels and a key.
    """
    loss, dtype = LOSSES[config.loss], jnp.dtype(config.dtype)
    shard = lambda **sizes: hypersphere.make_sharded_loss(
        loss, mesh, config.classes, compute_dtype=dtype, **sizes
    )
    streaming = shard(class_chunk=config.chunk)
    active = shard(class_chunk=config.chunk, active_limit=config.active)
    ways = {
        "streaming": lambda x, w, labels, key: streaming(x, w, labels),
        "all cosines": lambda x, w, labels, key: hypersphere.hypersphere_loss(
            x, w, labels, loss, compute_dtype=dtype
        ),
        "active set": lambda x, w, labels, key: active(x, w, labels),
        "sampled": sampled_loss(config, mesh),
    }
    if config.batch * config.classes > config.dense_limit:
        ways.pop("all cosines")
    return ways


def sampled_loss(config: Config, mesh: jax.sharding.Mesh) -> Callable:
    """Maps a loss of sampled classes: every device draws from those it holds."""
    num_shards = mesh.shape["classes"]

    def local(x: jax.Array, w: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        rows, shard = len(w), jax.lax.axis_index("classes")
        everyone = jax.lax.all_gather(labels, "data", tiled=True)
        held = lambda labels: (labels // rows == shard) & (labels >= 0)
        count = max(int(config.sampled * rows), min(len(everyone), rows))
        drawn = hypersphere.sample_classes(
            jax.random.fold_in(key, shard),
            everyone - shard * rows,
            num_classes=rows,
            num_sampled=count,
            where=held(everyone),
        )
        # Labels count the classes drawn by all devices, one device after the other.
        mine = jnp.searchsorted(drawn.indices, labels - shard * rows) + shard * count
        new = jax.lax.psum(jnp.where(held(labels), mine, 0), "classes")
        new = jnp.where(labels >= 0, new, -1)
        return hypersphere.class_sharded_loss(
            x,
            w[drawn.indices],
            new,
            LOSSES[config.loss],
            num_classes=num_shards * count,
            data_axis="data",
            class_chunk=config.chunk,
            compute_dtype=jnp.dtype(config.dtype),
        )

    specs = jax.P("data"), jax.P("classes"), jax.P("data"), jax.P()
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=jax.P("data"))


def make_step(config: Config, loss: Callable) -> Callable:
    """Gives a step of gradient descent, which overwrites the class weights."""

    def total(x: jax.Array, w: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        return ops.masked_mean(loss(x, w, labels, key))

    @jax.jit(donate_argnums=0)
    def step(w: jax.Array, x: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        slope = jax.value_and_grad(total, argnums=(0, 1))
        value, (dx, dw) = slope(x, w, labels, key)
        # The mean over the batch makes the gradient of one class small.
        return w - config.rate * config.batch * dw, value, jnp.linalg.norm(dx)

    return step


def run(config: Config, name: str, loss: Callable, data: tuple) -> dict[str, Any]:
    """Trains one way; times the steps after the first."""
    weights, batches, labels = data
    w = weights.copy()
    key = jax.random.key(config.seed + 1)
    args = (w, batches[0], labels[0], key)
    compiled = make_step(config, loss).lower(*args).compile()
    seconds = []
    with common.progress(name, config.steps) as advance:
        for index, key_now in enumerate(jax.random.split(key, config.steps)):
            which = index % config.batches
            start = time.perf_counter()
            w, value, _ = jax.block_until_ready(
                compiled(w, batches[which], labels[which], key_now)
            )
            seconds.append(time.perf_counter() - start)
            advance(1)
    memory = compiled.memory_analysis().temp_size_in_bytes
    return {
        "seconds": float(np.median(seconds[1:] or seconds)),
        "memory": memory / 2**20,
        "loss": float(value),
        "weights": w,
    }


def measure(
    config: Config, w: jax.Array, data: tuple
) -> hypersphere.HypersphereMetrics:
    """Watches the first batch."""
    _, batches, labels = data
    return hypersphere.loss_with_metrics(
        batches[0],
        w,
        labels[0],
        LOSSES[config.loss],
        class_chunk=config.chunk,
    )[1]


def main(config: Config) -> dict[str, float]:
    """Runs all ways on the same data and compares them."""
    if config.loss not in LOSSES:
        raise ValueError(f"`loss` must be one of {', '.join(LOSSES)}.")
    mesh = make_mesh(config)
    data = make_data(config, mesh)
    before = measure(config, data[0], data)
    results = {"before/target cosine": float(before.mean_target_cos)}
    rows, exact = [], data[0]
    for name, loss in make_losses(config, mesh).items():
        out = run(config, name, loss, data)
        metrics = measure(config, out["weights"], data)
        if name == "streaming":
            exact = out["weights"]
        results |= {
            f"{name}/{key}": float(value)
            for key, value in (
                ("seconds", out["seconds"]),
                ("memory MiB", out["memory"]),
                ("loss", out["loss"]),
                ("target cosine", metrics.mean_target_cos),
                ("accuracy", metrics.accuracy),
                ("active", metrics.active_fraction),
            )
        }
        change = jnp.max(jnp.abs(out["weights"] - exact))
        results[f"{name}/difference"] = float(change)
    unit = results["streaming/seconds"]
    for name in WAYS:
        if f"{name}/seconds" in results:
            keys = ("memory MiB", "loss", "target cosine", "accuracy", "active")
            row = [results[f"{name}/{key}"] for key in keys]
            rows.append([name, results[f"{name}/seconds"] / unit, *row])
    common.print_table(
        f"{config.loss}, {config.classes} classes on a mesh of {dict(mesh.shape)}",
        ["way", "time", "MiB", "loss", "target cosine", "accuracy", "active share"],
        rows,
        caption=f"target cosine before: {before.mean_target_cos:.3f}",
    )
    common.save_json(config, "hypersphere_scale", results)
    return results


if __name__ == "__main__":
    main(common.parse(Config))
