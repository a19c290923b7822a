"""Trains an embedding network with wrong labels, and verifies unseen classes.

Losses of one kind, all seeds and all rates of wrong labels share a compiled program:
numbers, labels and seeds are its arguments.
"""

import functools
from typing import Any, NamedTuple

import _common as common
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _hypersphere_data import Images
from flax import nnx

from jaxkit import hypersphere, ops
from jaxkit.nn import EmbeddingNet, HypersphereHead
from jaxkit.typing import PyTree


class Recipe(NamedTuple):
    """How to train; all of it is static.

    Attributes:
      features: size of the embeddings.
      batch_size: images of a step; what is left of an epoch is left out.
      num_steps: steps in all.
      learning_rate: the peak, after 5 % of the steps; a cosine leads to 0.
      weight_decay: of all parameters, class weights included.
      shift: images move by up to so many pixels.
    """

    features: int
    batch_size: int
    num_steps: int
    learning_rate: float
    weight_decay: float
    shift: int = 2


class Task(NamedTuple):
    """What to train on.

    Attributes:
      images: `[N, side, side, 1]`.
      labels: the labels to train on, some wrong, `[N]`.
      seed: of start, order and shifts.
    """

    images: jax.Array
    labels: jax.Array
    seed: jax.Array


class State(NamedTuple):
    """All that training changes."""

    params: PyTree
    stats: PyTree
    optimizer: PyTree
    step: jax.Array


class Model(nnx.Module):
    """The network and the class weights."""

    def __init__(self, side: int, num_classes: int, features: int, *, rngs: nnx.Rngs):
        self.net = EmbeddingNet(1, side, features, rngs=rngs)
        self.head = HypersphereHead(features, num_classes, rngs=rngs)


def make_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Momentum, clipped gradients, weight decay, a short warm-up and a cosine."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, recipe.num_steps // 20, recipe.num_steps
    )
    return optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.add_decayed_weights(recipe.weight_decay),
        optax.sgd(rate, momentum=0.9),
    )


def start(recipe: Recipe, side: int, num_classes: int, seed: int) -> State:
    """Draws the parameters."""
    model = Model(side, num_classes, recipe.features, rngs=nnx.Rngs(seed))
    params, stats = (
        nnx.to_pure_dict(nnx.state(model, kind)) for kind in (nnx.Param, nnx.BatchStat)
    )
    optimizer = make_optimizer(recipe).init(params)
    return State(params, stats, optimizer, jnp.zeros((), jnp.int32))


@functools.cache
def _graph(side: int, num_classes: int, features: int) -> nnx.GraphDef:
    make = lambda: Model(side, num_classes, features, rngs=nnx.Rngs(0))
    return nnx.split(nnx.eval_shape(make), nnx.Param, nnx.BatchStat)[0]


def _model(params: PyTree, stats: PyTree, side: int) -> Model:
    weight = params["head"]["weight"]
    return nnx.merge(_graph(side, *weight.shape), params, stats)


