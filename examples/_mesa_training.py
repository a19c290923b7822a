"""Training the layer on sampled sequences, and what the theory says about it."""

from typing import NamedTuple

import _common as common
import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import ndtri

from jaxkit import mesa

STARTS = ((0.1, 0.1), (0.5, 1.5), (2.0, 2.0))
"""The three diagonal starts (a, b) of the paper."""


class Law(NamedTuple):
    """A law of the first token and how the paper trains on it.

    Attributes:
      name: what `jaxkit.mesa.sample_ar_sequences` calls it.
      scale: the factor of the first token.
      learning_rate: the step size of the authors' plotting script, for length 100.
      epochs: the epochs shown there.
    """

    name: str
    scale: float
    learning_rate: float
    epochs: int

    @property
    def symbol(self) -> str:
        """The law as a title of a figure."""
        letter = {"gaussian": "\u03c3", "sparse": "c"}.get(self.name)
        return f"{self.name}, {letter} = {self.scale:g}" if letter else self.name

    @property
    def slug(self) -> str:
        """The law as a part of a file name."""
        return f"{self.name}_{self.scale:g}"

    def moments(self, dim: int) -> mesa.Moments:
        """Gives the exact moments of the first token."""
        makers = {
            "gaussian": mesa.gaussian_moments,
            "sparse": mesa.sparse_moments,
            "ones": mesa.ones_moments,
        }
        return makers[self.name](dim, scale=self.scale)

    def step_size(self, *, length: int, dim: int) -> float:
        """Rescales the step to another length, with equal stability at the optimum.

        What decides is the product of the step and `c1`, near which the curvature
        lies; it grows with the number of predictions.
        """
        moments = self.moments(dim)
        there, here = (mesa.flow_constants(moments, length=n)[0] for n in (100, length))
        return self.learning_rate * float(there / here)


LAWS = (
    Law("gaussian", 0.5, 1e-3, 200),
    Law("gaussian", 1.0, 1e-4, 150),
    Law("gaussian", 2.0, 2e-6, 201),
    Law("sparse", 0.5, 3e-2, 200),
    Law("sparse", 1.0, 1e-3, 201),
    Law("sparse", 2.0, 1e-4, 121),
)
FULL_ONE = Law("ones", 1.0, 5e-4, 200)


def stratified_normal(
    key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype
) -> jax.Array:
    """Draws Gaussian tokens whose coordinates are spread evenly (a Latin hypercube).

    Each coordinate takes one value per cell of equal probability, in an order of its
    own; the value carries the sixth moment of its cell. That moment decides where
    training ends, and a few hundred independent draws miss it by tens of percent.
    """
    parts = 64
    grid = (jnp.arange(shape[0] * parts, dtype=dtype) + 0.5) / (shape[0] * parts)
    nodes = ndtri(grid).reshape(shape[0], parts)
    sixth = jnp.mean(nodes**6, axis=1) ** (1 / 6)
    values = jnp.sign(jnp.mean(nodes, axis=1)) * sixth
    columns = jnp.broadcast_to(values[:, None], shape)
    return jax.random.permutation(key, columns, axis=0, independent=True)


def sample(
    key: jax.Array, law: Law, *, count: int, length: int, dim: int, stratified: bool
) -> jax.Array:
    """Draws sequences, shape `[count, length, dim]`."""
    even = stratified and law.name == "gaussian"
    return mesa.sample_ar_sequences(
        key,
        batch_shape=(count,),
        length=length,
        dim=dim,
        initial=stratified_normal if even else law.name,
        scale=law.scale,
    )


def diagonal_starts(dim: int) -> mesa.LSAParams:
    """Stacks the three starts of the paper along a leading axis."""
    a, b = jnp.array(STARTS).T
    return mesa.init_diagonal(dim, a=a, b=b)


