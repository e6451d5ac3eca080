"""What a model's numbers are: likelihoods, distances, and the records of both."""

from aef_tfp.metrics.anomalies import anomaly_records, roc_area
from aef_tfp.metrics.classifier import (
    ClassifierFeatures,
    get_classifier,
    train_classifier,
)
from aef_tfp.metrics.features import FeatureModel, extract_features
from aef_tfp.metrics.frechet import (
    FeatureStatistics,
    KernelDistance,
    feature_error,
    frechet_distance,
    kernel_distance,
)
from aef_tfp.metrics.images import as_levels, denoising_records, distance_records
from aef_tfp.metrics.inception import InceptionFeatures, inception_features
from aef_tfp.metrics.inspection import (
    latent_records,
    latent_use,
    octave_powers,
    sharpness_records,
)
from aef_tfp.metrics.likelihood import (
    annealed_records,
    marginal_records,
    objective_records,
    tune_proposal_scale,
)
from aef_tfp.models.bits import bits_per_dim
from aef_tfp.records import (
    Record,
    append_records,
    comparison,
    differences,
    digest_of,
    read_records,
    summary,
)

__all__ = [
    "ClassifierFeatures",
    "FeatureModel",
    "FeatureStatistics",
    "InceptionFeatures",
    "KernelDistance",
    "Record",
    "annealed_records",
    "anomaly_records",
    "append_records",
    "as_levels",
    "bits_per_dim",
    "comparison",
    "denoising_records",
    "differences",
    "digest_of",
    "distance_records",
    "extract_features",
    "feature_error",
    "frechet_distance",
    "get_classifier",
    "inception_features",
    "kernel_distance",
    "latent_records",
    "latent_use",
    "marginal_records",
    "objective_records",
    "octave_powers",
    "read_records",
    "roc_area",
    "sharpness_records",
    "summary",
    "train_classifier",
    "tune_proposal_scale",
]
