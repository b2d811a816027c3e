"""What a model card is filled from: a model folder, measured results, and the user's options."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from revt_hf.checkpoints.description import read_description
from revt_hf.checkpoints.tensors import WEIGHTS_FILE
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec, Recipe, Source
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256
from revt_hf.data.class_mapping import ClassMapping
from revt_hf.data.domains import DOMAINS, domain_label
from revt_hf.data.label_space import LabelSpace, space_of, standard_order
from revt_hf.evaluation.result import DomainScore, Result
from revt_hf.hub.commit import (
    HubDataset,
    PushOptions,
    Related,
    check_repo_id,
    is_repo_id,
    last_part,
)
from revt_hf.hub.published import member_names, published_record
from revt_hf.merging.record import (
    Change,
    ChangeSource,
    MemberRecord,
    MergeRecord,
    parse_record,
    read_record,
)
from revt_hf.models.load import load_model, network_sha256
from revt_hf.models.recorded import recorded_recipe

# Selections of the paper's merge.
_ENCODER = ("backbone", "segformer.*")
# The only owner whose SegFormers may be initial weights for sure: ``runs/init`` is a folder, too.
_KNOWN_OWNER = "nvidia/"


@dataclass(frozen=True)
class MemberFacts:
    """A member of a merge; its recipe is known if a folder with these weights is found."""

    name: str
    record: MemberRecord
    recipe: Recipe | None


@dataclass(frozen=True)
class ModelCardFacts:
    """Everything in a model card, nothing typed in by hand; ``merge`` is without local paths."""

    folder: Path
    repo_id: str
    license: str
    recipe: Recipe | None
    merge: MergeRecord | None
    members: tuple[MemberFacts, ...]
    changes: tuple[Change, ...]
    base_models: tuple[str, ...]
    datasets: tuple[str, ...]
    results: tuple[Result, ...]
    dataset_ids: Mapping[str, HubDataset]
    related: Related
    with_space: bool = False

    @property
    def name(self) -> str:
        return self.repo_id.partition("/")[2]

    @property
    def classes(self) -> LabelSpace:
        names = read_description(self.folder).classes
        return standard_order(space_of(names, "the model"))

    @property
    def is_revt(self) -> bool:
        """Whether it is the paper's merge, of models that are not merges themselves."""
        if self.merge is None or len(self.merge.rules) != 1:
            return False
        rule = self.merge.rules[0]
        is_nested = any(member.record.merge for member in self.members)
        is_mean = rule.method == "mean" and rule.select in _ENCODER and not rule.settings
        return is_mean and not is_nested

    @property
    def recipes(self) -> list[Recipe]:
        """The model's own recipe, or the known recipes of its members."""
        known = (self.recipe, *(member.recipe for member in self.members))
        return [recipe for recipe in known if recipe is not None]

    @property
    def histories(self) -> str:
        """How many members were merged or changed before; empty if none was."""
        records = [member.record for member in self.members]
        kinds = [{change.kind for change in one.changes} for one in records]
        counts = {"merged": sum(one.merge is not None for one in records)}
        for kind in sorted(set().union(*kinds)):
            counts[kind] = sum(kind in one for one in kinds)
        told = [f"{count} {kind} before" for kind, count in counts.items() if count]
        return ", ".join(told)

    @property
    def sources(self) -> list[Source | ChangeSource]:
        """All domains whose images are known to have had a part in the weights."""
        changed = (self.changes, *(member.record.changes for member in self.members))
        return [
            *(source for recipe in self.recipes for source in recipe.sources),
            *(source for changes in changed for change in changes for source in change.sources),
        ]

    @property
    def scores(self) -> list[tuple[DomainScore, Protocol]]:
        return [(score, one.protocol) for one in self.results for score in one.scores]

    @property
    def mappings(self) -> list[ClassMapping]:
        """Those of its scores, each once."""
        found = {repr(one.mapping): one.mapping for one in self.results if one.mapping}
        return list(found.values())

    @property
    def all_datasets(self) -> list[str]:
        """Hub IDs of the training datasets: those that were named, and those that are known."""
        named = (self._dataset(source.domain) for source in self.sources)
        return list(dict.fromkeys([*self.datasets, *(one.id for one in named if one)]))

    def dataset_of(self, score: DomainScore) -> HubDataset | None:
        """The dataset of the Hub that a split is of, as far as that is known."""
        return self._dataset(*score.names)

    def _dataset(self, *names: str) -> HubDataset | None:
        named = (self.dataset_ids[name] for name in names if name in self.dataset_ids)
        domain = DOMAINS.get(names[-1])
        own = domain.facts.hub_id if domain else None
        return next(named, HubDataset(own) if own else None)

    def kind(self, score: DomainScore) -> str:
        """``source`` if the model was trained on that domain, ``unseen`` if certainly not."""
        # Results of a single domain do not tell sources from targets.
        if score.is_source or any(_same_domain(score, source) for source in self.sources):
            return "source"
        return "unseen" if len(self.recipes) >= max(len(self.members), 1) else "not recorded"

    @property
    def inits(self) -> list[str]:
        """The Hub IDs of the initial weights, as far as they are known."""
        named = dict.fromkeys(recipe.model.init or "" for recipe in self.recipes)
        return [init for init in named if _is_known(init, self.base_models)]


