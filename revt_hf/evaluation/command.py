"""What ``revt evaluate`` does: named splits, several models, one decode of each image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm
from transformers import SegformerForSemanticSegmentation

from revt_hf.cli.options import key_values, parse_max_size
from revt_hf.config.domain_spec import DomainSpec
from revt_hf.config.protocol import Protocol, named_protocol
from revt_hf.config.recipe import load_recipe
from revt_hf.core.errors import UserError
from revt_hf.core.processes import failing_together, local_main_first, process_state
from revt_hf.evaluation.cost import cost_of
from revt_hf.evaluation.ensembles import ensemble_name, ensemble_segmenter
from revt_hf.evaluation.loading import load_labelled
from revt_hf.evaluation.predictor import Segmenter, model_segmenter
from revt_hf.evaluation.scoring import Evaluated, evaluate_models
from revt_hf.evaluation.sizes import check_sizes, minimum_side
from revt_hf.evaluation.splits import SplitSpec, splits_of, told_apart
from revt_hf.models.load import for_inference_, load_model
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


@dataclass(frozen=True)
class EvaluateOptions:
    """How ``revt evaluate`` scores.

    Attributes:
        protocol: a name of ``PROTOCOLS``; None for what the models' folders name.
        max_size: ``WIDTHxHEIGHT`` or ``native``, in place of the protocol's own.
        ensembles: also score all models together, combined in these ways.
        head: whose decode head an ensemble of features uses, counted from 1.
        cost: also measure what an image of the first split's size costs.
        batch_size: images that go through a network together.
        workers: processes that decode images.
        quiet: no progress bar.
    """

    protocol: str | None = None
    max_size: str | None = None
    ensembles: Sequence[str] = ()
    head: int = 1
    cost: bool = False
    batch_size: int = 1
    workers: int = 0
    quiet: bool = False


def evaluate_command(
    models: Sequence[str], splits: Sequence[SplitSpec], options: EvaluateOptions | None = None
) -> list[Evaluated]:
    """Score models on splits, on the accelerator if there is one.

    Args:
        models: folders or Hub ids.
        splits: what to score on.
        options: how.

    Returns:
        The scores, on every process; costs are measured on the main process only.

    Raises:
        UserError: a model, a domain, the protocol, an ensemble or an image cannot be used.
    """
    options = options or EvaluateOptions()
    processes = process_state()
    with failing_together(processes):
        told_apart(splits)
        protocol = chosen_protocol(models, options.max_size, options.protocol)
        segmenters = _segmenters(models, options)
    loaded = local_main_first(
        processes, lambda: [(split, load_labelled(split.spec, split.split)) for split in splits]
    )
    results: list[Evaluated] = []
    with failing_together(processes):
        minimum = minimum_side(model for one in segmenters.values() for model in one.models)
        # The first split is checked where it is scored, before anything else.
        for split, images in loaded[1:]:
            check_sizes(images, split.label, protocol, minimum)
    total = sum(
        len(range(processes.process_index, len(images), processes.num_processes))
        for _, images in loaded
    )
    quiet = options.quiet or not processes.is_main_process
    with tqdm(total=total, unit="image", desc="evaluate", disable=quiet) as progress:
        for split, images in loaded:
            results += evaluate_models(
                *(segmenters, images, split, protocol, progress.update),
                batch_size=options.batch_size,
                workers=options.workers,
            )
    if options.cost and processes.is_main_process:
        height, width = loaded[0][1][0]["image"].shape[:2]
        costs = {}
        for name, segmenter in tqdm(segmenters.items(), desc="cost", disable=quiet):
            costs[name] = cost_of(segmenter, (height, width), protocol)
        results = [replace(result, cost=costs[result.model]) for result in results]
    return results


def _segmenters(names: Sequence[str], options: EvaluateOptions) -> dict[str, Segmenter]:
    """The models and their ensembles, by the names of their rows."""
    models = {name: load_for_evaluation(name) for name in dict.fromkeys(names)}
    segmenters = {name: model_segmenter(model) for name, model in models.items()}
    for combine in dict.fromkeys(options.ensembles):
        ensemble = ensemble_segmenter(list(models.values()), combine, options.head)
        segmenters[ensemble_name(len(models), combine, options.head)] = ensemble
    return segmenters


def load_for_evaluation(source: str | Path) -> SegformerForSemanticSegmentation:
    """A model on the accelerator's device, in eval mode, made faster; not for training.

    :func:`revt_hf.models.load.load_model` gives it as it is, and
    :func:`revt_hf.models.load.for_inference_` says what is done to it.

    Raises:
        UserError: it cannot be read, lacks tensors, or does not have the 19 classes.
    """
    return for_inference_(load_model(source).to(process_state().device))


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
