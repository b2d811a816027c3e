"""The registry of domains: this package's own and those that other packages add."""

import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from types import ModuleType
from typing import TypeVar

from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.domains.base import Domain

# The group of entry points in which another package names its domains.
ENTRY_POINTS = "revt_hf.domains"

DomainClass = TypeVar("DomainClass", bound=type[Domain])


class _Registry(Mapping[str, Domain]):
    """Domains by name; entry points are loaded for an unknown name or a list, not before."""

    def __init__(self) -> None:
        self._domains: dict[str, Domain] = {}
        self._complete = False

    def add(self, domain: type[Domain]) -> None:
        new = domain()
        known = self._domains.setdefault(domain.name, new)
        # The same class may be defined again, as in a notebook.
        if _origin(known) != _origin(new):
            raise UserError(
                f"the domain '{domain.name}' exists already ({_origin(known)}): rename yours"
            )
        self._domains[domain.name] = new

    def _load_entry_points(self) -> None:
        if self._complete:
            return
        self._complete = True
        for entry in entry_points(group=ENTRY_POINTS):
            try:
                found = entry.load()
                # A module registers its domains itself while it is imported.
                if not isinstance(found, ModuleType):
                    self.add(found)
            # A broken package must not keep the others from working.
            except Exception as error:
                sentence = f"cannot load the domain {entry.name} from {entry.value}: {error}"
                warnings.warn(sentence, DataWarning, stacklevel=2)

    def __getitem__(self, name: str) -> Domain:
        if name not in self._domains:
            self._load_entry_points()
        return self._domains[name]

    def __iter__(self) -> Iterator[str]:
        self._load_entry_points()
        return iter(sorted(self._domains))

    def __len__(self) -> int:
        self._load_entry_points()
        return len(self._domains)


def _origin(domain: Domain) -> str:
    return f"{type(domain).__module__}.{type(domain).__qualname__}"


DOMAINS = _Registry()


def register_domain(domain: DomainClass) -> DomainClass:
    """Class decorator that makes a :class:`Domain` available under its ``name``.

    Raises:
        UserError: another class is registered under that name.
    """
    DOMAINS.add(domain)
    return domain


def get_domain(name: str) -> Domain:
    """A registered domain.

    Raises:
        UserError: there is none of that name.
    """
    if name not in DOMAINS:
        raise UserError(f"unknown domain '{name}': use one of {', '.join(DOMAINS)}")
    return DOMAINS[name]
