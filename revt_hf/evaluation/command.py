"""What ``revt evaluate`` does: named splits, several models, one decode of each picture."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from revt_hf.domains import load_spec
from revt_hf.errors import UserError
from revt_hf.evaluation.inference import Protocol
from revt_hf.evaluation.runner import Evaluated, SplitSpec, evaluate_models
from revt_hf.modeling import load_model
from revt_hf.options import key_values, parse_bound
from revt_hf.recipe import DomainSpec, Recipe, load_recipe
from revt_hf.recorded import recorded_evaluation


def requested_splits(
    recipe: Path | None,
    domain: str | None,
    data_dir: Path | None,
    config: str | None,
    split: str,
    options: Sequence[str],
) -> list[SplitSpec]:
    """The splits that the command line names: one domain's, or all of a recipe's.

    Raises:
        UserError: neither or both are given, or an option is not KEY=VALUE.
    """
    if (recipe is None) == (domain is None):
        raise UserError("say what to evaluate on: either --domain NAME or --recipe FILE")
    if domain is not None:
        spec = DomainSpec(
            domain=domain,
            data_dir=str(data_dir) if data_dir else None,
            config=config,
            options=key_values(options),
        )
        return [SplitSpec(spec, split, is_source=False)]
    return recipe_splits(Path(str(recipe)))


def recipe_splits(recipe: Path) -> list[SplitSpec]:
    """A recipe's source-val and all its targets.

    Raises:
        UserError: the recipe cannot be read.
    """
    return splits_of(load_recipe(recipe))


def splits_of(recipe: Recipe) -> list[SplitSpec]:
    """Every source's val and all targets of a loaded recipe."""
    return [
        *(SplitSpec(source, source.val, is_source=True) for source in recipe.sources),
        *(SplitSpec(target, target.split, is_source=False) for target in recipe.targets),
    ]


def evaluate_command(
    models: Sequence[str], splits: Sequence[SplitSpec], bound: str | None, quiet: bool
) -> list[Evaluated]:
    """Score models on splits.

    Args:
        models: folders or Hub ids.
        splits: what to score on.
        bound: ``WIDTHxHEIGHT``, ``native``, or None for what the models' folders name.
        quiet: no progress bar.

    Raises:
        UserError: a model, a domain or the bound cannot be used.
    """
    protocol = chosen_protocol(models, bound)
    loaded_splits = [(split, load_spec(split.spec, split.split)) for split in splits]
    loaded = {name: load_model(name) for name in dict.fromkeys(models)}
    results = []
    total = sum(len(pictures) for _, pictures in loaded_splits)
    with tqdm(total=total, unit="picture", desc="evaluate", disable=quiet) as progress:
        for split, pictures in loaded_splits:
            results += evaluate_models(loaded, pictures, split, protocol, progress.update)
    return results


def chosen_protocol(models: Sequence[str | Path], bound: str | None) -> Protocol:
    """The protocol of ``bound`` (WIDTHxHEIGHT or native), else what the models' folders name.

    Raises:
        UserError: the bound cannot be read, or the models were made for different ones.
    """
    return Protocol(recorded_evaluation(models).bound if bound is None else parse_bound(bound))
