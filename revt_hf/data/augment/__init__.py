"""Augmentation: the paper's methods 1..6 and registered ones, as albumentations pipelines."""

import os

# albumentations asks the network for a newer version when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from revt_hf.data.augment.methods import METHODS as METHODS
from revt_hf.data.augment.methods import Method as Method
from revt_hf.data.augment.methods import Pipeline as Pipeline
from revt_hf.data.augment.methods import PipelineSpec as PipelineSpec
from revt_hf.data.augment.methods import augment as augment
from revt_hf.data.augment.methods import build_pipeline as build_pipeline
from revt_hf.data.augment.methods import method as method
from revt_hf.data.augment.methods import register_augmentation as register_augmentation
