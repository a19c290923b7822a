"""Forces of hypersphere losses on one angle, and what their values say of progress.

Paper: Zhong et al., *SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face
Recognition*, IEEE Transactions on Image Processing 2021, the figure of the intra-class
and inter-class gradients.

Top row: the pull on the angle to the own class, and the push on the angle to another,
of SFace with the hyper-parameters of each training set and of its softer form for
small problems. Each is read off the gradient of the loss of one unit embedding between
two class weights on the circle, so the same code draws NormFace, CosFace and ArcFace:
their pull is drawn for an impostor at a right angle, their push for a genuine angle of
0.8. The gates of SFace stand at angles that are chosen; those of a softmax stand where
the logits of the two classes cross, and so move with the other class.

Bottom row: an embedding that follows the gradient flow of SFace, from an angle of 1.5
to its own class and 0.5 to another. The loss has gates that are constants for its
derivative, so its value rises while both angles improve; the potential, which has the
same gradient, falls.

Command: python examples/hypersphere_force_curves.py --output outputs/forces
Time: under 20 seconds on two CPU cores.
"""

import dataclasses
from typing import Any, NamedTuple

import _common as common
import _plots as plots
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxkit import hypersphere, ops
from jaxkit.hypersphere import MarginConfig, SFaceConfig

SFACE = {
    "SFace, default": SFaceConfig(),
    "CASIA-WebFace": SFaceConfig.casia_webface(),
    "VGGFace2": SFaceConfig.vggface2(),
    "MS1MV2": SFaceConfig.ms1mv2(),
    "small problems": SFaceConfig.small_scale(),
}
SOFTMAX = {
    "NormFace, s=64": MarginConfig.normface(scale=64.0),
    "CosFace, m=0.35": MarginConfig.cosface(),
    "ArcFace, m=0.5": MarginConfig.arcface(),
    "ArcFace, s=16, m=0.3": MarginConfig.arcface(scale=16.0, margin=0.3),
}
OWN_ANGLE, OTHER_ANGLE = 0.8, float(np.pi / 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.BaseConfig):
    """The options."""

    num_points: int = common.option(721, "angles of each curve")
    start: float = common.option(1.5, "angle to the own class at first")
    other: float = common.option(2.0, "angle between the two class weights")
    time: float = common.option(0.03, "how long to follow the flow")


def at(angles: jax.Array) -> jax.Array:
    """Gives unit vectors on the circle."""
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def two_class_loss(own: jax.Array, other: jax.Array, loss: Any) -> jax.Array:
    """The loss of an embedding at given angles to its own and to another class."""
    weights = at(jnp.stack([own, -other]))
    label = jnp.zeros(1, jnp.int32)
    x = at(jnp.zeros_like(own))[None]
    return hypersphere.hypersphere_loss(x, weights, label, loss)[0]


@jax.jit
def forces(angles: jax.Array, loss: Any) -> tuple[jax.Array, jax.Array]:
    """Slopes in the angle to the own class, and against that to the other."""
    own, other = (jnp.asarray(t, angles.dtype) for t in (OWN_ANGLE, OTHER_ANGLE))
    pull = jax.vmap(lambda t: jax.grad(two_class_loss)(t, other, loss))
    push = jax.vmap(lambda t: -jax.grad(two_class_loss, argnums=1)(own, t, loss))
    return pull(angles), push(angles)


class Descent(NamedTuple):
    """An embedding that follows the flow.

    Attributes:
      times: when, `[points]`.
      own: its angle to the own class.
      other: its angle to the other class.
      value: of the loss.
      potential: of the function that the loss is the gradient of.
    """

    times: np.ndarray
    own: np.ndarray
    other: np.ndarray
    value: np.ndarray
    potential: np.ndarray


def descend(config: Config) -> Descent:
    """Follows the gradient flow of the default SFace on the circle."""
    gated = SFaceConfig()
    potential = dataclasses.replace(gated, form="potential")
    # Most of the way is made at once, the rest takes as long as one cares to wait.
    times = config.time * jnp.linspace(0.0, 1.0, 201) ** 2
    loss = lambda own, kind: two_class_loss(own, config.other - own, kind)

    @jax.jit
    def follow() -> tuple[jax.Array, ...]:
        field = lambda time, own: -jax.grad(loss)(own, gated)
        start = jnp.asarray(config.start, times.dtype)
        own = ops.integrate(field, start, times, substeps=40)
        along = lambda kind: jax.vmap(lambda t: loss(t, kind))(own)
        return own, along(gated), along(potential)

    own, value, energy = map(np.asarray, follow())
    return Descent(np.asarray(times), own, config.other - own, value, energy)


