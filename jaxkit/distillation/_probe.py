"""Linear classifiers on frozen features."""

import jax
import jax.numpy as jnp
import optax

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.distillation._inner import apply_updates
from jaxkit.distillation._ridge import ridge_predict
from jaxkit.ops import abs_squared, masked_fill, masked_mean
from jaxkit.typing import ArrayLike, Key

__all__ = ["check_labels", "linear_probe", "sgd_linear_probe"]


def linear_probe(
    features: ArrayLike,
    labels: ArrayLike,
    test_features: ArrayLike,
    *,
    num_classes: int,
    ridge: ArrayLike = 1e-2,
    method: str = "auto",
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Scores classes by ridge regression on frozen features.

    .. math:: s = \tilde F_t \tilde F^\top \bigl(\tilde F \tilde F^\top
       + \tfrac{c}{N} \operatorname{tr}(\tilde F \tilde F^\top) I\bigr)^{-1}
       (\mathrm{onehot} - \tfrac1C)

    The features are standardized by the training rows and get a constant column. It
    has no step size to tune, so it compares features, not optimizers. Choose ``ridge``
    on rows held out of ``features``, never on the test rows.

    Args:
      features: features of the training images, shape ``[N, d]``.
      labels: their classes, integers in ``[0, num_classes)``, shape ``[N]``; a label
        outside counts as no class at all.
      test_features: features to score, shape ``[M, d]``.
      num_classes: the number of classes ``C``, at least 2; static.
      ridge: the coefficient ``c``, positive.
      method: of the solve, as in :func:`krr_fit`; static.
      where: which training rows count, bool, shape ``[N]``; the others may hold NaN.

    Returns:
      The scores, shape ``[M, num_classes]``, at least float32; the largest is the
      predicted class.

    Raises:
      TypeError: if features are not real or labels not integers.
      ValueError: if shapes do not fit, ``num_classes`` is less than 2, ``method`` is
        unknown or ``ridge`` is a number that is not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> x, y = jnp.array([[0.0], [1.0], [9.0], [10.0]]), jnp.array([0, 0, 1, 1])
      >>> scores = distillation.linear_probe(x, y, jnp.array([[2.0], [8.0]]), num_classes=2)
      >>> print(scores.argmax(-1))
      [0 1]
    """
    checks.positive(ridge=ridge)
    checks.at_least("num_classes", num_classes, 2)
    return _linear_probe(
        features,
        labels,
        test_features,
        num_classes=num_classes,
        ridge=ridge,
        method=method,
        where=where,
    )


@jit(static_argnames=("num_classes", "method"))
def _linear_probe(
    features: ArrayLike,
    labels: ArrayLike,
    test_features: ArrayLike,
    *,
    num_classes: int,
    ridge: ArrayLike,
    method: str,
    where: ArrayLike | None,
) -> jax.Array:
    features, labels, test_features = _checked(features, labels, test_features)
    mask = checks.mask("where", where, labels.shape)
    train, test = _standardize(features, test_features, mask)
    target = masked_fill(
        _centered_one_hot(labels, num_classes, train.dtype), mask[:, None]
    )
    count = jnp.maximum(jnp.sum(mask), 1).astype(train.dtype)
    mean_trace = jnp.sum(abs_squared(train)) / count
    (ridge,) = checks.floating(ridge=ridge)
    return ridge_predict(
        train, target, test, ridge.astype(train.dtype) * mean_trace, method=method
    )


def sgd_linear_probe(
    key: Key,
    features: ArrayLike,
    labels: ArrayLike,
    test_features: ArrayLike,
    *,
    num_classes: int,
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 5000,
    batch_size: int = 512,
) -> jax.Array:
    r"""Scores classes by a linear layer trained with cross-entropy.

    .. math:: \min_{W, b} \tfrac1N \sum_i -\log
       \operatorname{softmax}(f_i W + b)_{y_i}

    The features are taken as they are, the layer starts at zero, and each step draws a
    batch with replacement. Takes an optimizer, so it is not jitted itself.

    Args:
      key: a typed random key, for the batches.
      features: features of the training images, shape ``[N, d]``.
      labels: their classes, integers in ``[0, num_classes)``, shape ``[N]``.
      test_features: features to score, shape ``[M, d]``.
      num_classes: the number of classes, at least 2.
      optimizer: an optax optimizer; None takes plain descent at 0.2 with a cosine to 0.
      num_steps: the number of steps.
      batch_size: rows per step.

    Returns:
      The scores, shape ``[M, num_classes]``, at least float32.

    Raises:
      TypeError: if ``key`` is not a typed key, features not real or labels not integers.
      ValueError: if shapes do not fit or a count is too small.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import distillation
      >>> x, y = jnp.array([[-2.0], [-1.0], [1.0], [2.0]]), jnp.array([0, 0, 1, 1])
      >>> scores = distillation.sgd_linear_probe(
      ...     jax.random.key(0), x, y, x, num_classes=2, num_steps=20, batch_size=8
      ... )
      >>> print(scores.argmax(-1))
      [0 0 1 1]

    References:
      Lee et al., *Self-Supervised Dataset Distillation for Transfer Learning*, ICLR
      2024, released code.
    """
    checks.typed_key(key)
    counts = {
        "num_classes": num_classes,
        "num_steps": num_steps,
        "batch_size": batch_size,
    }
    for name, value in counts.items():
        checks.at_least(name, value, 2 if name == "num_classes" else 1)
    features, labels, test_features = _checked(features, labels, test_features)
    dtype = accumulation_dtype(features, test_features)
    features, test_features = features.astype(dtype), test_features.astype(dtype)
    if optimizer is None:
        optimizer = optax.sgd(optax.cosine_decay_schedule(0.2, num_steps))

    def loss(layer: tuple[jax.Array, jax.Array], rows: jax.Array) -> jax.Array:
        logits = features[rows] @ layer[0] + layer[1][None]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows])
        return jnp.mean(loss)

    def step(state: tuple, key: Key) -> tuple[tuple, None]:
        layer, memory = state
        rows = jax.random.randint(key, (batch_size,), 0, labels.size)
        grads = jax.grad(loss)(layer, rows)
        return apply_updates(optimizer, grads, memory, layer), None

    layer = (
        jnp.zeros((features.shape[1], num_classes), dtype),
        jnp.zeros(num_classes, dtype),
    )
    keys = jax.random.split(key, num_steps)
    (layer, _), _ = jax.lax.scan(step, (layer, optimizer.init(layer)), keys)
    return test_features @ layer[0] + layer[1][None]


def check_labels(labels: ArrayLike, count: int) -> jax.Array:
    """Turns labels into integers, one for each of `count` rows."""
    array = jnp.asarray(labels)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"`labels` must have an integer dtype, got {array.dtype}.")
    if array.shape != (count,):
        raise ValueError(f"`labels` must have shape {(count,)}, got {array.shape}.")
    return array


def _checked(
    features: ArrayLike, labels: ArrayLike, test_features: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    features, test = checks.floating(features=features, test_features=test_features)
    fits = features.ndim == test.ndim == 2 and features.shape[1] == test.shape[1]
    if not fits or not features.size:
        raise ValueError(
            "`features` and `test_features` must have shapes [N, d] and [M, d] and not "
            f"be empty, got {features.shape} and {test.shape}."
        )
    return features, check_labels(labels, features.shape[0]), test


def _standardize(
    features: jax.Array, test_features: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    dtype = accumulation_dtype(features, test_features)
    features = masked_fill(features.astype(dtype), mask[:, None])
    mean = masked_mean(features, axis=0, where=mask[:, None])
    spread = masked_mean(
        abs_squared(features - mean[None]), axis=0, where=mask[:, None]
    )
    # A constant feature says nothing: it stays 0 instead of blowing rounding up.
    tiny = 1e-12 * (abs_squared(mean) + jnp.max(spread)) + jnp.finfo(dtype).tiny
    scale = jnp.where(spread > tiny, jax.lax.rsqrt(jnp.maximum(spread, tiny)), 0.0)
    both = (
        (x - mean[None]) * scale[None] for x in (features, test_features.astype(dtype))
    )
    train, test = (jnp.pad(x, ((0, 0), (0, 1)), constant_values=1.0) for x in both)
    return masked_fill(train, mask[:, None]), test


def _centered_one_hot(
    labels: jax.Array, num_classes: int, dtype: jnp.dtype
) -> jax.Array:
    inside = (labels >= 0) & (labels < num_classes)
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=dtype)
    return masked_fill(one_hot - 1.0 / num_classes, inside[:, None])
