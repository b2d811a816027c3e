"""The model card (``README.md``): metadata for the Hub, then the model in Markdown."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from revt_hf import __version__
from revt_hf.checkpoints.architecture import SIZES
from revt_hf.checkpoints.description import read_description
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec, Recipe
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object
from revt_hf.data.augment import method
from revt_hf.data.domains import DOMAINS
from revt_hf.data.labels import CITYSCAPES, ENCODINGS, space_of
from revt_hf.evaluation.result import DomainScore
from revt_hf.hub.cards import Markdown, license_metadata, render_card
from revt_hf.hub.commit import MARKER, without_local_paths
from revt_hf.hub.facts import ModelCardFacts, published_recipe
from revt_hf.merging.registry import Rule
from revt_hf.models.recorded import recorded_protocol
from revt_hf.results.markdown import json_text, shell_line, text, yaml_text

PAPER = "https://arxiv.org/abs/2308.13331"
TASK = "image-segmentation"
TAGS = ("revt_hf", "segformer", "semantic-segmentation", "domain-generalization")
_DEFAULT_DOMAIN = "cityscapes"
# JSON of numbers, lists of numbers and plain keys, which needs no escaping.
_NUMBERS = re.compile(r'[\w\s.,:\[\]{}"+-]*')


def card_text(facts: ModelCardFacts) -> str:
    """The text of a model card; every number in it comes from ``facts``."""
    records = []
    if facts.recipe:
        recipe = published_recipe(facts.recipe, facts.base_models).rstrip()
        records.append(("Training recipe (recipe.yaml)", "yaml", recipe))
    if facts.merge:
        record = json_text(json.dumps(facts.merge.to_json(), indent=2, ensure_ascii=False))
        records.append(("Provenance (merge.json)", "json", record))
    classes = read_description(facts.folder).classes
    return render_card(
        "model_card.md.jinja",
        facts=facts,
        metadata=yaml_text(_metadata(facts).to_dict()),
        architecture=_architecture(read_json_object(facts.folder / "config.json")),
        processor_size=_processor_size(facts.folder / "preprocessor_config.json"),
        marker=MARKER,
        task=TASK,
        classes=len(classes),
        kind="Cityscapes " if space_of(classes, "") == CITYSCAPES else "",
        version=__version__,
        paper=PAPER,
        encodings=ENCODINGS,
        settings=_settings,
        method_name=method_name,
        command=_command(facts),
        records=records,
        data_licenses=_data_licenses(facts),
    )


def _metadata(facts: ModelCardFacts) -> ModelCardData:
    relation = "merge" if facts.merge else "finetune"
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=TASK,
        tags=[*TAGS, *(["model-merging"] if facts.merge else []), *(["revt"] * facts.is_revt)],
        **license_metadata(facts.license),
        base_model=list(facts.base_models) or None,
        base_model_relation=relation if facts.base_models else None,
        datasets=list(facts.datasets) or None,
        model_name=facts.name if facts.results else None,
        eval_results=[_eval_result(score) for score, _ in facts.scores] or None,
    )


def _eval_result(score: DomainScore) -> EvalResult:
    # The Hub distinguishes results by type, config and split: a user's own folder needs a name.
    known = score.domain in DOMAINS and DOMAINS[score.domain].facts.kind != "any"
    slug = re.sub(r"[^a-z0-9]+", "-", score.label.rpartition("/")[0].lower()).strip("-")
    return EvalResult(
        task_type=TASK,
        task_name="Semantic segmentation",
        dataset_type=score.domain if known else slug or "folder",
        dataset_name=score.label,
        dataset_config=score.config,
        dataset_split=score.split,
        metric_type="mean_iou",
        metric_name="mIoU (%)",
        metric_value=round(score.miou, 2),
    )


def _architecture(config: Mapping[str, Any]) -> str:
    depths, widths = (tuple(config.get(key) or ()) for key in ("depths", "hidden_sizes"))
    for name, size in SIZES.items():
        if (depths, widths) == (size.depths, size.hidden_sizes):
            return f"SegFormer-{name.upper()}"
    if not (depths and widths):
        return "SegFormer"
    shown = (", ".join(map(str, numbers)) for numbers in (depths, widths))
    return "SegFormer (depths {}; widths {})".format(*shown)


def _processor_size(path: Path) -> tuple[int, int] | None:
    processor = read_json_object(path) if path.is_file() else {}
    size = processor.get("size") or {}
    if not processor.get("do_resize") or not {"width", "height"} <= set(size):
        return None
    return size["width"], size["height"]


def _settings(rule: Rule) -> Markdown:
    shown = ""
    for key, value in rule.settings.items():
        written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        plain = not isinstance(value, str) and _NUMBERS.fullmatch(written)
        shown += f", {text(key)} {written if plain else text(written)}"
    return Markdown(shown)


def _command(facts: ModelCardFacts) -> str:
    """The command that scores the model on its first unseen domain."""
    spec, split = _first_unseen(facts)
    words = ["revt", "evaluate", facts.repo_id, "--domain", spec.domain]
    if DOMAINS[spec.domain].needs_data_dir if spec.domain in DOMAINS else True:
        words += ["--data-dir", f"data/{spec.domain}"]
    if spec.config:
        words += ["--config", spec.config]
    words += ["--split", split]
    for key, value in spec.options.items():
        words += ["--option", f"{key}={json.dumps(without_local_paths(value))}"]
    # A Hub repository does not always record its protocol.
    protocol = recorded_protocol([facts.folder])
    if protocol == Protocol(max_size=protocol.max_size):
        size = protocol.max_size
        words += ["--max-size", "native" if size is None else "{}x{}".format(*size)]
    elif protocol.preset:
        words += ["--protocol", protocol.preset]
    return shell_line(words)


def _first_unseen(facts: ModelCardFacts) -> tuple[DomainSpec, str]:
    specs: list[tuple[DomainSpec, str]] = [
        (target, target.split) for recipe in facts.recipes for target in recipe.targets
    ]
    rows = sorted((row for row, _ in facts.scores), key=lambda row: facts.kind(row) == "source")
    if not rows:
        return specs[0] if specs else (DomainSpec(domain=_DEFAULT_DOMAIN), "val")
    specs += [(source, source.val) for recipe in facts.recipes for source in recipe.sources]
    first = rows[0]
    for spec, split in specs:
        if (spec.domain, spec.config, split) == (first.domain, first.config, first.split):
            return spec, split
    own = first.domain == "folder" and first.label_encoding in ENCODINGS
    options = {"encoding": first.label_encoding} if own else {}
    return DomainSpec(domain=first.domain, config=first.config, options=options), first.split


def _data_licenses(facts: ModelCardFacts) -> dict[str, str]:
    used = (source.domain for recipe in facts.recipes for source in recipe.sources)
    domains = {name: DOMAINS[name] for name in dict.fromkeys(used) if name in DOMAINS}
    return {
        name: domain.facts.license
        for name, domain in domains.items()
        if domain.facts.kind != "any" and domain.needs_data_dir
    }


def method_name(recipe: Recipe) -> str:
    """The augmentation method of a recipe, such as ``4 (pixmix)``."""
    name = recipe.augmentation.method
    try:
        return str(method(name))
    except UserError:
        # It was registered where the model was trained.
        return str(name)
