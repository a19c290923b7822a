"""The settings that tell the members of the family apart."""

import dataclasses
from typing import Any

import jax

from jaxkit._core import checks
from jaxkit.typing import ArrayLike

__all__ = ["LOSSES", "DistillConfig"]

LOSSES = ("mean", "half_mean", "half_sum")

_STATIC = {"static": True}


def _static(default: Any) -> Any:
    return dataclasses.field(default=default, metadata=_STATIC)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """The settings of a distillation; the defaults are those of KRR-ST.

    A pytree: choices are static, numbers may be traced. Optimizers and the network are
    passed beside it. Trees of its structure are checked alike, and one of axes for
    :func:`jax.vmap` with 0 for the ridge is refused: map over the number alone, and
    build the settings inside.

    Attributes:
      num_models: networks in the pool; static.
      inner_steps: inner steps after which a network is replaced by a new one, at least
        2; static.
      inner_batch_size: synthetic pairs per inner step, drawn anew each time; None
        takes all; static.
      first_ages: ``"random"`` draws the first ages uniformly from 1 to
        ``inner_steps - 1``, ``"even"`` spreads them evenly from 0; static.
      models_per_step: networks whose features are joined in the outer loss, drawn
        without replacement; static.
      reset: ``"count"`` replaces a network that has made ``inner_steps`` steps, and
        counts anew; ``"always_fresh"`` replaces it after every use, so that all
        features are random; ``"never_recount"`` leaves the count at its end, as the
        released code of KRR-ST does: after its first replacement a network is replaced
        at each use; static.
      pool_update: ``"one"`` trains the networks that were drawn, ``"all"`` all of
        them; static.
      loss: of the outer and of the inner problem, for the squared errors of a batch:
        ``"mean"`` over everything, ``"half_mean"`` half of it, ``"half_sum"`` half the
        sum over outputs, averaged over examples; static.
      ridge_coef: the ridge relative to the trace of the Gram matrix.
      ridge_scale: ``"trace"``, ``"mean_trace"`` (divided by the number of synthetic
        images) or ``"absolute"``, see :func:`ridge_from_trace`; static.
      stop_gradient_ridge: whether the ridge counts as a constant; static.
      bias: whether the features get a constant column, which the ridge also
        penalizes; static.
      bias_value: the constant of that column.
      feature_gain: multiplies the Gram matrix of the features divided by their number,
        so that wider networks give the same scale; None leaves features as they are.
      flip_images: whether the outer loss also holds the mirrored synthetic images,
        with the same targets; static.
      margin_weight: weight of ``mean_i -min(gap_i, 1 / outputs)`` with the gap between
        the two largest entries of a learned target, which keeps targets of classes
        apart; None leaves it out, as targets of one output need.
      learn_images: whether the images are learned; static.
      learn_targets: whether the targets are learned; static.
      method: of the solves, see :func:`krr_fit`; static.

    Raises:
      TypeError: if a count is no integer.
      ValueError: if a choice is unknown, a count too small, the ridge of Python not
        positive, or nothing is to be learned.
    """

    num_models: int = _static(10)
    inner_steps: int = _static(1000)
    inner_batch_size: int | None = _static(None)
    first_ages: str = _static("random")
    models_per_step: int = _static(1)
    reset: str = _static("count")
    pool_update: str = _static("one")
    loss: str = _static("mean")
    ridge_coef: ArrayLike = 1e-6
    ridge_scale: str = _static("trace")
    stop_gradient_ridge: bool = _static(True)
    bias: bool = _static(True)
    bias_value: ArrayLike = 1.0
    feature_gain: ArrayLike | None = None
    flip_images: bool = _static(False)
    margin_weight: ArrayLike | None = None
    learn_images: bool = _static(True)
    learn_targets: bool = _static(True)
    method: str = _static("auto")

    def __post_init__(self) -> None:
        checks.at_least("num_models", self.num_models, 1)
        checks.at_least("inner_steps", self.inner_steps, 2)
        checks.at_least("models_per_step", self.models_per_step, 1)
        if self.models_per_step > self.num_models:
            raise ValueError(
                f"`models_per_step` must be at most `num_models`, got "
                f"{self.models_per_step} and {self.num_models}."
            )
        if self.inner_batch_size is not None:
            checks.at_least("inner_batch_size", self.inner_batch_size, 1)
        choices = {
            "first_ages": ("random", "even"),
            "reset": ("count", "always_fresh", "never_recount"),
            "pool_update": ("one", "all"),
            "loss": LOSSES,
            "ridge_scale": ("trace", "mean_trace", "absolute"),
            "method": ("auto", "cholesky", "primal", "qr", "autodiff"),
        }
        for name, options in choices.items():
            checks.one_of(name, getattr(self, name), options)
        if isinstance(self.ridge_coef, int | float):
            checks.positive(ridge_coef=self.ridge_coef)
        if not (self.learn_images or self.learn_targets):
            raise ValueError(
                "`learn_images` or `learn_targets` must be True, got False for both."
            )

    @classmethod
    def krr_st(cls, **changes: Any) -> "DistillConfig":
        """The settings of self-supervised distillation by kernel ridge regression."""
        return cls(**changes)

    @classmethod
    def frepo(cls, **changes: Any) -> "DistillConfig":
        """The settings of neural feature regression with pooling."""
        settings: dict[str, Any] = {
            "inner_steps": 100,
            "inner_batch_size": 500,
            "first_ages": "even",
            "loss": "half_sum",
            "ridge_scale": "mean_trace",
            "stop_gradient_ridge": False,
            "bias": False,
            "margin_weight": 1.0,
        }
        return cls(**{**settings, **changes})

    @classmethod
    def kip(cls, **changes: Any) -> "DistillConfig":
        """The settings of kernel inducing points; pass a kernel as the network."""
        settings: dict[str, Any] = {
            "loss": "half_mean",
            "ridge_scale": "mean_trace",
            "stop_gradient_ridge": False,
            "bias": False,
            "learn_targets": False,
        }
        return cls(**{**settings, **changes})

    @classmethod
    def rfad(cls, **changes: Any) -> "DistillConfig":
        """The settings of random feature approximation: new networks at every step."""
        num_models = changes.pop("num_models", 8)
        settings: dict[str, Any] = {
            "num_models": num_models,
            "models_per_step": num_models,
            "reset": "always_fresh",
            "loss": "half_mean",
            "ridge_scale": "mean_trace",
            "stop_gradient_ridge": False,
            # The kernel is twice the mean product of the features, plus 0.01.
            "feature_gain": 2.0,
            "bias_value": 0.1,
        }
        return cls(**{**settings, **changes})
