"""What a model card is filled from: a model folder, measured results, and what the user says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import Recipe, Source
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object
from revt_hf.data.domains import DOMAINS, domain_label
from revt_hf.evaluation.result import DomainScore, Result
from revt_hf.hub.commit import check_repo_id
from revt_hf.hub.measured import results_of
from revt_hf.hub.records import (
    Merge,
    is_known,
    known_hub_ids,
    published_recipe,
    read_merge,
)
from revt_hf.merging.record import Change, read_record
from revt_hf.models.load import SIZES
from revt_hf.models.recorded import recorded_protocol, recorded_recipe

# The paper's merge: the mean of these tensors.
_ENCODER = ("backbone", "segformer.*")


@dataclass(frozen=True)
class ModelCardFacts:
    """Everything that stands in a model card; nothing of it is typed in by hand.

    Attributes:
        repo_id: where the model goes on the Hub.
        license: of the weights, in words or as the Hub's identifier.
        architecture: such as ``SegFormer-B2``.
        evaluation: the test protocol that the model is made for.
        processor_size: (width, height) that its image processor resizes to; None: it does not.
        recipe: that trained it.
        recipe_text: the same as it is published, YAML.
        merge: how it was merged.
        changes: what was done to its weights after that (or after training).
        base_models: the Hub models that it was made from.
        datasets: the Hub datasets that it was trained on.
        results: measured ones.
    """

    repo_id: str
    license: str
    architecture: str
    evaluation: Protocol
    processor_size: tuple[int, int] | None = None
    recipe: Recipe | None = None
    recipe_text: str | None = None
    merge: Merge | None = None
    changes: tuple[Change, ...] = ()
    base_models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    results: tuple[Result, ...] = ()

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        results: Sequence[Result] | None,
        base_models: Sequence[str],
        license: str | None,
        repo_id: str,
        datasets: Sequence[str] = (),
        members: Sequence[Path] = (),
    ) -> "ModelCardFacts":
        """Collect the facts of a model folder.

        Args:
            folder: with ``config.json``; ``recipe.yaml`` and ``merge.json`` are read if there.
            results: measured ones; those of other models are left aside.
            base_models: Hub ids of what the model was made from. Nothing else is taken for a Hub
                id, except a start of NVIDIA's: ``runs/start`` looks like one, too.
            license: of the weights.
            repo_id: where the model goes.
            datasets: Hub ids of what it was trained on.
            members: folders of a merge's members, to read their recipes from.

        Raises:
            UserError: the license is not named; an id is none; a record cannot be read; there
                are results, but none of this model.
        """
        place = Path(folder)
        check_repo_id(repo_id, "model")
        for name in datasets:
            check_repo_id(name, "dataset")
        named = _named_license(license)
        recipe = recorded_recipe(place)
        hub_ids = known_hub_ids(base_models, recipe)
        record = read_record(place)
        return cls(
            repo_id=repo_id,
            license=named,
            architecture=_architecture(read_json_object(place / "config.json")),
            evaluation=recorded_protocol([place]),
            processor_size=_processor_size(place / "preprocessor_config.json"),
            recipe=recipe,
            recipe_text=published_recipe(recipe, hub_ids) if recipe else None,
            merge=read_merge(place, hub_ids, members),
            changes=record.changes if record else (),
            base_models=hub_ids,
            datasets=tuple(datasets),
            results=_own_results(place, results, repo_id),
        )

    @property
    def is_revt(self) -> bool:
        """Whether it is the paper's merge, of models that are none themselves."""
        if self.merge is None or len(self.merge.rules) != 1:
            return False
        if any(member.is_merge for member in self.merge.members):
            return False
        rule = self.merge.rules[0]
        return rule.method == "mean" and rule.select in _ENCODER and not rule.settings

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """Its own recipe, or those of its members that are known."""
        of_members = (member.recipe for member in self.merge.members) if self.merge else ()
        return tuple(recipe for recipe in (self.recipe, *of_members) if recipe is not None)

    @property
    def scores(self) -> tuple[tuple[DomainScore, Protocol], ...]:
        """Every score with the protocol it was measured by."""
        return tuple((score, one.protocol) for one in self.results for score in one.scores)

    def kind(self, row: DomainScore) -> str:
        """``source`` if the model was trained on the row's domain, ``unseen`` if it surely was not.

        Results of a single domain do not know it: recipes do.
        """
        if row.is_source or any(
            _same_domain(row, source) for recipe in self.recipes for source in recipe.sources
        ):
            return "source"
        models = len(self.merge.members) if self.merge else 1
        return "unseen" if len(self.recipes) >= models else "not recorded"

    @property
    def inits(self) -> tuple[str, ...]:
        """The Hub models whose weights training started from, as far as they are known."""
        named = (recipe.model.init or "" for recipe in self.recipes)
        known = (start for start in named if is_known(start, self.base_models))
        return tuple(dict.fromkeys(known))


def _same_domain(row: DomainScore, source: Source) -> bool:
    domain = DOMAINS.get(row.domain)
    if domain is None or row.domain != source.domain:
        return False
    if domain.facts.kind == "any":
        # Only the folder and the split tell the user's own images apart.
        return row.label in [domain_label(source, split) for split in (source.train, source.val)]
    return domain.chosen_config(row.config) == domain.chosen_config(source.config)


def _named_license(license: str | None) -> str:
    named = " ".join((license or "").split())
    if not named:
        raise UserError(
            "name the license of the weights with --license, such as apache-2.0: what they were "
            "trained on and started from decides which ones are possible"
        )
    return named


def _own_results(
    folder: Path, results: Sequence[Result] | None, repo_id: str
) -> tuple[Result, ...]:
    if results is None:
        return ()
    found = results_of(folder, results, [repo_id])
    if not found:
        names = dict.fromkeys(result.model for result in results)
        raise UserError(f"there are results, but none of {folder}: they are of {', '.join(names)}")
    return tuple(found)


def _architecture(config: Mapping[str, Any]) -> str:
    depths, widths = (tuple(config.get(key) or ()) for key in ("depths", "hidden_sizes"))
    for name, size in SIZES.items():
        if (depths, widths) == (size.depths, size.hidden_sizes):
            return f"SegFormer-{name.upper()}"
    if not (depths and widths):
        return "SegFormer"
    return f"SegFormer (depths {_listed(depths)}; widths {_listed(widths)})"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _processor_size(path: Path) -> tuple[int, int] | None:
    processor = read_json_object(path) if path.is_file() else {}
    size = processor.get("size") or {}
    if not processor.get("do_resize") or not {"width", "height"} <= set(size):
        return None
    return size["width"], size["height"]
