"""Members as merges and other parts name them: ``base`` for each seed, or ``base/1`` for one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from revt_hf.core.errors import UserError
from revt_hf.experiments.recipe import Experiment


@dataclass(frozen=True)
class NamedMember:
    """A member for one seed, as a merge or ensemble names it."""

    name: str
    step: str


def with_seeds(
    experiment: Experiment, where: str, references: Sequence[str]
) -> Iterator[tuple[int | None, list[NamedMember]]]:
    """The members for each seed that they are named without; once if all are named with one.

    Raises:
        UserError: a reference names no member, members have other seeds, or one stands twice.
    """
    free = [ref for ref in references if "/" not in ref and ref in experiment.members]
    seeds: Sequence[int | None] = (None,)
    varying = [ref for ref in free if experiment.seeds_of(ref)]
    if varying:
        seeds = experiment.seeds_of(varying[0])
        for ref in varying:
            if set(experiment.seeds_of(ref)) != set(seeds):
                raise UserError(
                    f"{where}: {varying[0]} and {ref} have other seeds, "
                    f"{list(seeds)} and {list(experiment.seeds_of(ref))}: name one, as {ref}/0"
                )
    for seed in seeds:
        members = [one_member(experiment, where, ref, seed) for ref in references]
        if len({member.step for member in members}) < len(members):
            raise UserError(f"{where}: a member stands twice in {', '.join(references)}")
        yield seed, members


def one_member(experiment: Experiment, where: str, reference: str, seed: int | None) -> NamedMember:
    """The member that a reference (``base``, ``base/1``) names for a seed.

    Raises:
        UserError: there is no such member or seed; ``where`` leads the sentence.
    """
    name, slash, text = reference.partition("/")
    if name not in experiment.members:
        known = ", ".join(experiment.members)
        raise UserError(f"{where}: there is no member '{name}': use one of {known}")
    seeds = experiment.seeds_of(name)
    if slash:
        if not text.isdecimal() or int(text) not in seeds:
            raise UserError(f"{where}: {name} has no seed '{text}', only {list(seeds)}")
        return NamedMember(reference, member_step(name, int(text)))
    if not seeds:
        return NamedMember(name, member_step(name, None))
    if seed not in seeds:
        raise UserError(f"{where}: say which seed of {name}: {name}/{seeds[0]}")
    return NamedMember(name, member_step(name, seed))


def member_step(name: str, seed: int | None) -> str:
    """The step of a member."""
    return "/".join(part for part in ("members", name, seed_text(seed)) if part)


def seed_text(seed: int | None) -> str:
    """A seed as a part of a step's name."""
    return "" if seed is None else str(seed)
