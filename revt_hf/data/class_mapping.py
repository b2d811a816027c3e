"""Which classes of a model count as which classes of a domain, where the two differ."""

from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from revt_hf.config.yaml_files import Section, parse_yaml, read_yaml
from revt_hf.core.errors import UserError, plain
from revt_hf.data.label_space import CITYSCAPES, IGNORE_INDEX, LabelSpace, parse_classes, some_of

SHIPPED = ("ade20k", "mapillary65")


class ClassMapping(Section):
    """Classes of a model, and what they count as; all others have no counterpart.

    Attributes:
        name: of a shipped mapping, or of the file.
        classes: the domain's class by the model's; None says that there is none.
        missing: the domain's classes without a counterpart, once :meth:`between` knows them.
    """

    name: str
    classes: dict[str, str | None]
    missing: tuple[str, ...] = ()

    @property
    def space(self) -> LabelSpace:
        """Cityscapes' 19 if they have all on the right; else these in the order of the file."""
        found = {plain(name): name for name in self.classes.values() if name is not None}
        if set(found) <= set(CITYSCAPES.by_plain):
            return CITYSCAPES
        return parse_classes(list(found.values()), self.name)

    def between(self, model: LabelSpace, domain: LabelSpace) -> "ClassMapping":
        """The counterparts alone, as model and domain spell them.

        Refuses names that model or domain do not have, and a name of both that is left out.
        """
        own = {plain(name): name for name in domain.classes}
        found: dict[str, str | None] = {}
        for given, counterpart in self.classes.items():
            name = self._named(given, model)
            if name in found:
                raise UserError(f"{self.name} maps {name!a} of the model twice")
            if counterpart is not None and plain(counterpart) not in own:
                raise UserError(
                    f"{self.name}: {given!a} counts as {counterpart!a}, but {domain.name} only has "
                    f"{some_of(domain.classes)}"
                )
            found[name] = None if counterpart is None else own[plain(counterpart)]
        left = [name for name in model.classes if name not in found and plain(name) in own]
        if left:
            raise UserError(
                f"{self.name} leaves out {some_of(left)}, which the model and {domain.name} have: "
                "map it, or to null if it has no counterpart"
            )
        missing = tuple(name for name in domain.classes if name not in found.values())
        kept = {name: other for name, other in found.items() if other is not None}
        return ClassMapping(name=self.name, classes={**kept}, missing=missing)

    def _named(self, given: str, model: LabelSpace) -> str:
        """The model's class of a name; else the only one that shares a synonym with it."""
        same = [name for name in model.classes if plain(name) == plain(given)]
        same = same or [name for name in model.classes if _synonyms(name) & _synonyms(given)]
        if not same:
            raise UserError(
                f"{self.name}: the model has no class {given!a}, only {some_of(model.classes)}"
            )
        if len(same) > 1:
            raise UserError(f"{self.name}: {given!a} may be {some_of(same)} of the model")
        return same[0]

    def table(self, model: LabelSpace, domain: LabelSpace) -> NDArray[np.uint8]:
        """The domain's class id by the model's, (256,), uint8; 255 where there is none."""
        table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
        for name, counterpart in self.classes.items():
            if counterpart is not None:
                table[model.ids[name]] = domain.ids[counterpart]
        return table

    @property
    def note(self) -> str:
        """What a reader of scores has to know."""
        none = "; no counterpart, so IoU 0 where labelled: " if self.missing else ""
        return (
            f"mapping {self.name}: {len(self.classes)} of the model's classes count as classes of "
            f"the domain, predictions of all others as wrong{none}{', '.join(self.missing)}."
        )


def _synonyms(name: str) -> set[str]:
    """ADE20K's names are lists of synonyms, of which models have one, several or all."""
    return set(map(plain, name.split(",")))


def read_mapping(source: str | Path) -> ClassMapping:
    """A shipped mapping by its name, or one in a YAML file: ``class of the model: of the domain``.

    Raises:
        UserError: there is none of that name, or it is no mapping of names to names.
    """
    if str(source) in SHIPPED:
        text = files("revt_hf.data").joinpath("mappings", f"{source}.yaml").read_text()
        return ClassMapping(name=str(source), classes=parse_yaml(text))
    if not Path(source).exists():
        raise UserError(f"{source}: no such file, nor one of {', '.join(SHIPPED)}")
    values = read_yaml(Path(source))
    pairs = list(values.items()) if isinstance(values, dict) else []
    if not any(isinstance(other, str) for _, other in pairs):
        raise UserError(f"{source}: write lines of 'class of the model: class of the domain'")
    for name, other in pairs:
        if not isinstance(name, str) or not isinstance(other, str | None):
            raise UserError(f"{source}: {name!a}: {other!a} are not two names: quote them")
    return ClassMapping(name=Path(source).name, classes=values)
