"""Losses on the hypersphere: SFace, angular margins, pairs and proxies; verification."""

from jaxkit.hypersphere._adacos_state import adacos_init, adacos_update
from jaxkit.hypersphere._adaptive import (
    adacos_loss,
    adaface_loss,
    curricularface_loss,
    magface_loss,
)
from jaxkit.hypersphere._adaptive_config import (
    AdaCosConfig,
    AdaCosState,
    AdaFaceConfig,
    AdaFaceState,
    CurricularFaceConfig,
    CurricularFaceState,
    MagFaceConfig,
)
from jaxkit.hypersphere._circle_class import CircleClassConfig, circle_class_loss
from jaxkit.hypersphere._d_softmax import DSoftmaxConfig, d_softmax_loss
from jaxkit.hypersphere._dense import hypersphere_loss
from jaxkit.hypersphere._elasticface import ElasticFaceConfig, elasticface_loss
from jaxkit.hypersphere._geometry import cosine_similarity_matrix, target_angle
from jaxkit.hypersphere._margin import (
    arcface_loss,
    combined_margin_loss,
    cosface_loss,
    normface_loss,
    subcenter_arcface_loss,
)
from jaxkit.hypersphere._margin_config import MarginConfig
from jaxkit.hypersphere._protocol import TargetAngle
from jaxkit.hypersphere._sface import (
    sface_cosine_loss,
    sface_loss,
    sface_potential_loss,
)
from jaxkit.hypersphere._sface_config import SFaceConfig
from jaxkit.hypersphere._sface_curves import (
    IntraInter,
    sface_force,
    sface_inter_potential,
    sface_intra_potential,
    sface_rescale,
)
from jaxkit.hypersphere._softmax import SoftmaxConfig, softmax_loss
from jaxkit.hypersphere._sphereface import sphereface2_loss, sphereface_loss
from jaxkit.hypersphere._sphereface_config import (
    SphereFace2Config,
    SphereFaceConfig,
    sphereface2_initial_bias,
    sphereface_annealing,
)
from jaxkit.hypersphere._states import (
    adaface_init,
    adaface_update,
    curricularface_init,
    curricularface_update,
)
from jaxkit.ops import l2_normalize

__all__ = [
    "AdaCosConfig",
    "AdaCosState",
    "AdaFaceConfig",
    "AdaFaceState",
    "CircleClassConfig",
    "CurricularFaceConfig",
    "CurricularFaceState",
    "DSoftmaxConfig",
    "ElasticFaceConfig",
    "IntraInter",
    "MagFaceConfig",
    "MarginConfig",
    "SFaceConfig",
    "SoftmaxConfig",
    "SphereFace2Config",
    "SphereFaceConfig",
    "TargetAngle",
    "adacos_init",
    "adacos_loss",
    "adacos_update",
    "adaface_init",
    "adaface_loss",
    "adaface_update",
    "arcface_loss",
    "circle_class_loss",
    "combined_margin_loss",
    "cosface_loss",
    "cosine_similarity_matrix",
    "curricularface_init",
    "curricularface_loss",
    "curricularface_update",
    "d_softmax_loss",
    "elasticface_loss",
    "hypersphere_loss",
    "l2_normalize",
    "magface_loss",
    "normface_loss",
    "sface_cosine_loss",
    "sface_force",
    "sface_inter_potential",
    "sface_intra_potential",
    "sface_loss",
    "sface_potential_loss",
    "sface_rescale",
    "softmax_loss",
    "sphereface2_initial_bias",
    "sphereface2_loss",
    "sphereface_annealing",
    "sphereface_loss",
    "subcenter_arcface_loss",
    "target_angle",
]
