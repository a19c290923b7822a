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
from jaxkit.hypersphere._alignment import alignment, uniformity
from jaxkit.hypersphere._circle_class import CircleClassConfig, circle_class_loss
from jaxkit.hypersphere._class_sharded import class_sharded_loss
from jaxkit.hypersphere._d_softmax import DSoftmaxConfig, d_softmax_loss
from jaxkit.hypersphere._dense import hypersphere_loss
from jaxkit.hypersphere._elasticface import ElasticFaceConfig, elasticface_loss
from jaxkit.hypersphere._fold_accuracy import FoldAccuracy, fold_accuracy
from jaxkit.hypersphere._geometry import cosine_similarity_matrix, target_angle
from jaxkit.hypersphere._identification import (
    OpenSetDir,
    one_shot_accuracy,
    open_set_dir,
    rank1_accuracy,
)
from jaxkit.hypersphere._label_noise import (
    FlippedLabels,
    clean_label_probability,
    flip_labels,
)
from jaxkit.hypersphere._margin import (
    arcface_loss,
    combined_margin_loss,
    cosface_loss,
    normface_loss,
    subcenter_arcface_loss,
)
from jaxkit.hypersphere._margin_config import MarginConfig
from jaxkit.hypersphere._pair_losses import (
    circle_pair_loss,
    multi_similarity_loss,
    supcon_loss,
)
from jaxkit.hypersphere._protocol import TargetAngle
from jaxkit.hypersphere._proxy_anchor import proxy_anchor_loss
from jaxkit.hypersphere._roc import (
    EqualErrorRate,
    RocCurve,
    TarAtFar,
    auc,
    equal_error_rate,
    roc_curve,
    tar_at_far,
)
from jaxkit.hypersphere._sampled_classes import SampledClasses, sample_classes
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
from jaxkit.hypersphere._sharded import make_sharded_loss, pad_classes
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
from jaxkit.hypersphere._streaming import streaming_loss
from jaxkit.hypersphere._training_metrics import HypersphereMetrics, loss_with_metrics
from jaxkit.hypersphere._von_mises_fisher import (
    VonMisesFisher,
    vmf_fit,
    vmf_log_normalizer,
    vmf_log_prob,
    vmf_mean_resultant,
)
from jaxkit.ops import l2_normalize, ntxent_loss

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
    "EqualErrorRate",
    "FlippedLabels",
    "FoldAccuracy",
    "HypersphereMetrics",
    "IntraInter",
    "MagFaceConfig",
    "MarginConfig",
    "OpenSetDir",
    "RocCurve",
    "SFaceConfig",
    "SampledClasses",
    "SoftmaxConfig",
    "SphereFace2Config",
    "SphereFaceConfig",
    "TarAtFar",
    "TargetAngle",
    "VonMisesFisher",
    "adacos_init",
    "adacos_loss",
    "adacos_update",
    "adaface_init",
    "adaface_loss",
    "adaface_update",
    "alignment",
    "arcface_loss",
    "auc",
    "circle_class_loss",
    "circle_pair_loss",
    "class_sharded_loss",
    "clean_label_probability",
    "combined_margin_loss",
    "cosface_loss",
    "cosine_similarity_matrix",
    "curricularface_init",
    "curricularface_loss",
    "curricularface_update",
    "d_softmax_loss",
    "elasticface_loss",
    "equal_error_rate",
    "flip_labels",
    "fold_accuracy",
    "hypersphere_loss",
    "l2_normalize",
    "loss_with_metrics",
    "magface_loss",
    "make_sharded_loss",
    "multi_similarity_loss",
    "normface_loss",
    "ntxent_loss",
    "one_shot_accuracy",
    "open_set_dir",
    "pad_classes",
    "proxy_anchor_loss",
    "rank1_accuracy",
    "roc_curve",
    "sample_classes",
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
    "streaming_loss",
    "subcenter_arcface_loss",
    "supcon_loss",
    "tar_at_far",
    "target_angle",
    "uniformity",
    "vmf_fit",
    "vmf_log_normalizer",
    "vmf_log_prob",
    "vmf_mean_resultant",
]
