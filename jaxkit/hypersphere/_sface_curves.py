"""What SFace does to one angle: gates, forces and potentials."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.hypersphere._potential import polar_angle
from jaxkit.hypersphere._protocol import cast_leaves
from jaxkit.hypersphere._sface_config import (
    SFaceConfig,
    inter_scale,
    intra_scale,
    potential_inter,
    potential_intra,
)
from jaxkit.typing import ArrayLike

__all__ = [
    "IntraInter",
    "sface_force",
    "sface_inter_potential",
    "sface_intra_potential",
    "sface_rescale",
]


class IntraInter(NamedTuple):
    """One number for the pull to the own class and one for the push from another.

    Attributes:
      intra: of the own class.
      inter: of another class.
    """

    intra: jax.Array
    inter: jax.Array


def _read(
    config: SFaceConfig | None, **values: ArrayLike
) -> tuple[SFaceConfig, jax.Array]:
    """Gives the configuration and one array in its dtype, at least float32."""
    (array,) = checks.floating(**values)
    dtype = accumulation_dtype(array)
    return cast_leaves(config or SFaceConfig(), dtype), array.astype(dtype)


def _gates(config: SFaceConfig, theta: jax.Array) -> IntraInter:
    return IntraInter(intra_scale(config, theta), inter_scale(config, theta))


@jit()
def sface_rescale(theta: ArrayLike, config: SFaceConfig | None = None) -> IntraInter:
    r"""Gives the gates of SFace at an angle.

    .. math::

        r_{\mathrm{intra}} = s\,\sigma\bigl(k (\theta - a)\bigr), \qquad
        r_{\mathrm{inter}} = s\,\sigma\bigl(-k (\theta - b)\bigr)

    Args:
      theta: angles in radians, shape ``[...]``.
      config: the hyper-parameters; None means the defaults.

    Returns:
      The two gates, shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``theta`` is not real and floating.

    Examples:
      >>> from jaxkit import hypersphere
      >>> print(hypersphere.sface_rescale(0.8).intra)
      32.0

    References:
      Zhong et al., *SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face
      Recognition*, IEEE Transactions on Image Processing 2021.
    """
    return _gates(*_read(config, theta=theta))


@jit()
def sface_force(theta: ArrayLike, config: SFaceConfig | None = None) -> IntraInter:
    r"""Gives how strongly SFace turns a unit embedding at an angle.

    .. math::

        v_{\mathrm{intra}} = r_{\mathrm{intra}}(\theta) \sin\theta, \qquad
        v_{\mathrm{inter}} = r_{\mathrm{inter}}(\theta) \sin\theta

    These are the sizes of the derivatives by the angle; the first closes the angle to
    the own class, the second opens the one to another.

    Args:
      theta: angles in radians, shape ``[...]``.
      config: the hyper-parameters; None means the defaults.

    Returns:
      The two forces, shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``theta`` is not real and floating.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> print(hypersphere.sface_force(jnp.pi / 2).intra)
      64.0

    References:
      Zhong et al., *SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face
      Recognition*, IEEE Transactions on Image Processing 2021.
    """
    used, angle = _read(config, theta=theta)
    return jax.tree.map(lambda gate: gate * jnp.sin(angle), _gates(used, angle))


@jit()
def sface_intra_potential(
    cos: ArrayLike, config: SFaceConfig | None = None
) -> jax.Array:
    r"""Gives the potential of the pull to the own class.

    .. math::

        \Phi_{\mathrm{intra}}(\theta)
            = \int_0^\theta s\,\sigma\bigl(k (t - a)\bigr) \sin t \,\mathrm{d}t, \qquad
        \frac{\partial \Phi_{\mathrm{intra}}}{\partial \cos\theta}
            = -s\,\sigma\bigl(k (\theta - a)\bigr)

    In closed form; convex in the cosine, and never negative. For sharpness 1 and above
    the value is within ``1e-10 * scale`` in float64 and ``1e-6 * scale`` in float32.

    Args:
      cos: cosines of the angles, shape ``[...]``.
      config: the hyper-parameters; None means the defaults.

    Returns:
      The potential, shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``cos`` is not real and floating.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> print(f"{hypersphere.sface_intra_potential(jnp.cos(0.9)):.4f}")
      4.7949
    """
    used, cosine = _read(config, cos=cos)
    return potential_intra(used, cosine, polar_angle(cosine))


@jit()
def sface_inter_potential(
    cos: ArrayLike, config: SFaceConfig | None = None
) -> jax.Array:
    r"""Gives the potential of the push from another class.

    .. math::

        \Phi_{\mathrm{inter}}(\theta)
            = \int_\theta^\pi s\,\sigma\bigl(-k (t - b)\bigr) \sin t \,\mathrm{d}t, \qquad
        \frac{\partial \Phi_{\mathrm{inter}}}{\partial \cos\theta}
            = s\,\sigma\bigl(-k (\theta - b)\bigr)

    In closed form; convex in the cosine, and never negative. For sharpness 1 and above
    the value is within ``1e-10 * scale`` in float64 and ``1e-6 * scale`` in float32.

    Args:
      cos: cosines of the angles, shape ``[...]``.
      config: the hyper-parameters; None means the defaults.

    Returns:
      The potential, shape ``[...]``, at least float32.

    Raises:
      TypeError: if ``cos`` is not real and floating.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> print(f"{hypersphere.sface_inter_potential(jnp.cos(0.9)):.4f}")
      18.3973
    """
    return potential_inter(*_read(config, cos=cos))