def _batch(task: Task, recipe: Recipe, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws the images of a step, each moved by a few pixels, and their labels."""
    count, side = task.labels.shape[0], task.images.shape[1]
    per_epoch = count // recipe.batch_size
    key = jax.random.key(task.seed)
    order_key = jax.random.fold_in(key, step // per_epoch)
    order = jax.random.permutation(jax.random.fold_in(order_key, 0), count)
    first = (step % per_epoch) * recipe.batch_size
    rows = jax.lax.dynamic_slice_in_dim(order, first, recipe.batch_size)
    room = ((0, 0), (recipe.shift,) * 2, (recipe.shift,) * 2, (0, 0))
    images = jnp.pad(task.images[rows], room)
    shift_key = jax.random.fold_in(jax.random.fold_in(key, step), 1)
    corners = jax.random.randint(
        shift_key, (recipe.batch_size, 2), 0, 2 * recipe.shift + 1
    )
    crop = lambda image, corner: jax.lax.dynamic_slice(
        image, (*corner, 0), (side, side, 1)
    )
    return jax.vmap(crop)(images, corners), task.labels[rows]


@functools.partial(jax.jit, static_argnames=("recipe", "length"), donate_argnums=0)
def _run(
    state: State, task: Task, loss: Any, *, recipe: Recipe, length: int
) -> tuple[State, jax.Array]:
    """Takes some steps; returns their mean losses too."""
    optimizer = make_optimizer(recipe)

    def one_step(state: State, _: None) -> tuple[State, jax.Array]:
        images, labels = _batch(task, recipe, state.step)

        def objective(params: PyTree) -> tuple[jax.Array, PyTree]:
            model = _model(params, state.stats, images.shape[1])
            embeddings = model.net(images, train=True)
            values = hypersphere.hypersphere_loss(
                embeddings, model.head.weight[...], labels, loss
            )
            stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
            return ops.masked_mean(values), stats

        (value, stats), gradient = jax.value_and_grad(objective, has_aux=True)(
            state.params
        )
        updates, memory = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, stats, memory, state.step + 1), value

    return jax.lax.scan(one_step, state, length=length)


def train(
    config: common.TrainConfig, name: str, task: Task, loss: Any, recipe: Recipe
) -> State:
    """Trains in compiled blocks, with a checkpoint after each."""
    side, num_classes = task.images.shape[1], int(task.labels.max()) + 1
    state = start(recipe, side, num_classes, int(task.seed))
    checkpoints = common.Checkpoints(config, name)
    done = checkpoints.newest(recipe.num_steps)
    if done:
        state = checkpoints.restore(done, state)
    with common.progress(name, recipe.num_steps) as advance:
        advance(done)
        while done < recipe.num_steps:
            length = min(config.block - done % config.block, recipe.num_steps - done)
            state, _ = _run(state, task, loss, recipe=recipe, length=length)
            done += length
            checkpoints.save(done, state)
            advance(length)
    return state


class Outcome(NamedTuple):
    """What a trained network can do.

    Attributes:
      scores: numbers by name.
      angles: of the training images to the class weight of their label, `[N]`.
    """

    scores: dict[str, float]
    angles: np.ndarray


@jax.jit
def _embed(state: State, images: jax.Array) -> jax.Array:
    return _model(state.params, state.stats, images.shape[1]).net(images)


@jax.jit
def _verify(embeddings: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    rows, columns = np.triu_indices(labels.shape[0], k=1)
    pairs = ops.labeled_pairs(embeddings, labels)
    scores, genuine = pairs.cos[rows, columns], pairs.positive[rows, columns]
    return {
        "AUC": hypersphere.auc(scores, genuine),
        "TAR": hypersphere.tar_at_far(scores, genuine, far=0.01).rate,
        "rank-1": hypersphere.rank1_accuracy(embeddings, labels),
    }


@jax.jit
def _one_shot(tests: jax.Array, examples: jax.Array, answers: jax.Array) -> jax.Array:
    return jnp.mean(jax.vmap(hypersphere.one_shot_accuracy)(tests, examples, answers))


@jax.jit
def _find_flips(angles: jax.Array, flipped: jax.Array) -> dict[str, jax.Array]:
    clean = hypersphere.clean_label_probability(angles)
    return {
        "flips, AUC": hypersphere.auc(angles, flipped),
        "labels told right": jnp.mean((clean < 0.5) == flipped),
    }


def evaluate(state: State, images: Images, task: Task, flipped: np.ndarray) -> Outcome:
    """Verifies pairs of unseen classes, and looks for the wrong labels."""
    embeddings = _embed(state, images.test)
    measured = _verify(embeddings, jnp.asarray(images.test_labels))
    if images.one_shot is not None:
        shots = images.one_shot
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        embedded = [
            _embed(state, flat(x)).reshape(*x.shape[:2], -1)
            for x in (shots.tests, shots.examples)
        ]
        measured["one-shot"] = _one_shot(*embedded, jnp.asarray(shots.answers))
    weight = state.params["head"]["weight"]
    angles = hypersphere.target_angle(
        _embed(state, task.images), weight, task.labels
    ).theta
    if flipped.any():
        measured |= _find_flips(angles, jnp.asarray(flipped))
    return Outcome({k: float(v) for k, v in measured.items()}, np.asarray(angles))
