"""Cards of the Hub (``README.md``): rendered from templates, and checked before they are sent."""

import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from revt_hf.config.yaml_files import validation_sentence
from revt_hf.core.errors import UserError
from revt_hf.hub.commit import is_repo_id
from revt_hf.results.formats import templates
from revt_hf.results.markdown import code, text

# The Hub's own list (its message in huggingface_hub issue 4218), without the licenses of single
# model families.
_LICENSES = """
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
HUB_LICENSES = frozenset(_LICENSES.split())
_LONGEST_NAME = 60
_FRONT = re.compile(r"\A---\n(.*?)\n---\n(.*)\Z", re.DOTALL)
_LICENSE_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_PLACEHOLDER = "[More Information Needed]"


class Markdown(str):
    """A string that a template inserts as it is; every other value is escaped."""


def render_card(template: str, **values: Any) -> str:
    """Render a template; no value becomes markup unless it is a :class:`Markdown`."""
    environment = templates("revt_hf.hub", _escaped)
    environment.filters |= {"code": lambda value: Markdown(code(value)), "markdown": Markdown}
    return environment.get_template(template).render(**values)


def _escaped(value: Any) -> str:
    return value if isinstance(value, Markdown) else text(str(value))


def license_metadata(license: str) -> dict[str, Any]:
    """The card's metadata for a license such as ``CC BY 4.0``, or for any terms in words.

    A license that the Hub does not list gets a ``license_name`` in lower case without spaces: the
    terms themselves belong in the text of the card.
    """
    name = re.sub(r"[^a-z0-9.+]+", "-", license.lower()).strip("-")
    if name in HUB_LICENSES:
        return {"license": name}
    return {"license": "other", "license_name": name[:_LONGEST_NAME].strip("-.") or "other"}


def _repo_id(text: str) -> str:
    if not is_repo_id(text):
        raise ValueError(f"'{text}' is not the ID of a Hub repository")
    return text


Text = Annotated[str, Field(min_length=1)]
RepoId = Annotated[str, AfterValidator(_repo_id)]
RepoIds = RepoId | Annotated[list[RepoId], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class _Task(_Part):
    type: Literal["image-segmentation"]


class _Dataset(_Part):
    type: Text
    name: Text


class _Metric(_Part):
    type: Text
    value: Annotated[float, Field(allow_inf_nan=False)]


class _Evaluation(_Part):
    task: _Task
    dataset: _Dataset
    metrics: Annotated[list[_Metric], Field(min_length=1)]


class _Index(_Part):
    name: Text
    results: Annotated[list[_Evaluation], Field(min_length=1)]


class _Card(_Part):
    library_name: Literal["transformers"]
    pipeline_tag: Literal["image-segmentation"]
    license: Text
    tags: Annotated[list[Text], Field(min_length=1)]
    license_name: Text | None = None
    base_model: RepoIds | None = None
    base_model_relation: Literal["adapter", "finetune", "merge", "quantized"] | None = None
    datasets: RepoIds | None = None
    index: Annotated[list[_Index], Field(min_length=1)] | None = Field(None, alias="model-index")

    @model_validator(mode="after")
    def _consistent(self) -> "_Card":
        if self.license == "other":
            if not _LICENSE_NAME.fullmatch(self.license_name or ""):
                raise ValueError("license_name: 'other' needs a name, lower case without spaces")
        elif self.license not in HUB_LICENSES:
            raise ValueError(f"license: '{self.license}' is not listed by the Hub")
        if self.base_model_relation and not self.base_model:
            raise ValueError("base_model: base_model_relation needs it")
        return self


def check_card(text: str) -> None:
    """Refuse a model card that the Hub would reject or that is not filled in."""
    found = _FRONT.match(text)
    if not found:
        raise UserError("the model card does not start with metadata between two lines of ---")
    try:
        values: Any = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise UserError("the model card's metadata are not YAML") from error
    if not isinstance(values, dict):
        raise UserError("the model card's metadata are not a YAML mapping")
    try:
        _Card.model_validate(values)
    except ValidationError as error:
        raise UserError(f"the model card's {validation_sentence(_Card, error, '')}") from error
    if _PLACEHOLDER in text or not found[2].strip():
        raise UserError("the model card's text is not filled in")
