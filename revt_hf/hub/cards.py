"""Cards of the Hub (``README.md``): rendered from templates, and checked before they are sent."""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from huggingface_hub import ModelCardData
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from revt_hf import __version__
from revt_hf.checkpoints.architecture import network_name
from revt_hf.checkpoints.families import family_of
from revt_hf.checkpoints.tensors import CONFIG_FILE
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec, Recipe
from revt_hf.config.yaml_files import validation_sentence
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object
from revt_hf.data.augment import method
from revt_hf.data.domains import DOMAINS
from revt_hf.data.label_space import CITYSCAPES
from revt_hf.data.labels import ENCODINGS
from revt_hf.hub.commit import HUB_URL, MARKER, is_repo_id, published_recipe, without_local_paths
from revt_hf.hub.evaluations import TASK, model_index
from revt_hf.hub.facts import ModelCardFacts
from revt_hf.merging.registry import Rule
from revt_hf.models.recorded import recorded_protocol
from revt_hf.results.formats import templates
from revt_hf.results.markdown import code, json_text, shell_line, text, yaml_text

PAPER = "https://arxiv.org/abs/2308.13331"
# JSON of numbers, lists of numbers and plain keys, which needs no escaping.
_NUMBERS = re.compile(r'[\w\s.,:\[\]{}"+-]*')
# The Hub's own list (its message in huggingface_hub issue 4218), without the licenses of single
# model families.
_LICENSES = """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0
    cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0
    creativeml-openrail-m ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0
    gpl-3.0 h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr lppl-1.3c mit mpl-2.0
    ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 pddl postgresql unknown
    unlicense wtfpl zlib
"""
HUB_LICENSES = frozenset(_LICENSES.split())


class Markdown(str):
    """A string that a template inserts as it is; every other value is escaped."""


def render_card(template: str, **values: Any) -> str:
    """Render a template; no value becomes markup unless it is a :class:`Markdown`."""
    environment = templates("revt_hf.hub", _escaped)
    environment.filters |= {"code": lambda value: Markdown(code(value)), "markdown": Markdown}
    return environment.get_template(template).render(**values)


def _escaped(value: Any) -> str:
    return value if isinstance(value, Markdown) else text(str(value))


def license_metadata(license: str) -> dict[str, Any]:
    """The card's metadata for a license such as ``CC BY 4.0``, or for any terms in words."""
    name = re.sub(r"[^a-z0-9.+]+", "-", license.lower()).strip("-")
    if name in HUB_LICENSES:
        return {"license": name}
    return {"license": "other", "license_name": name[:60].strip("-.") or "other"}


def _repo_id(name: str) -> str:
    if not is_repo_id(name):
        raise ValueError(f"'{name}' is not the ID of a Hub repository")
    return name


Text = Annotated[str, Field(min_length=1)]
RepoId = Annotated[str, AfterValidator(_repo_id)]
RepoIds = RepoId | Annotated[list[RepoId], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class _Task(_Part):
    type: Literal["image-segmentation"]


class _Dataset(_Part):
    type: Text
    name: Text


class _Metric(_Part):
    type: Text
    value: Annotated[float, Field(allow_inf_nan=False)]


class _Evaluation(_Part):
    task: _Task
    dataset: _Dataset
    metrics: Annotated[list[_Metric], Field(min_length=1)]


class _Index(_Part):
    name: Text
    results: Annotated[list[_Evaluation], Field(min_length=1)]


class _Card(_Part):
    library_name: Literal["transformers"]
    pipeline_tag: Literal["image-segmentation"]
    license: Text
    tags: Annotated[list[Text], Field(min_length=1)]
    license_name: Text | None = None
    base_model: RepoIds | None = None
    base_model_relation: Literal["adapter", "finetune", "merge", "quantized"] | None = None
    datasets: RepoIds | None = None
    index: Annotated[list[_Index], Field(min_length=1)] | None = Field(None, alias="model-index")

    @model_validator(mode="after")
    def _consistent(self) -> "_Card":
        if self.license == "other":
            if not re.fullmatch("[a-z0-9][a-z0-9.+-]*", self.license_name or ""):
                raise ValueError("license_name: 'other' needs a name, lower case without spaces")
        elif self.license not in HUB_LICENSES:
            raise ValueError(f"license: '{self.license}' is not listed by the Hub")
        if self.base_model_relation and not self.base_model:
            raise ValueError("base_model: base_model_relation needs it")
        return self


def check_card(text: str) -> None:
    """Refuse a model card that the Hub would reject or that is not filled in."""
    found = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL)
    if not found:
        raise UserError("the model card does not start with metadata between two lines of ---")
    try:
        values: Any = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise UserError("the model card's metadata are not YAML") from error
    if not isinstance(values, dict):
        raise UserError("the model card's metadata are not a YAML mapping")
    try:
        _Card.model_validate(values)
    except ValidationError as error:
        raise UserError(f"the model card's {validation_sentence(_Card, error, '')}") from error
    if "[More Information Needed]" in text or not found[2].strip():
        raise UserError("the model card's text is not filled in")