def report(config: Config, measured: dict[str, float], descent: Descent) -> None:
    """Prints peaks and places of the push, and the two values along the flow."""
    rows = []
    for name in (*SFACE, *SOFTMAX):
        keys = ("pull at 0.8", "pull at pi/2", "largest push", "its angle")
        rows.append([name, *(measured[f"{name}/{key}"] for key in keys)])
    columns = ["loss", "pull at 0.8", "pull at pi/2", "largest push", "at angle"]
    common.print_table("Forces on one angle", columns, rows)
    picked = np.linspace(0, descent.times.size - 1, 6).astype(int)
    rows = [[values[i] for values in descent] for i in picked]
    common.print_table(
        "Along the gradient flow of SFace",
        ["time", "angle to own", "angle to other", "loss", "potential"],
        rows,
    )


def draw(
    angles: np.ndarray, curves: dict[str, tuple[np.ndarray, ...]], descent: Descent
) -> Figure:
    """Draws the forces and the descent."""
    figure, axes = plots.new_figure("Forces of hypersphere losses", 2, 3, width=3.8)
    panels = (
        (axes[0, 0], SFACE, 0, "SFace: pull", "angle to the own class"),
        (axes[0, 1], SFACE, 1, "SFace: push", "angle to another class"),
        (axes[0, 2], SOFTMAX, 0, "softmax losses: pull", "angle to the own class"),
        (axes[1, 2], SOFTMAX, 1, "softmax losses: push", "angle to another class"),
    )
    for ax, family, kind, title, x in panels:
        for name, color in zip(family, plots.COLORS, strict=False):
            ax.plot(angles, curves[name][kind], color=color, label=name)
        plots.label(ax, title=title, x=x, y="|dL / d angle|")
    plots.legend(axes[0, 0])
    plots.legend(axes[0, 2])
    left, middle = axes[1, :2]
    left.plot(descent.times, descent.own, color=plots.COLORS[0], label="own class")
    left.plot(descent.times, descent.other, color=plots.COLORS[1], label="other class")
    middle.plot(descent.times, descent.value, color=plots.COLORS[1], label="loss")
    style = {"color": plots.COLORS[0], "label": "potential"}
    middle.plot(descent.times, descent.potential, **style)
    plots.label(left, title="gradient flow: angles", x="time", y="angle")
    plots.label(middle, title="gradient flow: values", x="time", y="")
    for ax in (left, middle):
        ax.set_xscale("symlog", linthresh=1e-3)
        plots.legend(ax)
    return figure


@jax.enable_x64(True)
def main(config: Config) -> dict[str, float]:
    """Computes forces and the descent; returns what the tables show."""
    angles = jnp.linspace(0.0, jnp.pi / 2, config.num_points)
    curves, measured = {}, {}
    for name, loss in (SFACE | SOFTMAX).items():
        loss = jax.tree.map(jnp.float64, loss)
        curves[name] = tuple(map(np.asarray, forces(angles, loss)))
        push = curves[name][1]
        marks, _ = forces(jnp.array([0.8, np.pi / 2]), loss)
        top = int(np.argmax(push))
        measured[f"{name}/pull at 0.8"] = float(marks[0])
        measured[f"{name}/pull at pi/2"] = float(marks[1])
        measured[f"{name}/largest push"] = float(push[top])
        measured[f"{name}/its angle"] = float(angles[top])
    descent = descend(config)
    for key, values in (("loss", descent.value), ("potential", descent.potential)):
        measured[f"descent/largest rise of the {key}"] = float(np.max(np.diff(values)))
        measured[f"descent/{key}, first"] = float(values[0])
        measured[f"descent/{key}, last"] = float(values[-1])
    report(config, measured, descent)
    figure = draw(np.asarray(angles), curves, descent)
    common.save_figure(config, "hypersphere_force_curves", figure)
    common.save_json(config, "hypersphere_force_curves", measured)
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
