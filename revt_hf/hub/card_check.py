"""A model card's metadata, checked as the Hub would, before anything is sent."""

import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from revt_hf.config.sections import validation_sentence
from revt_hf.core.errors import UserError
from revt_hf.hub.commit import is_repo_id
from revt_hf.hub.licenses import HUB_LICENSES

_FRONT = re.compile(r"\A---\n(.*?)\n---\n(.*)\Z", re.DOTALL)
_LICENSE_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_PLACEHOLDER = "[More Information Needed]"


def _repo_id(text: str) -> str:
    if not is_repo_id(text):
        raise ValueError(f"'{text}' is not the id of a Hub repository")
    return text


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


Text = Annotated[str, Field(min_length=1)]
RepoId = Annotated[str, AfterValidator(_repo_id)]
RepoIds = Annotated[RepoId | Annotated[list[RepoId], Field(min_length=1)], AfterValidator(_listed)]


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


class _Result(_Part):
    task: _Task
    dataset: _Dataset
    metrics: Annotated[list[_Metric], Field(min_length=1)]


class _Index(_Part):
    name: Text
    results: Annotated[list[_Result], Field(min_length=1)]


_Indexes = Annotated[list[_Index], Field(min_length=1)]


class _Card(_Part):
    library_name: Literal["transformers"]
    pipeline_tag: Literal["image-segmentation"]
    license: Text
    tags: Annotated[list[Text], Field(min_length=1)]
    license_name: Text | None = None
    base_model: RepoIds | None = None
    base_model_relation: Literal["adapter", "finetune", "merge", "quantized"] | None = None
    datasets: RepoIds | None = None
    index: _Indexes | None = Field(None, alias="model-index")

    @model_validator(mode="after")
    def _consistent(self) -> "_Card":
        if self.license == "other":
            if not _LICENSE_NAME.fullmatch(self.license_name or ""):
                raise ValueError("license_name: 'other' needs a name, lower case without spaces")
        elif self.license not in HUB_LICENSES:
            raise ValueError(f"license: '{self.license}' is not one that the Hub knows")
        if self.base_model_relation and not self.base_model:
            raise ValueError("base_model: base_model_relation needs it")
        return self


def check_card(text: str) -> None:
    """Refuse a model card that the Hub would reject or that is not filled in.

    Args:
        text: of ``README.md``.

    Raises:
        UserError: there is no metadata, or one of its fields is missing or wrong: it is named.
    """
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
