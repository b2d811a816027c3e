"""Augmentation: the paper's methods 1..6 and registered ones, as albumentations pipelines."""

import os

# albumentations asks the network for a newer version when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from revt_hf.data.augment.methods import (
    METHODS,
    Method,
    Pipeline,
    PipelineSpec,
    augment,
    build_pipeline,
    method,
    register_augmentation,
)

__all__ = [
    "METHODS",
    "Method",
    "Pipeline",
    "PipelineSpec",
    "augment",
    "build_pipeline",
    "method",
    "register_augmentation",
]