def card_text(facts: ModelCardFacts) -> str:
    """The text of a model card; every number in it comes from ``facts``."""
    records = []
    if facts.recipe:
        recipe = published_recipe(facts.recipe, facts.base_models).rstrip()
        records.append(("Training recipe (recipe.yaml)", "yaml", recipe))
    if facts.merge:
        record = json_text(json.dumps(facts.merge.to_json(), indent=2, ensure_ascii=False))
        records.append(("Provenance (merge.json)", "json", record))
    config = read_json_object(facts.folder / CONFIG_FILE)
    return render_card(
        "model_card.md.jinja",
        facts=facts,
        metadata=yaml_text(_metadata(facts).to_dict()),
        architecture=network_name(config),
        masks=family_of(config).masks,
        processor_size=_processor_size(facts.folder / "preprocessor_config.json"),
        marker=MARKER,
        task=TASK,
        is_cityscapes=facts.classes == CITYSCAPES,
        version=__version__,
        paper=PAPER,
        hub_url=HUB_URL,
        encodings=ENCODINGS,
        settings=_settings,
        method_name=method_name,
        command=_command(facts),
        records=records,
        data_licenses=_data_licenses(facts),
    )


def _metadata(facts: ModelCardFacts) -> ModelCardData:
    kind = read_json_object(facts.folder / CONFIG_FILE)["model_type"]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=TASK,
        tags=tags(kind, is_merge=facts.merge is not None, is_revt=facts.is_revt),
        **license_metadata(facts.license),
        base_model=list(facts.base_models) or None,
        base_model_relation=("merge" if facts.merge else "finetune") if facts.base_models else None,
        datasets=facts.all_datasets or None,
        model_name=facts.name if facts.results else None,
        eval_results=model_index(facts) or None,
    )


def tags(kind: str, is_merge: bool, is_revt: bool) -> list[str]:
    """The tags of a model of a kind (transformers' ``model_type``)."""
    what = [*(["model-merging"] * is_merge), *(["revt"] * is_revt)]
    return ["revt_hf", kind, "semantic-segmentation", "domain-generalization", *what]


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
    words += ["--split", split, *(["--map", facts.mappings[0].name] if facts.mappings else [])]
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
    targets = [target for recipe in facts.recipes for target in recipe.targets]
    specs: list[tuple[DomainSpec, str]] = [(target, target.split) for target in targets]
    rows = sorted((row for row, _ in facts.scores), key=lambda row: facts.kind(row) == "source")
    if not rows:
        return specs[0] if specs else (DomainSpec(domain="cityscapes"), "val")
    specs += [(source, source.val) for recipe in facts.recipes for source in recipe.sources]
    first = rows[0]
    for spec, split in specs:
        if (spec.domain, spec.config, split) == (first.domain, first.config, first.split):
            return spec, split
    own = first.domain == "folder" and first.label_encoding in ENCODINGS
    options = {"encoding": first.label_encoding} if own else {}
    return DomainSpec(domain=first.domain, config=first.config, options=options), first.split


def _data_licenses(facts: ModelCardFacts) -> dict[str, str]:
    licenses = {}
    for name in (source.domain for source in facts.sources):
        domain = DOMAINS.get(name)
        if domain and domain.facts.kind != "any" and domain.needs_data_dir:
            licenses[name] = domain.facts.license
    return licenses


def method_name(recipe: Recipe) -> str:
    name = str(recipe.augmentation.method)
    # It may have been registered where the model was trained.
    with suppress(UserError):
        name = str(method(name))
    return f"{name} and rare class sampling" if recipe.train.rare_classes else name
