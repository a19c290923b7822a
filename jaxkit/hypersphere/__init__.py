"""Losses on the hypersphere: SFace, angular margins, pairs and proxies; verification."""

from jaxkit.hypersphere._dense import hypersphere_loss
from jaxkit.hypersphere._geometry import cosine_similarity_matrix, target_angle
from jaxkit.hypersphere._protocol import TargetAngle
from jaxkit.hypersphere._sface import (
    sface_cosine_loss,
    sface_loss,
    sface_potential_loss,
)
from jaxkit.hypersphere._sface_config import (
    IntraInter,
    SFaceConfig,
    sface_force,
    sface_inter_potential,
    sface_intra_potential,
    sface_rescale,
)
from jaxkit.ops import l2_normalize

__all__ = [
    "IntraInter",
    "SFaceConfig",
    "TargetAngle",
    "cosine_similarity_matrix",
    "hypersphere_loss",
    "l2_normalize",
    "sface_cosine_loss",
    "sface_force",
    "sface_inter_potential",
    "sface_intra_potential",
    "sface_loss",
    "sface_potential_loss",
    "sface_rescale",
    "target_angle",
]
