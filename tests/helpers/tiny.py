"""A recipe that trains in a second."""

import copy
from contextlib import contextmanager
from unittest import mock

from safetensors.torch import load_file

from revt_hf.config.recipe import parse_recipe
from revt_hf.models.load import build_model
from revt_hf.training.loop import TrainOptions, train

TINY = {
    "model": {
        "size": "b0",
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [8, 16, 40, 64],
        "decoder_hidden_size": 16,
    },
    "source": {"domain": "streets", "options": {"images": 5, "val_images": 5, "size": [64, 128]}},
    "augmentation": {"method": 6, "max_size": [160, 80], "crop": [80, 96]},
    "optimizer": {"lr": 1e-3},
    "schedule": {"warmup_steps": 2},
    "train": {
        "steps": 3,
        "batch_size": 2,
        "workers": 0,
        "log_every": 1,
        "validate_every": None,
        "checkpoint_every": None,
    },
    "evaluation": {"max_size": None},
}
# Another source.
NIGHT = {**TINY["source"], "config": "night"}
# Replaces the sizes of TINY's model where model.init provides them.
NO_SIZES = dict.fromkeys(("depths", "hidden_sizes", "decoder_hidden_size"))


def tiny_recipe(**sections):
    """The tiny recipe with values of some sections replaced."""
    values = copy.deepcopy(TINY)
    for section, changes in sections.items():
        merged = {**values.get(section, {}), **changes} if isinstance(changes, dict) else changes
        values[section] = merged
    return parse_recipe(values, "tiny recipe")


def run(folder, recipe, **options):
    train(recipe, folder, TrainOptions(quiet=True, **options))
    return load_file(folder / "model.safetensors")


def same_weights(first, second):
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


@contextmanager
def in_float64():
    """Train in float64, where runs that are equal on paper are equal up to 1e-12.

    In float32 they are not: AdamW divides a gradient by its own size, so that one which is nothing
    but rounding (that of an attention's key bias, say) becomes a whole step of either sign, and
    rounding depends on the processor's instruction set, its threads and the size of a batch.
    """

    def widened(*recipe):
        model = build_model(*recipe).double()
        model.segformer.register_forward_pre_hook(_widen, with_kwargs=True)
        return model

    with mock.patch("revt_hf.training.setup.build_model", widened):
        yield


def _widen(_, args, named):
    # Training and validation give pixels as the first argument.
    return (args[0].double(), *args[1:]), named
