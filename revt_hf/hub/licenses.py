"""What the Hub takes as a license."""

import re
from typing import Any

# The Hub's own list (its message in huggingface_hub issue 4218), without the licenses of single
# model families.
_LISTED = """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0
    cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0
    creativeml-openrail-m ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0
    gpl-3.0 h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr lppl-1.3c mit mpl-2.0
    ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 pddl postgresql unknown
    unlicense wtfpl zlib
"""
HUB_LICENSES = frozenset(_LISTED.split())
_LONGEST_NAME = 60


def license_metadata(license: str) -> dict[str, Any]:
    """The card's metadata for a license in words.

    Args:
        license: such as ``CC BY 4.0`` or ``apache-2.0``; or any terms, in words.

    Returns:
        ``license``, and ``license_name`` where it is none of the Hub's: the words themselves
        belong into the card's text, since a name is lower case without spaces.
    """
    name = re.sub(r"[^a-z0-9.+]+", "-", license.lower()).strip("-")
    if name in HUB_LICENSES:
        return {"license": name}
    return {"license": "other", "license_name": name[:_LONGEST_NAME].strip("-.") or "other"}
