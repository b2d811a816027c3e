"""Domains: every dataset a ``datasets`` builder, behind one registry.

A module in this package, or an entry point of another one, registers a domain by itself.
"""

from importlib import import_module
from pkgutil import walk_packages

from revt_hf.data.domains.base import Domain, Facts, Opened, Sharing, checked_options
from revt_hf.data.domains.layouts import Layout
from revt_hf.data.domains.opening import (
    dataset_of,
    domain_label,
    label_encoding,
    load_domain,
    load_spec,
    open_domain,
    table_of,
)
from revt_hf.data.domains.paired import PairedDomain, PairedOptions
from revt_hf.data.domains.registration import DOMAINS, get_domain, register_domain

__all__ = [
    "DOMAINS",
    "Domain",
    "Facts",
    "Layout",
    "Opened",
    "PairedDomain",
    "PairedOptions",
    "Sharing",
    "checked_options",
    "dataset_of",
    "domain_label",
    "get_domain",
    "label_encoding",
    "load_domain",
    "load_spec",
    "open_domain",
    "register_domain",
    "table_of",
]

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)
