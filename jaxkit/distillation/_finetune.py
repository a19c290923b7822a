"""Supervised training that starts from what a distilled set has taught."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import optax

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.distillation._inner import apply_updates
from jaxkit.distillation._networks import Network, Pool
from jaxkit.distillation._probe import check_labels
from jaxkit.typing import ArrayLike, Key, PyTree

__all__ = ["finetune", "replace_head"]

Augment = Callable[[Key, jax.Array], jax.Array]


def replace_head(trained: PyTree, fresh: PyTree, *, head: str = "linear") -> PyTree:
    r"""Keeps a trained network and takes its last layer from a fresh one.

    .. math:: \theta = (\theta_{\mathrm{body}}^{\mathrm{trained}},
       \theta_{\mathrm{head}}^{\mathrm{fresh}})

    Args:
      trained: parameters of the trained network, a nest of dicts or tuples.
      fresh: parameters of a new network of the same body, of any number of outputs.
      head: the name of the last layer, a key somewhere on the paths to its leaves. The
        modules of :mod:`jaxkit.nn` call it ``linear``.

    Returns:
      The parameters, of the structure of ``fresh``.

    Raises:
      ValueError: if no leaf has ``head`` on its path, the structures differ or a leaf
        of the body differs in shape.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> trained = {"body": jnp.ones(3), "linear": {"kernel": jnp.ones((3, 5))}}
      >>> fresh = {"body": jnp.zeros(3), "linear": {"kernel": jnp.zeros((3, 2))}}
      >>> params = distillation.replace_head(trained, fresh)
      >>> print(params["body"], params["linear"]["kernel"].shape)
      [1. 1. 1.] (3, 2)
    """
    old, old_tree = jax.tree_util.tree_flatten_with_path(trained)
    new, new_tree = jax.tree_util.tree_flatten_with_path(fresh)
    if old_tree != new_tree:
        raise ValueError(
            "`trained` and `fresh` must have the same structure, got "
            f"{old_tree} and {new_tree}."
        )
    is_head = [head in _names(path) for path, _ in new]
    if not any(is_head):
        known = sorted({name for path, _ in new for name in _names(path)})
        raise ValueError(f"`head` must be one of {', '.join(known)}, got {head!r}.")
    leaves = []
    for renewed, (path, a), (_, b) in zip(is_head, old, new, strict=True):
        if not renewed and a.shape != b.shape:
            raise ValueError(
                f"`trained` and `fresh` must agree outside the head, got {a.shape} and "
                f"{b.shape} at {'/'.join(_names(path))}."
            )
        leaves.append(b if renewed else a)
    return jax.tree.unflatten(new_tree, leaves)


def _names(path: tuple) -> list[str]:
    return [jax.tree_util.keystr((part,), simple=True) for part in path]


def finetune(
    key: Key,
    params: PyTree,
    batch_stats: PyTree,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    network: Network,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    batch_size: int | None = None,
    augment: Augment | None = None,
) -> tuple[PyTree, PyTree]:
    r"""Trains all of a network on labeled images.

    .. math:: \min_\theta \tfrac1N \sum_i -\log
       \operatorname{softmax}(h_\theta(x_i))_{y_i}

    Batches go through the images in a new order in each epoch; the last ones of an
    epoch that fill no batch wait for the next. A Python loop over a compiled step: do
    not put it under :func:`jax.jit`; :func:`jax.vmap` over keys works.

    Args:
      key: a typed random key.
      params: where to start, for instance from :func:`replace_head`.
      batch_stats: the running statistics to start from.
      images: images in the space of the network, shape ``[N, H, W, C]``.
      labels: their classes, integers in ``[0, outputs)``, shape ``[N]``.
      network: the functions of the network; keep one object, each new one compiles.
      optimizer: an optax transformation; in the paper ``optax.chain(
        optax.add_decayed_weights(5e-4), optax.sgd(schedule, momentum=0.9))`` with a
        cosine from 0.01 to 0.
      num_steps: optimizer steps.
      batch_size: images per step; None takes all.
      augment: ``augment(key, images)``, applied to every batch; one object, as above.

    Returns:
      ``(params, batch_stats)``.

    Raises:
      TypeError: if ``key`` is no typed key, ``images`` not real or ``labels`` not
        integers.
      ValueError: if shapes do not fit or a count is too small.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import distillation
      >>> linear = distillation.Network(
      ...     init=lambda key: (jnp.zeros((1, 2)), {}),
      ...     embed=lambda params, stats, x: x.reshape(x.shape[0], -1),
      ...     apply=lambda params, stats, x, train: (x.reshape(x.shape[0], -1) @ params, stats),
      ... )
      >>> images, labels = jnp.array([-1.0, 1.0]).reshape(2, 1, 1, 1), jnp.array([0, 1])
      >>> params, _ = distillation.finetune(
      ...     jax.random.key(0), *linear.init(jax.random.key(1)), images, labels,
      ...     network=linear, optimizer=optax.sgd(1.0), num_steps=1)
      >>> print(params)
      [[-0.5  0.5]]

    References:
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR 2024.
    """
    checks.typed_key(key)
    (images,) = checks.floating(images=images)
    if images.ndim != 4 or not images.size:
        raise ValueError(
            "`images` must have shape (N, height, width, channels) and not be empty, got "
            f"{images.shape}."
        )
    labels = check_labels(labels, images.shape[0])
    checks.at_least("num_steps", num_steps, 0)
    size = labels.size if batch_size is None else batch_size
    checks.at_least("batch_size", size, 1)
    order_key, augment_key = jax.random.split(key)
    model = Pool(params, batch_stats, optimizer.init(params), jnp.zeros((), jnp.int32))
    step = functools.partial(
        _compiled_step, network=network, optimizer=optimizer, augment=augment
    )
    for rows in _batches(order_key, labels.size, min(size, labels.size), num_steps):
        model = step(augment_key, model, images, labels, rows)
    return model.params, model.batch_stats


def _batches(key: Key, count: int, size: int, num_steps: int) -> Iterator[jax.Array]:
    per_epoch = count // size
    order = jnp.arange(count)
    for index in range(num_steps):
        epoch, place = divmod(index, per_epoch)
        if place == 0 and size < count:
            order = jax.random.permutation(jax.random.fold_in(key, epoch), count)
        yield order[place * size : (place + 1) * size]


def _step(
    key: Key,
    model: Pool,
    images: jax.Array,
    labels: jax.Array,
    rows: jax.Array,
    *,
    network: Network,
    optimizer: optax.GradientTransformation,
    augment: Augment | None,
) -> Pool:
    batch, label = images[rows], labels[rows]
    if augment is not None:
        batch = augment(jax.random.fold_in(key, model.age), batch)

    def loss(params: PyTree) -> tuple[jax.Array, PyTree]:
        logits, stats = network.apply(params, model.batch_stats, batch, True)
        logits = logits.astype(accumulation_dtype(logits))
        errors = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return jnp.mean(errors), stats

    grads, stats = jax.grad(loss, has_aux=True)(model.params)
    params, opt_state = apply_updates(optimizer, grads, model.opt_state, model.params)
    return Pool(params, stats, opt_state, model.age + 1)


_compiled_step = jax.jit(_step, static_argnames=("network", "optimizer", "augment"))
