"""Training of a small language model on pairs: scores, steps, sharding, resuming."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import _common as common
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _preference_data import Batch, PairData
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding

import jaxkit
from jaxkit import ops, preference

Params = Any
Score = Callable[[Params, Any, Any], jax.Array]
Objective = Callable[[Params, "Scored"], jax.Array]


class Scored(NamedTuple):
    """A batch with the two log-probs of every pair under the reference."""

    tokens: Any
    where: Any
    valid: Any
    reference: Any


class History(NamedTuple):
    """What `fit` records: a loss per step, a row of metrics per block."""

    loss: np.ndarray
    metrics: np.ndarray


def make_mesh(num_devices: int, vocab_shards: int) -> Mesh:
    """Makes the axis of the batch and, for a sharded head, that of the vocabulary."""
    count = num_devices or len(jax.devices())
    if vocab_shards == 1:
        return ops.data_mesh(count)
    if count % vocab_shards:
        raise ValueError(
            f"`vocab_shards` must divide the {count} devices, got {vocab_shards}."
        )
    return jax.make_mesh(
        (count // vocab_shards, vocab_shards),
        ("data", "vocab"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[:count],
    )


def make_policy(
    vocab_size: int, features: int, *, seed: int, **options: Any
) -> tuple[nnx.GraphDef, Params]:
    """Builds the small GPT; its head has a multiple of eight rows, to be sharded."""

    def build() -> jaxkit.nn.PreferencePolicy:
        return jaxkit.nn.PreferencePolicy(
            -(-vocab_size // 8) * 8,
            features,
            rngs=nnx.Rngs(seed),
            **options,
        )

    graphdef, _ = nnx.split(nnx.eval_shape(build), nnx.Param)
    init = jax.jit(lambda: nnx.to_pure_dict(nnx.split(build(), nnx.Param)[1]))
    return graphdef, init()


def place(tree: Any, mesh: Mesh) -> Any:
    """Copies the state to the devices: the head in shards, the rest everywhere."""
    specs = partition_specs(tree, mesh)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    # The steps give their arguments away, and a placed array may share its memory.
    return jax.device_put(jax.tree.map(jnp.copy, tree), shardings)


def partition_specs(tree: Any, mesh: Mesh) -> Any:
    """Gives the rows of every leaf named head to the axis of the vocabulary."""

    def spec(path: tuple[Any, ...], _: Any) -> jax.P:
        sharded = "vocab" in mesh.axis_names and _name(path[-1]) == "head"
        return jax.P("vocab") if sharded else jax.P()

    return jax.tree.map_with_path(spec, tree)


def _name(entry: Any) -> str:
    return str(getattr(entry, "key", getattr(entry, "name", entry)))


def make_score(
    graphdef: nnx.GraphDef, params: Params, mesh: Mesh, *, skip_masked: bool = False
) -> Score:
    """Makes the function that scores answers.

    It runs under `shard_map`, each device on its own rows: a head in shards needs
    that, and so does `skip_masked`, whose branches differ from device to device.

    Returns:
      A function of the parameters, tokens `[batch, answers, time]` and the mask of
      the answer tokens; its result has shape `[batch, answers]`.
    """
    axis_name = "vocab" if "vocab" in mesh.axis_names else None

    def local(params: Params, tokens: jax.Array, where: jax.Array) -> jax.Array:
        time = tokens.shape[-1]
        logps = nnx.merge(graphdef, params).log_probs(
            tokens.reshape(-1, time),
            where=where.reshape(-1, time),
            skip_masked=skip_masked,
            axis_name=axis_name,
        )
        return logps.reshape(tokens.shape[:-1])

    rows = jax.P("data")
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(partition_specs(params, mesh), rows, rows),
        out_specs=rows,
    )


def supervised_objective(score: Score) -> Objective:
    """Makes the negative log-likelihood per token of the chosen answers."""

    def objective(params: Params, batch: Scored) -> jax.Array:
        logps = score(params, batch.tokens[:, :1], batch.where[:, :1])[:, 0]
        lengths = answer_lengths(batch.where)[:, 0]
        losses = preference.sft_loss(logps, lengths, where=batch.valid)
        return jnp.sum(losses) / losses.size

    return objective


def preference_objective(
    score: Score, config: preference.PreferenceConfig
) -> Objective:
    """Makes the preference loss of a batch.

    The sum is divided by the size of the batch and not by the number of pairs that
    count, so that the gradients of its parts average to the gradient of the whole.
    """
    # A loss that sorts the batch takes no mask: ties and repeated pairs count there.
    sorts = any(name.startswith("aot") for name in config.loss_types)

    def objective(params: Params, batch: Scored) -> jax.Array:
        logps = score(params, batch.tokens, batch.where)
        losses = preference.preference_loss(
            as_pair(logps, batch.reference),
            config,
            **lengths_of_pair(batch.where),
            where=None if sorts else batch.valid,
        )
        return jnp.sum(losses) / losses.size

    return objective


def as_pair(logps: Any, reference: Any) -> preference.PairLogps:
    """Splits the columns of two arrays `[pairs, 2]`."""
    columns = (logps[:, 0], logps[:, 1], reference[:, 0], reference[:, 1])
    return preference.PairLogps(*map(jnp.asarray, columns))


def answer_lengths(where: Any) -> jax.Array:
    """Counts the answer tokens, at least 1."""
    counts = jnp.sum(jnp.asarray(where), axis=-1, dtype=jnp.int32)
    return jnp.maximum(counts, 1).astype(jnp.float32)


def lengths_of_pair(where: Any) -> dict[str, jax.Array]:
    """Names the two columns of the lengths."""
    lengths = answer_lengths(where)
    return {"chosen_lengths": lengths[:, 0], "rejected_lengths": lengths[:, 1]}


def adamw(
    learning_rate: float, *, num_steps: int, weight_decay: float
) -> optax.GradientTransformation:
    """Makes AdamW on a warm-up and a cosine; it clips, and decays matrices only."""
    warmup = max(1, round(0.1 * num_steps))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup, max(num_steps, warmup + 1)
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            schedule,
            weight_decay=weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        ),
    )


def accumulated(
    optimizer: optax.GradientTransformation, parts: int
) -> optax.GradientTransformation:
    """Averages the gradients of some parts before each update."""
    if parts == 1:
        return optimizer
    return optax.MultiSteps(optimizer, parts).gradient_transformation()


def fit(
    config: common.TrainConfig,
    name: str,
    *,
    objective: Objective,
    params: Params,
    optimizer: optax.GradientTransformation,
    batches: Callable[[int], Iterator[Scored]],
    num_steps: int,
    mesh: Mesh,
    evaluate: Callable[[Params], np.ndarray],
) -> tuple[Params, History]:
    """Trains, with metrics and a checkpoint after every `config.block` steps.

    Args:
      config: the options that every example has.
      name: names the checkpoints and the progress bar.
      objective: the loss of a batch.
      params: the start; stays as it is.
      optimizer: is updated once per part of a step.
      batches: gives the parts of step `i`, whenever it is asked.
      num_steps: how often all parts of a step are gone through.
      mesh: where to compute.
      evaluate: a row of metrics of the parameters.

    Returns:
      The parameters and the records.
    """

    @jax.jit(donate_argnums=(0, 1))
    def update(params: Params, memory: Any, batch: Scored) -> tuple[Any, Any, Any]:
        loss, grads = jax.value_and_grad(objective)(params, batch)
        updates, memory = optimizer.update(grads, memory, params)
        return optax.apply_updates(params, updates), memory, loss

    checkpoints = common.Checkpoints(config, name)
    state = (params, optimizer.init(params))
    done = checkpoints.newest(num_steps)
    if done:
        blocks = -(-done // config.block)
        blank = History(np.zeros(done), np.zeros((blocks + 1, len(METRICS))))
        blank = jax.tree.map(np.float32, blank)
        state, history = checkpoints.restore(done, (state, blank))
        history = jax.tree.map(np.asarray, history)
    state = place(state, mesh)
    if not done:
        history = History(np.zeros(0, np.float32), evaluate(state[0])[None])
    with common.progress(name, num_steps) as advance:
        advance(done)
        while done < num_steps:
            # Blocks end at multiples of their length, also after a resumption.
            stop = min(num_steps, done - done % config.block + config.block)
            losses = []
            for step in range(done, stop):
                for batch in batches(step):
                    *state, loss = update(*state, ops.shard_batch(batch, mesh))
                    losses.append(loss)
                advance(1)
            losses = np.reshape(jax.device_get(losses), (stop - done, -1)).mean(1)
            done = stop
            history = History(
                np.concatenate([history.loss, losses]),
                np.concatenate([history.metrics, evaluate(state[0])[None]]),
            )
            checkpoints.save(done, (tuple(state), history))
    return state[0], history


def make_batches(
    data: PairData,
    reference: np.ndarray,
    *,
    batch_size: int,
    accumulate: int,
    seed: int,
) -> Callable[[int], Iterator[Scored]]:
    """Makes the function that gives the parts of a step."""

    def batches(step: int) -> Iterator[Scored]:
        batch = data.batch(step, batch_size=batch_size, seed=seed)
        size = batch_size // accumulate
        for start in range(0, batch_size, size):
            part = Batch(*(array[start : start + size] for array in batch))
            yield Scored(*part[:3], reference[part.index])

    return batches


def score_data(
    score: Score, params: Params, data: PairData, *, batch_size: int, mesh: Mesh
) -> np.ndarray:
    """Scores every pair once, shape `[pairs, 2]`, in the order of the file."""
    out = np.zeros((len(data), 2), np.float32)
    for batch in data.in_order(batch_size):
        rows = ops.shard_batch((batch.tokens, batch.where), mesh)
        # The last batch of a bucket repeats pairs, which changes nothing here.
        out[batch.index] = score(params, *rows)
    return out


def cached_reference(
    config: common.BaseConfig,
    name: str,
    score: Callable[[Params, PairData], np.ndarray],
    params: Params,
    data: PairData,
) -> np.ndarray:
    """Scores the pairs under the reference, or reads the scores of an earlier run.

    Two numbers a pair, kept in `--output` with a digest of the parameters and of the
    tokens they belong to.
    """
    if config.output is None:
        return score(params, data)
    path = config.output / f"reference_{name}.npz"
    digest = fingerprint((params, [tuple(batch) for batch in data.buckets]))
    if path.exists():
        with np.load(path) as file:
            if str(file["digest"]) == digest:
                return file["logps"]
    logps = score(params, data)
    config.output.mkdir(parents=True, exist_ok=True)
    np.savez(path, logps=logps, digest=digest)
    return logps


def fingerprint(tree: Any) -> str:
    """Digests every byte of a tree of arrays."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


METRICS = (
    "likelihood accuracy",
    "per-token accuracy",
    "reward accuracy",
    "margin",
    "chosen log-prob",
    "rejected log-prob",
    "chosen loss per token",
)
"""What `measure` measures, in its order."""


def measure(logps: np.ndarray, reference: np.ndarray, data: PairData) -> np.ndarray:
    """Averages the metrics over the pairs that are no ties.

    The accuracy by likelihood asks whether the policy finds the chosen answer likelier
    than the rejected one, as a whole or per token; the accuracy by reward, whether
    the policy has moved further towards the chosen one, seen from the reference.
    """
    pair = as_pair(logps, reference)
    where = ~data.ties
    # In nats, whatever the loss makes of them.
    found = preference.preference_metrics(pair, beta=1.0, where=where)
    per_token = logps / data.lengths
    means = [
        logps[:, 0] > logps[:, 1],
        per_token[:, 0] > per_token[:, 1],
        logps[:, 0],
        logps[:, 1],
        -per_token[:, 0],
    ]
    means = [np.mean(values[where]) if where.any() else 0.0 for values in means]
    rewards = [float(found["accuracy"]), float(found["margin"])]
    return np.array([*means[:2], *rewards, *means[2:]], np.float32)
