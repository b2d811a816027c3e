"""A model's scores for the Hub: ``model-index`` of its card, and ``.eval_results/*.yaml``.

The card holds every score. An entry of ``.eval_results`` is for a leaderboard: it names a dataset
of the Hub that is a benchmark, and a task of its ``eval.yaml``. Neither is guessed.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus

import huggingface_hub
import yaml
from huggingface_hub import EvalResult, EvalResultEntry, HfApi, eval_result_entries_to_yaml
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
)

from revt_hf.core.errors import UserError
from revt_hf.data.domains import DOMAINS
from revt_hf.evaluation.result import DomainScore, Result
from revt_hf.hub.commit import HUB_URL, HubDataset, is_repo_id
from revt_hf.hub.facts import ModelCardFacts
from revt_hf.results.markdown import yaml_text

TASK = "image-segmentation"
EVALUATIONS_FILE = ".eval_results/revt_hf.yaml"
_BENCHMARK_FILE = "eval.yaml"
_TASK = re.compile(r"\w[\w./-]{0,99}")


def parse_dataset_ids(texts: Sequence[str]) -> dict[str, HubDataset]:
    """``DOMAIN=OWNER/NAME`` or ``DOMAIN=OWNER/NAME:TASK``; a split's label may name a domain."""
    found: dict[str, HubDataset] = {}
    for text in texts:
        domain, _, rest = text.partition("=")
        name, colon, task = rest.partition(":")
        if not domain or not is_repo_id(name) or (colon and not _TASK.fullmatch(task)):
            raise UserError(
                f"--dataset-id {text}: write DOMAIN=OWNER/NAME, or DOMAIN=OWNER/NAME:TASK with a "
                f"task of that benchmark's {_BENCHMARK_FILE}"
            )
        if domain in found:
            raise UserError(f"--dataset-id names {domain} twice")
        found[domain] = HubDataset(name, task or None)
    return found


def check_dataset_ids(named: Mapping[str, HubDataset], models: Iterable[ModelCardFacts]) -> None:
    """Refuse names that no model was scored or trained on: they would change nothing."""
    known: set[str] = set()
    for facts in models:
        known |= {name for score, _ in facts.scores for name in score.names}
        known |= {source.domain for source in facts.sources}
    for name in named:
        if name not in known:
            there = f"known are {', '.join(sorted(known))}" if known else "no domain is known"
            raise UserError(f"--dataset-id {name}=...: no score or training is of {name}; {there}")


def check_tasks(hub: HfApi, named: Mapping[str, HubDataset]) -> None:
    """Refuse tasks that the benchmarks do not have: the Hub would show their scores nowhere."""
    for domain, dataset in named.items():
        if dataset.task is None:
            continue
        url = f"{hub.endpoint}/datasets/{dataset.id}/resolve/main/{_BENCHMARK_FILE}"
        answer = huggingface_hub.get_session().get(url, headers=build_hf_headers())
        what = f"--dataset-id {domain}={dataset.id}:{dataset.task}"
        if answer.status_code == HTTPStatus.NOT_FOUND:
            raise UserError(
                f"{what}: there is no dataset of that name with an {_BENCHMARK_FILE}, so it is no "
                "benchmark of the Hub: leave the task out"
            )
        hf_raise_for_status(answer)
        try:
            tasks = [str(task["id"]) for task in yaml.safe_load(answer.text)["tasks"]]
        except (yaml.YAMLError, TypeError, KeyError) as error:
            raise UserError(f"{what}: its {_BENCHMARK_FILE} lists no tasks") from error
        if dataset.task not in tasks:
            raise UserError(f"{what}: its tasks are {', '.join(tasks)}")


def model_index(facts: ModelCardFacts) -> list[EvalResult]:
    """Every score, for the metadata of the card."""
    return [
        _eval_result(facts, result, score) for result in facts.results for score in result.scores
    ]


def _eval_result(facts: ModelCardFacts, result: Result, score: DomainScore) -> EvalResult:
    # The Hub distinguishes results by type, config and split: a user's own folder needs a name.
    known = score.domain in DOMAINS and DOMAINS[score.domain].facts.kind != "any"
    slug = re.sub(r"[^a-z0-9]+", "-", score.label.rpartition("/")[0].lower()).strip("-")
    dataset = facts.dataset_of(score)
    return EvalResult(
        task_type=TASK,
        task_name="Semantic segmentation",
        dataset_type=dataset.id if dataset else score.domain if known else slug or "folder",
        dataset_name=result.mapped(score.label),
        dataset_config=score.config,
        dataset_split=score.split,
        metric_type="mean_iou",
        metric_name="mIoU (%)",
        metric_value=round(score.miou, 2),
    )


def evaluations_text(facts: ModelCardFacts) -> tuple[str | None, list[str]]:
    """The file's text, None without an entry, and the labels of the splits that have none."""
    entries: dict[tuple[str, str], EvalResultEntry] = {}
    others = []
    for result in facts.results:
        for score in result.scores:
            dataset = facts.dataset_of(score)
            if dataset is None or dataset.task is None:
                others.append(score.label)
                continue
            key = (dataset.id, dataset.task)
            if key in entries:
                raise UserError(
                    f"{score.label} and another split are both task {dataset.task} of "
                    f"{dataset.id}: name the one that is with --dataset-id {score.label}=..."
                )
            entries[key] = _entry(facts, result, score, *key)
    written = yaml_text(eval_result_entries_to_yaml([*entries.values()])) if entries else None
    return written, others


def _entry(
    facts: ModelCardFacts, result: Result, score: DomainScore, dataset: str, task: str
) -> EvalResultEntry:
    notes = [f"mIoU (%) of {result.mapped(score.label)}", f"{score.images} images"]
    notes += [f"protocol {result.protocol.text}", f"in training: {facts.kind(score)}"]
    notes += [f"label encoding {score.label_encoding}"] if score.label_encoding else []
    # No date: results do not record when they were measured, and the Hub takes the commit's.
    return EvalResultEntry(
        dataset_id=dataset,
        task_id=task,
        value=round(score.miou, 2),
        source_url=f"{HUB_URL}/{facts.repo_id}/blob/main/results.json",
        source_name="results.json of revt evaluate",
        notes=", ".join(notes),
    )