def train_on_samples(
    config: common.TrainConfig,
    name: str,
    x: jax.Array,
    starts: mesa.LSAParams,
    *,
    optimizer: optax.GradientTransformation,
    epochs: int,
    implementation: str,
    project: bool = False,
) -> mesa.LSAParams:
    """Trains by full-batch steps from several starts at once.

    Args:
      config: where to store checkpoints and how long the blocks are.
      name: the name of the run.
      x: the sequences, shape `[count, length, dim]`.
      starts: parameters with a leading axis of starts.
      optimizer: an optax transformation without state.
      epochs: the number of steps.
      implementation: the form of linear attention.
      project: whether to set the off-diagonal entries to 0 after each step.

    Returns:
      The parameters after 0, ..., `epochs` steps, leading axes `[epochs + 1, starts]`.
    """

    def loss_fn(params: mesa.LSAParams) -> jax.Array:
        return jnp.mean(mesa.ar_loss(params, x, implementation=implementation))

    def step(params: mesa.LSAParams) -> tuple[mesa.LSAParams, mesa.LSAParams]:
        grads = jax.vmap(jax.grad(loss_fn))(params)
        updates, _ = optimizer.update(grads, optimizer.init(params))
        new = optax.apply_updates(params, updates)
        return mesa.project_diagonal(new) if project else new, params

    last, path = common.train(
        step,
        starts,
        num_steps=epochs,
        checkpoints=common.Checkpoints(config, name),
        block=config.block,
        label=f"train on {name}",
    )
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), path, last)


def blocks(params: mesa.LSAParams) -> tuple[jax.Array, jax.Array]:
    """Takes the two blocks A and B out of the parameters."""
    dim = params.pv.shape[-2]
    return params.kq[..., dim:, :dim], params.pv[..., :dim]


@jax.jit
def product(params: mesa.LSAParams) -> jax.Array:
    """Averages the products of the diagonal entries of A and B, as the authors do."""
    a, b = (jnp.diagonal(block, axis1=-2, axis2=-1) for block in blocks(params))
    return jnp.mean(a * b, axis=-1)


def ratio(params: mesa.LSAParams, x: jax.Array) -> jax.Array:
    """Averages prediction / truth at the last position, as the authors do."""
    predicted = mesa.lsa_predict(params, x)[..., -1, :]
    return jnp.mean(predicted / (x[..., -1, :] + 1e-5)).real


def loss(params: mesa.LSAParams, x: jax.Array) -> jax.Array:
    """Averages the loss over sequences."""
    return jnp.mean(mesa.ar_loss(params, x))


def population_descent(
    moments: mesa.Moments, *, length: int, step_size: float, epochs: int
) -> tuple[jax.Array, jax.Array]:
    """Iterates exact gradient descent on the population loss from the three starts.

    Returns:
      `(a, b)` after 0, ..., `epochs` steps, each of shape `[epochs + 1, 3]`.
    """
    c1, c2 = mesa.flow_constants(moments, length=length)

    def step(state: tuple, _: None) -> tuple[tuple, tuple]:
        da, db = mesa.reduced_flow_rhs(*state, c1, c2)
        return (state[0] + step_size * da, state[1] + step_size * db), state

    start = tuple(jnp.array(STARTS).T)
    _, path = jax.lax.scan(step, start, length=epochs + 1)
    return path


def sample_descent(
    tokens: jax.Array, *, length: int, step_size: float, epochs: int
) -> jax.Array:
    """Iterates exact descent for the moments that given first tokens have.

    The eigenvalues are averaged exactly and each coordinate keeps its own moments:
    what a sampled run would do if only the first tokens were sampled.

    Returns:
      The mean product after 0, ..., `epochs` steps, shape `[epochs + 1, 3]`.
    """
    square = tokens**2
    moments = {
        "m2": jnp.mean(square, axis=0),
        "m4": jnp.mean(square**2, axis=0),
        "m6": jnp.mean(square**3, axis=0),
        "m24": square.T @ square**2 / tokens.shape[0],
    }

    def loss_fn(ab: tuple[jax.Array, jax.Array]) -> jax.Array:
        return mesa.population_loss_diagonal(*ab, **moments, length=length)

    def descend(start: jax.Array) -> jax.Array:
        _, products = mesa.gradient_descent(
            loss_fn,
            tuple(jnp.broadcast_to(start[:, None], (2, tokens.shape[1]))),
            optax.sgd(step_size),
            num_steps=epochs,
            record=lambda ab: jnp.mean(ab[0] * ab[1]),
        )
        return products

    return jax.jit(jax.vmap(descend, out_axes=1))(jnp.array(STARTS))
