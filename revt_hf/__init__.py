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
    "config.recipe": ["Recipe", "load_recipe"],
    "core.errors": ["UserError"],
    "data.augment": ["register_augmentation"],
    "data.domains": ["load_domain", "register_domain"],
    "evaluation.predictor": ["predict"],
    "merging.average": ["merge"],
    "merging.registry": ["register"],
    "models.load": ["load_model"],
    "training.loop": ["train"],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

if TYPE_CHECKING:
    from revt_hf.config.protocol import PROTOCOLS as PROTOCOLS
    from revt_hf.config.protocol import Protocol as Protocol
    from revt_hf.config.recipe import Recipe as Recipe
    from revt_hf.config.recipe import load_recipe as load_recipe
    from revt_hf.core.errors import UserError as UserError
    from revt_hf.data.augment import register_augmentation as register_augmentation
    from revt_hf.data.domains import load_domain as load_domain
    from revt_hf.data.domains import register_domain as register_domain
    from revt_hf.evaluation.predictor import predict as predict
    from revt_hf.merging.average import merge as merge
    from revt_hf.merging.registry import register as register
    from revt_hf.models.load import load_model as load_model
    from revt_hf.training.loop import train as train

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
