"""Splits and protocols as the command line names them."""

from collections.abc import Sequence
from pathlib import Path

from revt_hf.cli.options import key_values, parse_max_size
from revt_hf.config.domain_spec import DomainSpec
from revt_hf.config.protocol import Protocol, named_protocol
from revt_hf.config.recipe import load_recipe
from revt_hf.core.errors import UserError
from revt_hf.evaluation.splits import SplitSpec, splits_of
from revt_hf.models.recorded import recorded_protocol


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


def chosen_protocol(
    models: Sequence[str | Path], max_size: str | None, name: str | None = None
) -> Protocol:
    """The protocol of a name, else what the models' folders name; a max_size replaces its own.

    Args:
        models: folders or Hub ids.
        max_size: ``WIDTHxHEIGHT``, ``native``, or None for the protocol's own.
        name: of ``PROTOCOLS``, or None.

    Raises:
        UserError: the name or the max_size cannot be read, or the models were made for different
            protocols.
    """
    changes = {} if max_size is None else {"max_size": parse_max_size(max_size)}
    if name is None:
        return recorded_protocol(models, **changes)
    try:
        return named_protocol(name).model_copy(update=changes)
    except ValueError as error:
        raise UserError(f"--protocol: {error}") from error
