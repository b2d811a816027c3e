"""What a model card is filled from: a model folder, measured results, and the user's options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.architecture import SIZES
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import Recipe, Source
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object
from revt_hf.data.domains import DOMAINS, domain_label
from revt_hf.evaluation.result import DomainScore, Result
from revt_hf.hub.commit import check_repo_id
from revt_hf.hub.local_paths import without_local_paths
from revt_hf.hub.records import MergeFacts, is_known, known_hub_ids, published_recipe, read_merge
from revt_hf.merging.record import Change, read_record
from revt_hf.models.load import load_model, network_sha256
from revt_hf.models.recorded import recorded_protocol, recorded_recipe

# Selections of the paper's merge.
_ENCODER = ("backbone", "segformer.*")


@dataclass(frozen=True)
class ModelCardFacts:
    """Everything in a model card; nothing of it is typed in by hand.

    ``evaluation`` is the model's protocol, ``processor_size`` the (width, height) that its image
    processor resizes to, and ``changes`` is what followed merging or training.
    """

    repo_id: str
    license: str
    architecture: str
    evaluation: Protocol
    processor_size: tuple[int, int] | None = None
    recipe: Recipe | None = None
    recipe_text: str | None = None
    merge: MergeFacts | None = None
    changes: tuple[Change, ...] = ()
    base_models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    results: tuple[Result, ...] = ()

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        repo_id: str,
        license: str | None,
        results: Sequence[Result] | None = None,
        base_models: Sequence[str] = (),
        datasets: Sequence[str] = (),
        members: Sequence[Path] = (),
    ) -> "ModelCardFacts":
        """Collect the facts of a model folder; results of other models are ignored.

        Only ``base_models``, and initial weights from NVIDIA, count as Hub IDs: ``runs/init`` looks
        like one, too. Recipes of a merge's members are also read in the folders ``members``.
        """
        path = Path(folder)
        check_repo_id(repo_id, "model")
        for name in datasets:
            check_repo_id(name, "dataset")
        license = " ".join((license or "").split())
        if not license:
            raise UserError(
                "name the license of the weights with --license, such as apache-2.0; the training "
                "data and the initial weights decide which licenses are possible"
            )
        recipe, record = recorded_recipe(path), read_record(path)
        hub_ids = known_hub_ids(base_models, recipe)
        measured = results_of(path, results or (), [repo_id])
        if results is not None and not measured:
            names = ", ".join(dict.fromkeys(result.model for result in results))
            raise UserError(f"there are results, but none of {path}: they are of {names}")
        return cls(
            repo_id=repo_id,
            license=license,
            architecture=_architecture(read_json_object(path / "config.json")),
            evaluation=recorded_protocol([path]),
            processor_size=_processor_size(path / "preprocessor_config.json"),
            recipe=recipe,
            recipe_text=published_recipe(recipe, hub_ids) if recipe else None,
            merge=read_merge(path, hub_ids, members),
            changes=record.changes if record else (),
            base_models=hub_ids,
            datasets=tuple(datasets),
            results=tuple(measured),
        )

    @property
    def name(self) -> str:
        """The name of the repository without its owner."""
        return self.repo_id.partition("/")[2]

    @property
    def is_revt(self) -> bool:
        """Whether it is the paper's merge, of models that are not merges themselves."""
        if self.merge is None or len(self.merge.rules) != 1:
            return False
        if any(member.is_merge for member in self.merge.members):
            return False
        rule = self.merge.rules[0]
        return rule.method == "mean" and rule.select in _ENCODER and not rule.settings

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The model's own recipe, or the known recipes of its members."""
        of_members = (member.recipe for member in self.merge.members) if self.merge else ()
        return tuple(recipe for recipe in (self.recipe, *of_members) if recipe is not None)

    @property
    def scores(self) -> tuple[tuple[DomainScore, Protocol], ...]:
        """Every score with its protocol."""
        return tuple((score, one.protocol) for one in self.results for score in one.scores)

    def kind(self, score: DomainScore) -> str:
        """``source`` if the model was trained on that domain, ``unseen`` if it certainly was not.

        The recipes decide: results of a single domain do not tell sources from targets.
        """
        if score.is_source or any(
            _same_domain(score, source) for recipe in self.recipes for source in recipe.sources
        ):
            return "source"
        models = len(self.merge.members) if self.merge else 1
        return "unseen" if len(self.recipes) >= models else "not recorded"

    @property
    def inits(self) -> tuple[str, ...]:
        """The Hub IDs of the initial weights, as far as they are known."""
        named = (recipe.model.init or "" for recipe in self.recipes)
        known = (init for init in named if is_known(init, self.base_models))
        return tuple(dict.fromkeys(known))


def results_of(folder: Path, results: Sequence[Result], also: Sequence[str] = ()) -> list[Result]:
    """The results of one model (or of its Hub IDs ``also``) among those of several.

    A result belongs to the folder if ``model`` is it or, where no result's is, if it was measured
    on these weights. Results of weights that the folder no longer has are refused.
    """

    def is_named(model: str) -> bool:
        if Path(model).exists():
            return Path(model).resolve() == folder.resolve()
        return model.partition("@")[0] in also

    digest = network_sha256(load_model(folder)) if results else None
    own = [(number, one) for number, one in enumerate(results) if is_named(one.model)]
    own = own or [(n, one) for n, one in enumerate(results) if one.network_sha256 == (digest,)]
    labels: set[str] = set()
    for number, result in own:
        if result.network_sha256 != (digest,):
            known = f"was measured on other weights, classes or normalisation than {folder} has"
            problem = (
                known if result.network_sha256 else "does not tell which weights it was measured on"
            )
            raise UserError(
                f"results[{number}] ({result.model}) {problem}: evaluate {folder} again"
            )
        for score in result.scores:
            if score.label in labels:
                raise UserError(f"the results score {folder} twice on {score.label}")
            labels.add(score.label)
    return [result for _, result in own]


def published_result(result: Result, name: str) -> Result:
    """A result under the published name of the model, without local paths."""
    values = without_local_paths(result.model_dump(mode="json"))
    return Result.model_validate({**values, "model": name})


def _same_domain(score: DomainScore, source: Source) -> bool:
    domain = DOMAINS.get(score.domain)
    if domain is None or score.domain != source.domain:
        return False
    if domain.facts.kind == "any":
        # Only folder and split distinguish a user's own images.
        return score.label in [domain_label(source, split) for split in (source.train, source.val)]
    return domain.chosen_config(score.config) == domain.chosen_config(source.config)


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
