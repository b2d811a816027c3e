"""Mapillary Vistas (Neuhold et al., ICCV 2017): street images from all over the world."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from revt_hf.core.errors import UserError
from revt_hf.data.domains.base import Facts, Sharing
from revt_hf.data.domains.layouts import Layout
from revt_hf.data.domains.paired import PairedDomain, PairedOptions
from revt_hf.data.domains.registration import register_domain
from revt_hf.data.labels.encodings import MAPILLARY_VERSIONS, mapillary_table

_DEFAULT_MAP: Literal["dg_standard"] = "dg_standard"
_OFFICIAL = {"train": "training", "val": "validation"}
_IMAGES = {"train": 18_000, "val": 2_000}


class MapillaryOptions(PairedOptions):
    """Options of ``mapillary``: ``map`` chooses how its classes become train ids.

    The default is ``dg_standard``; see ``revt_hf/data/labels/encodings.yaml``. Converted labels
    were mapped when they were made, so ``map`` cannot be given for them.
    """

    map: Literal["dg_standard", "rein", "ifn", "ifn_as_run", "segformer_as_run"] | None = None


@register_domain
class Mapillary(PairedDomain):
    """See the module; configs ``v1.2`` and ``v2.0`` of the labels."""

    name = "mapillary"
    facts = Facts(
        kind="real",
        license="CC BY-NC-SA 4.0 (research edition)",
        download="the Mapillary Vistas page (registration): version 1.2 or 2.0",
        sharing=Sharing(
            "confirm", "its license is CC BY-NC-SA 4.0 at second hand", "cc-by-nc-sa-4.0"
        ),
        images=_IMAGES,
        images_of=dict.fromkeys(MAPILLARY_VERSIONS, _IMAGES),
    )
    options_model = MapillaryOptions
    configs = MAPILLARY_VERSIONS
    hidden_test = True
    wrappers = ("mapillary",)
    # Converted layouts; the official ones depend on the options.
    layouts = tuple(
        Layout("converted", images, labels, ".jpg", suffix, folders=folders)
        for images, labels, suffix, folders in (
            ("{split}/images", "{split}/labels", "_labelTrainIds.png", _OFFICIAL),
            ("{split}/images", "cityscapes_trainIdLabel/{name}/label", ".png", _OFFICIAL),
            ("{split}/ColorImage", "segmentation_trainid/{split}/Segmentation", ".png", _OFFICIAL),
            ("half/{split}_img", "half/{split}_label", ".png", {}),
        )
    )

    def label(
        self, split: str, data_dir: Path | None, config: str | None, options: Mapping[str, Any]
    ) -> str:
        mapped = options.get("map") or _DEFAULT_MAP
        name, _, split = super().label(split, data_dir, config, options).rpartition("/")
        return f"{name}{'' if mapped == _DEFAULT_MAP else f'-{mapped}'}/{split}"

    def layouts_of(self, config: str | None, options: Any) -> Sequence[Layout]:
        if options.map and options.layout == "converted":
            raise UserError(
                "mapillary: converted labels were mapped when they were made: remove the option "
                f"map={options.map}"
            )
        table = mapillary_table(str(config), options.map or _DEFAULT_MAP)
        folders = [f"{{split}}/{config}/labels"]
        if config == MAPILLARY_VERSIONS[0]:
            folders.append("{split}/labels")
        official = [
            Layout("official", "{split}/images", labels, ".jpg", ".png", table, _OFFICIAL)
            for labels in folders
        ]
        return official if options.map else [*official, *self.layouts]
