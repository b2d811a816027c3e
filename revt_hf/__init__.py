"""Re-parameterised vision transformers (ReVT) with Hugging Face libraries.

Fine-tune several SegFormers with different augmentations, average their encoders, keep one
decode head: one model that generalises better to unseen domains, at the cost of one.

What this module exports is the public API. Names are imported when they are first used, so
``import revt_hf as revt`` loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "config.protocol": ["PROTOCOLS", "Protocol"],
    "config.recipe": ["DomainSpec", "Recipe", "load_recipe"],
    "core.errors": ["DataWarning", "UserError"],
    "data.augment": ["register_augmentation"],
    "data.class_mapping": ["ClassMapping", "read_mapping"],
    "data.domains": [
        "Facts",
        "Layout",
        "PairedDomain",
        "Sharing",
        "load_domain",
        "register_domain",
    ],
    "data.label_space": ["LabelSpace"],
    "data.labels": ["label_table"],
    "evaluation.evaluate": ["EvaluateOptions", "evaluate"],
    "evaluation.predictor": ["predict"],
    "evaluation.result": ["Result", "SplitSpec", "read_results"],
    "experiments.execution": ["ExperimentOptions", "run_experiment"],
    "export.onnx_export": ["ExportOptions", "Exported", "export_onnx"],
    "hub.commit": ["PushOptions"],
    "hub.push": ["push"],
    "merging.average": ["MergeOptions", "merge"],
    "merging.recalibration": ["RecalibrateOptions", "recalibrate"],
    "merging.refit": ["RefitOptions", "refit"],
    "merging.registry": ["MergeMethod", "MergeSpec", "Parameter", "Rule", "register"],
    "models.convert": ["convert", "convert_to_mmseg"],
    "models.load": ["label_space", "load_model"],
    "training.loop": ["TrainOptions", "train"],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

if TYPE_CHECKING:
    from revt_hf.config.protocol import PROTOCOLS as PROTOCOLS
    from revt_hf.config.protocol import Protocol as Protocol
    from revt_hf.config.recipe import DomainSpec as DomainSpec
    from revt_hf.config.recipe import Recipe as Recipe
    from revt_hf.config.recipe import load_recipe as load_recipe
    from revt_hf.core.errors import DataWarning as DataWarning
    from revt_hf.core.errors import UserError as UserError
    from revt_hf.data.augment import register_augmentation as register_augmentation
    from revt_hf.data.class_mapping import ClassMapping as ClassMapping
    from revt_hf.data.class_mapping import read_mapping as read_mapping
    from revt_hf.data.domains import Facts as Facts
    from revt_hf.data.domains import Layout as Layout
    from revt_hf.data.domains import PairedDomain as PairedDomain
    from revt_hf.data.domains import Sharing as Sharing
    from revt_hf.data.domains import load_domain as load_domain
    from revt_hf.data.domains import register_domain as register_domain
    from revt_hf.data.label_space import LabelSpace as LabelSpace
    from revt_hf.data.labels import label_table as label_table
    from revt_hf.evaluation.evaluate import EvaluateOptions as EvaluateOptions
    from revt_hf.evaluation.evaluate import evaluate as evaluate
    from revt_hf.evaluation.predictor import predict as predict
    from revt_hf.evaluation.result import Result as Result
    from revt_hf.evaluation.result import SplitSpec as SplitSpec
    from revt_hf.evaluation.result import read_results as read_results
    from revt_hf.experiments.execution import ExperimentOptions as ExperimentOptions
    from revt_hf.experiments.execution import run_experiment as run_experiment
    from revt_hf.export.onnx_export import Exported as Exported
    from revt_hf.export.onnx_export import ExportOptions as ExportOptions
    from revt_hf.export.onnx_export import export_onnx as export_onnx
    from revt_hf.hub.commit import PushOptions as PushOptions
    from revt_hf.hub.push import push as push
    from revt_hf.merging.average import MergeOptions as MergeOptions
    from revt_hf.merging.average import merge as merge
    from revt_hf.merging.recalibration import RecalibrateOptions as RecalibrateOptions
    from revt_hf.merging.recalibration import recalibrate as recalibrate
    from revt_hf.merging.refit import RefitOptions as RefitOptions
    from revt_hf.merging.refit import refit as refit
    from revt_hf.merging.registry import MergeMethod as MergeMethod
    from revt_hf.merging.registry import MergeSpec as MergeSpec
    from revt_hf.merging.registry import Parameter as Parameter
    from revt_hf.merging.registry import Rule as Rule
    from revt_hf.merging.registry import register as register
    from revt_hf.models.convert import convert as convert
    from revt_hf.models.convert import convert_to_mmseg as convert_to_mmseg
    from revt_hf.models.load import label_space as label_space
    from revt_hf.models.load import load_model as load_model
    from revt_hf.training.loop import TrainOptions as TrainOptions
    from revt_hf.training.loop import train as train

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
