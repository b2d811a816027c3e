"""Domains: every dataset a ``datasets`` builder, behind one registry.

A module in this package, or an entry point of another one, registers its own domain.
"""

from importlib import import_module
from pkgutil import walk_packages

from revt_hf.data.domains.base import Domain as Domain
from revt_hf.data.domains.base import Facts as Facts
from revt_hf.data.domains.base import Layout as Layout
from revt_hf.data.domains.base import Opened as Opened
from revt_hf.data.domains.base import Sharing as Sharing
from revt_hf.data.domains.base import checked_options as checked_options
from revt_hf.data.domains.opening import DOMAINS as DOMAINS
from revt_hf.data.domains.opening import dataset_of as dataset_of
from revt_hf.data.domains.opening import domain_label as domain_label
from revt_hf.data.domains.opening import get_domain as get_domain
from revt_hf.data.domains.opening import in_space as in_space
from revt_hf.data.domains.opening import label_encoding as label_encoding
from revt_hf.data.domains.opening import load_domain as load_domain
from revt_hf.data.domains.opening import load_spec as load_spec
from revt_hf.data.domains.opening import open_domain as open_domain
from revt_hf.data.domains.opening import register_domain as register_domain
from revt_hf.data.domains.opening import space_of_images as space_of_images
from revt_hf.data.domains.opening import space_of_spec as space_of_spec
from revt_hf.data.domains.paired import PairedDomain as PairedDomain

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)
