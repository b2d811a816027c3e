"""The model card (``README.md``): metadata for the Hub, then what the model is, in Markdown."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from revt_hf import __version__
from revt_hf.config.domain_spec import DomainSpec
from revt_hf.config.protocol import PROTOCOLS, Protocol
from revt_hf.data.domains import DOMAINS
from revt_hf.data.labels import CLASSES, ENCODINGS
from revt_hf.hub.card_check import check_card
from revt_hf.hub.commit import MARKER
from revt_hf.hub.facts import ModelCardFacts
from revt_hf.hub.licenses import license_metadata
from revt_hf.hub.measured import Measured, protocol_text
from revt_hf.hub.places import without_places
from revt_hf.hub.records import Merge, method_name
from revt_hf.merging.record import change_lines
from revt_hf.results.markdown import code, json_text, shell_line, text, yaml_text

__all__ = ["MARKER", "ModelCardFacts", "card_text", "check_card"]

PAPER = "https://arxiv.org/abs/2308.13331"
TASK = "image-segmentation"
TAGS = ("revt_hf", "segformer", "semantic-segmentation", "domain-generalization")
_PLAIN_DOMAIN = "cityscapes"
# Numbers, also in lists and under names of letters.
_NUMBERS = re.compile(r'[\w\s.,:\[\]{}"+-]*')


def card_text(facts: ModelCardFacts) -> str:
    """The text of a model card; every number in it comes from ``facts``."""
    body = "\n\n".join("\n".join(section) for section in _sections(facts))
    return f"---\n{yaml_text(_metadata(facts).to_dict())}---\n\n{body}\n"


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
        model_name=_name(facts) if facts.results else None,
        eval_results=[_eval_result(measured) for measured in facts.results] or None,
    )


def _eval_result(measured: Measured) -> EvalResult:
    # The Hub tells results apart by type, config and split: a folder of one's own needs a name.
    known = measured.domain in DOMAINS and DOMAINS[measured.domain].facts.kind != "any"
    return EvalResult(
        task_type=TASK,
        task_name="Semantic segmentation",
        dataset_type=measured.domain if known else _slug(measured.label.rpartition("/")[0]),
        dataset_name=measured.label,
        dataset_config=measured.config,
        dataset_split=measured.split,
        metric_type="mean_iou",
        metric_name="mIoU (%)",
        metric_value=round(measured.miou, 2),
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "folder"


def _name(facts: ModelCardFacts) -> str:
    return facts.repo_id.partition("/")[2]


def _sections(facts: ModelCardFacts) -> Iterator[list[str]]:
    yield [f"# {text(_name(facts))}"]
    yield [MARKER]
    yield [_summary(facts)]
    yield ["## How it was made", "", *_making(facts)]
    yield ["## Use", "", *_use(facts)]
    yield ["## Results", "", *_results(facts)]
    if facts.recipe_text or facts.merge:
        yield ["## Records"]
    if facts.recipe_text:
        yield [*_folded("Training recipe (recipe.yaml)", "yaml", facts.recipe_text)]
    if facts.merge:
        record = json_text(json.dumps(facts.merge.record, indent=2, ensure_ascii=False))
        yield [*_folded("Provenance (merge.json)", "json", record)]
    yield ["## Limits and license", "", *_limits(facts)]


def _summary(facts: ModelCardFacts) -> str:
    what = (
        f"A {text(facts.architecture)} for the {len(CLASSES)} Cityscapes classes of street scenes"
    )
    made = f"; written by revt_hf {__version__}."
    if facts.merge is None:
        return what + (f", {_changed(facts)}" if facts.changes else "") + made
    name = f"a [ReVT]({PAPER})" if facts.is_revt else "a merge"
    name = f"{name}, {_changed(facts)}," if facts.changes else name
    return (
        f"{what}: {name} of {_members(facts.merge)}, made to hold up on roads "
        f"that it has not seen, at the cost of one of them{made}"
    )


def _members(merge: Merge) -> str:
    merges = sum(member.is_merge for member in merge.members)
    changed = sum(bool(member.changes) for member in merge.members)
    odd = [
        *([f"{merges} of them merged before"] if merges else []),
        *([f"{changed} recalibrated before"] if changed else []),
    ]
    kind = "models" if merges else "fine-tuned models"
    return f"{len(merge.members)} {kind}" + (f" ({', '.join(odd)})" if odd else "")


def _making(facts: ModelCardFacts) -> Iterator[str]:
    if facts.merge:
        for rule in facts.merge.rules:
            settings = "".join(f", {text(k)} {_plain(value)}" for k, value in rule.settings.items())
            yield f"- the members' tensors {code(rule.selection)}: {code(rule.method)}{settings}"
        yield f"- every other tensor: that of {code(facts.merge.head)}"
        yield from ("", "| member | augmentation method | sha256 of its weights |", "|---|---|---|")
        for member in facts.merge.members:
            how = method_name(member.recipe) if member.recipe else "not recorded"
            digest = code(member.sha256) if member.sha256 else "not recorded"
            yield f"| {code(member.called)} | {how} | {digest} |"
        for member in facts.merge.members:
            for line in member.history:
                yield from ("", f"{code(member.called)}: {text(line)}.")
    elif facts.recipe:
        train = facts.recipe.train
        where = ", ".join(code(source.domain) for source in facts.recipe.sources)
        yield (
            f"Trained on {where} with augmentation method {method_name(facts.recipe)}: "
            f"{train.steps} steps of {train.batch_size} images a process, seed {train.seed}. "
            "The whole recipe stands below."
        )
    elif not facts.changes:
        yield "The folder holds no record of how the model was made."
    for line in change_lines(facts.changes):
        yield from ("", f"{line.capitalize()}.")


def _changed(facts: ModelCardFacts) -> str:
    kinds = " and ".join(dict.fromkeys(str(change["kind"]) for change in facts.changes))
    return f"{kinds} afterwards"


def _use(facts: ModelCardFacts) -> Iterator[str]:
    yield from ("```python", "from transformers import pipeline", "")
    yield f'segment = pipeline("{TASK}", model="{facts.repo_id}")'
    yield 'parts = segment("street.png")  # a mask for every class that was found'
    yield from ("```", "", "Or as a map of classes:", "", "```python")
    yield "import torch"
    yield "from PIL import Image"
    yield "from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation"
    yield ""
    yield f'processor = AutoImageProcessor.from_pretrained("{facts.repo_id}")'
    yield f'model = AutoModelForSemanticSegmentation.from_pretrained("{facts.repo_id}").eval()'
    yield 'image = Image.open("street.png").convert("RGB")'
    yield "with torch.inference_mode():"
    yield '    outputs = model(**processor(images=image, return_tensors="pt"))'
    yield "size = (image.height, image.width)"
    yield "classes = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]"
    yield "```"
    if facts.processor_size:
        size = text("x".join(map(str, facts.processor_size)))
        yield ""
        yield (
            f"The image processor resizes every image to {size}, whatever its ratio; "
            "`revt evaluate` keeps the ratio."
        )


def _results(facts: ModelCardFacts) -> Iterator[str]:
    if facts.results:
        yield "| domain | in training | images | mIoU (%) | label encoding | protocol |"
        yield "|---|---|---|---|---|---|"
        for row in facts.results:
            yield (
                f"| {text(row.label)} | {facts.kind(row)} | {row.images} | {row.miou:.2f} | "
                f"{_encoding(row.label_encoding)} | {text(protocol_text(row.protocol))} |"
            )
        yield ""
        yield "mIoU is over all pixels of a domain, at the labels' own size. To measure:"
    else:
        yield "Not evaluated. To measure, with revt_hf installed:"
    yield from ("", "```bash", _command(facts), "```")


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return text(value)
    written = json.dumps(value, ensure_ascii=False)
    return written if _NUMBERS.fullmatch(written) else text(written)


def _encoding(name: str | None) -> str:
    if name is None:
        return "not recorded"
    return name if name in ENCODINGS else text(name)


def _command(facts: ModelCardFacts) -> str:
    """The line that measures it again: on the first unseen domain that is known."""
    spec, split = _asked(facts)
    words = ["revt", "evaluate", facts.repo_id, "--domain", spec.domain]
    if DOMAINS[spec.domain].needs_data_dir if spec.domain in DOMAINS else True:
        words += ["--data-dir", f"data/{spec.domain}"]
    if spec.config:
        words += ["--config", spec.config]
    words += ["--split", split]
    for key, value in spec.options.items():
        words += ["--option", f"{key}={json.dumps(without_places(value))}"]
    # A Hub id says nothing of the protocol by itself.
    words += _protocol(facts.evaluation)
    return shell_line(words)


def _protocol(evaluation: Protocol) -> list[str]:
    if evaluation == Protocol(max_size=evaluation.max_size):
        max_size = evaluation.max_size
        return ["--max-size", "native" if max_size is None else "{}x{}".format(*max_size)]
    names = [name for name, known in PROTOCOLS.items() if known == evaluation]
    return ["--protocol", names[0]] if names else []


def _asked(facts: ModelCardFacts) -> tuple[DomainSpec, str]:
    targets = [target for recipe in facts.recipes for target in recipe.targets]
    specs = [(DomainSpec(**_spec(target)), target.split) for target in targets]
    rows = sorted(facts.results, key=lambda row: facts.kind(row) == "source")
    if not rows:
        return specs[0] if specs else (DomainSpec(domain=_PLAIN_DOMAIN), "val")
    sources = [source for recipe in facts.recipes for source in recipe.sources]
    specs += [(DomainSpec(**_spec(source)), source.val) for source in sources]
    first = rows[0]
    wanted = (first.domain, first.config, first.split)
    for spec, split in specs:
        if (spec.domain, spec.config, split) == wanted:
            return spec, split
    own = first.domain == "folder" and first.label_encoding in ENCODINGS
    options = {"encoding": first.label_encoding} if own else {}
    return DomainSpec(domain=first.domain, config=first.config, options=options), first.split


def _spec(spec: DomainSpec) -> dict[str, Any]:
    return {"domain": spec.domain, "config": spec.config, "options": spec.options}


def _folded(title: str, language: str, record: str) -> Iterator[str]:
    """A record of which nothing can end the block; see :mod:`revt_hf.results.markdown`."""
    yield from ("<details>", f"<summary>{title}</summary>", "", f"```{language}")
    yield from (record.rstrip(), "```", "", "</details>")


def _limits(facts: ModelCardFacts) -> Iterator[str]:
    yield (
        f"It knows {len(CLASSES)} classes and gives one of them to every pixel, also to what is "
        "none of them. Scores tell how it does on those images, not on others: do not rely on "
        "it where a mistake can do harm."
    )
    yield ""
    yield f"License of the weights: {text(facts.license)}."
    if facts.starts:
        named = ", ".join(code(start) for start in facts.starts)
        yield f"Training started from {named}, whose license applies, too."
    for domain, license in _data_licenses(facts).items():
        yield f"Training data {code(domain)}: {license}."


def _data_licenses(facts: ModelCardFacts) -> Mapping[str, str]:
    used = (source.domain for recipe in facts.recipes for source in recipe.sources)
    return {
        name: DOMAINS[name].facts.license
        for name in dict.fromkeys(used)
        if name in DOMAINS and DOMAINS[name].facts.kind != "any" and DOMAINS[name].needs_data_dir
    }