def model_facts(
    folder: Path, repo_id: str, options: PushOptions, results: Sequence[Result] | None
) -> ModelCardFacts:
    """Collect the facts of a model folder; results of other models are ignored."""
    for name in options.datasets:
        check_repo_id(name, "dataset")
    license = " ".join((options.license or "").split())
    if not license:
        raise UserError(
            "name the license of the weights with --license, such as apache-2.0; the training "
            "data and the initial weights decide which licenses are possible"
        )
    recipe, record = recorded_recipe(folder), read_record(folder)
    related = options.related.models
    hub_ids = known_hub_ids(options.base_models, recipe)
    measured = results_of(folder, results or (), [repo_id])
    if results is not None and not measured:
        names = ", ".join(dict.fromkeys(result.model for result in results))
        raise UserError(f"there are results, but none of {folder}: they are of {names}")
    merge: MergeRecord | None = None
    members: tuple[MemberFacts, ...] = ()
    if isinstance(record, MergeRecord):
        known = (related.get(one.sha256 or "") for one in record.members)
        published = [one.repo_id for one in known if one]
        merged = [one.path.partition("@")[0] for one in record.inputs if one.hub is not None]
        hub_ids = tuple(dict.fromkeys([*published, *hub_ids, *merged]))
        told = published_record(record.to_json(), hub_ids, related)
        merge = parse_record(told, folder / record.file, MergeRecord)
        members = _members(folder, record, merge, options)
    return ModelCardFacts(
        folder=folder,
        repo_id=repo_id,
        license=license,
        recipe=recipe,
        merge=merge,
        members=members,
        changes=record.changes if record else (),
        base_models=hub_ids,
        datasets=tuple(options.datasets),
        results=tuple(measured),
        dataset_ids=options.dataset_ids,
        related=options.related,
        with_space=options.with_space,
    )


def known_hub_ids(base_models: Sequence[str], recipe: Recipe | None) -> tuple[str, ...]:
    """The known Hub IDs: ``base_models``, and the recipe's initial weights if from NVIDIA."""
    for name in base_models:
        if not is_repo_id(name) or Path(name).exists():
            raise UserError(
                f"the base model '{name}' is not the ID of a Hub model: write it as owner/name"
            )
    init = (recipe.model.init or "") if recipe else ""
    known = [init.partition("@")[0]] if _is_known(init) else []
    return tuple(dict.fromkeys([*base_models, *known]))


def _is_known(name: str, hub_ids: Collection[str] = ()) -> bool:
    """Whether ``owner/name`` or ``owner/name@revision`` is certainly a Hub model."""
    model = name.partition("@")[0]
    return model in hub_ids or (model.startswith(_KNOWN_OWNER) and is_repo_id(model))


def results_of(folder: Path, results: Sequence[Result], also: Sequence[str] = ()) -> list[Result]:
    """The results named after the folder or ``also``, else those measured on its weights."""

    def is_named(model: str) -> bool:
        if Path(model).exists():
            return Path(model).resolve() == folder.resolve()
        return model.partition("@")[0] in also

    digest = (network_sha256(load_model(folder)),) if results else ()
    own = [(number, one) for number, one in enumerate(results) if is_named(one.model)]
    own = own or [(n, one) for n, one in enumerate(results) if one.network_sha256 == digest]
    labels: set[str] = set()
    for number, result in own:
        if result.network_sha256 != digest:
            problem = (
                f"was measured on other weights, classes or normalisation than {folder} has"
                if result.network_sha256
                else "does not tell which weights it was measured on"
            )
            raise UserError(
                f"results[{number}] ({result.model}) {problem}: evaluate {folder} again"
            )
        for score in result.scores:
            if score.label in labels:
                raise UserError(f"the results score {folder} twice on {score.label}")
            labels.add(score.label)
    return [result for _, result in own]


def _same_domain(score: DomainScore, source: Source | ChangeSource) -> bool:
    domain = DOMAINS.get(score.domain)
    if domain is None or score.domain != source.domain:
        return False
    if domain.facts.kind == "any":
        # Only folder and split distinguish a user's own images.
        splits = [source.train, *([source.val] if isinstance(source, Source) else [])]
        return score.label in [_label(source, split) for split in splits]
    return domain.chosen_config(score.config) == domain.chosen_config(source.config)


def _label(source: Source | ChangeSource, split: str) -> str:
    values = {name: getattr(source, name) for name in ("domain", "data_dir", "config")}
    return domain_label(DomainSpec(**values, options=source.options or {}), split)


def _members(
    folder: Path, record: MergeRecord, published: MergeRecord, options: PushOptions
) -> tuple[MemberFacts, ...]:
    """The members of a merge, whose folders are those of the options, or looked for beside it."""
    members = []
    names = member_names([member.name or member.path for member in record.members])
    for name, member, told in zip(names, record.members, published.members, strict=True):
        path = Path(member.path)
        # The path of a member may be a file in its folder.
        known = options.related.models.get(member.sha256 or "")
        near = [known.folder] if known else options.with_members
        places = [*near, path, path.parent, folder.parent / last_part(member.path)]
        found = (place for place in places if _holds(place, member.sha256))
        recipe = next((recorded_recipe(place) for place in found), None)
        members.append(MemberFacts(name, told, recipe))
    return tuple(members)


def _holds(folder: Path, sha256: str | None) -> bool:
    weights = folder / WEIGHTS_FILE
    return weights.is_file() and file_sha256(weights) == sha256
