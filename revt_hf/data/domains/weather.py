"""Cityscapes in fog and in rain, rendered into its images; its labels stay valid."""

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from revt_hf.core.errors import UserError, readable
from revt_hf.data.domains.base import Facts, Given, Layout, NotThereError, Sharing
from revt_hf.data.domains.files import Match
from revt_hf.data.domains.opening import register_domain
from revt_hf.data.domains.paired import PairedDomain, PairedOptions
from revt_hf.data.labels import CITYSCAPES_IDS

_LICENSE = "Cityscapes terms: non-commercial, no redistribution"
_SHARING = Sharing("no", "Cityscapes' terms forbid to pass it on, changed versions included")
_REFINED = ("foggy_trainval_refined_filenames.txt", "trainval_refined_filenames.txt")
_PATTERNS = 12


class WeatherDomain(PairedDomain):
    """Several renderings of each scene: a config is one strength of the weather, or all of them."""

    hidden_test = True
    wrappers = ("cityscapes",)
    # Config -> what it is called in the names of files.
    strengths: ClassVar[Mapping[str, str]] = {}
    scenes: ClassVar[Mapping[str, int]] = {}

    def __init_subclass__(cls) -> None:
        cls.configs = (*cls.strengths, "all")

    def renderings(self, config: str | None, options: Any) -> tuple[str, ...]:
        """The ends of images' names, each a rendering of every scene."""
        names = self.strengths
        return tuple(names.values()) if config == "all" else (names[str(config)],)

    def own_splits(self, data_dir: Path | None, config: str | None, options: Any) -> Sequence[str]:
        return tuple(self.scenes)

    def expected(self, split: str, config: str | None, options: Any) -> int | None:
        scenes = self.scenes.get(split)
        return None if scenes is None else scenes * len(self.renderings(config, options))

    def rendered(
        self, images: str, archive: str, config: str | None, options: Any
    ) -> tuple[Layout, ...]:
        """Both layouts of Cityscapes' labels; images are ``<scene>_<images>_<rendering>.png``."""
        end = f"_{images.removesuffix('DBF')}_{{part}}.png"
        place = (f"{images}/{{split}}", "gtFine/{split}", end)
        how: dict[str, Any] = {"parts": self.renderings(config, options), "more_labels": True}
        both = (
            Layout("official", *place, "_gtFine_labelIds.png", CITYSCAPES_IDS, **how),
            Layout("converted", *place, "_gtFine_labelTrainIds.png", **how),
        )
        return tuple(
            one
            for layout in both
            for one in (layout, layout.unpacked_apart(archive, "gtFine_trainvaltest"))
        )


class FoggyOptions(PairedOptions):
    """Options of ``foggy_cityscapes``: its edition, and whether only the refined list."""

    edition: Literal["dbf", "first"] = "dbf"
    refined: bool = False


@register_domain
class FoggyCityscapes(WeatherDomain):
    """Foggy Cityscapes-DBF (Sakaridis et al., ECCV 2018), or its first edition (IJCV 2018)."""

    name = "foggy_cityscapes"
    facts = Facts(
        license=_LICENSE,
        download=(
            "the Cityscapes site (registration): leftImg8bit_trainval_foggyDBF (first edition: "
            "leftImg8bit_trainvaltest_foggy), beside gtFine of gtFine_trainvaltest"
        ),
        sharing=_SHARING,
        images={"train": 2_975, "val": 500},
    )
    options_model = FoggyOptions
    strengths: ClassVar[Mapping[str, str]] = {
        f"beta_{beta}": f"beta_{beta}" for beta in ("0.02", "0.01", "0.005")
    }
    scenes = facts.images

    def layouts_of(self, config: str | None, options: Any) -> Sequence[Layout]:
        if options.edition == "first":
            place = ("leftImg8bit_foggy", "leftImg8bit_trainvaltest_foggy")
        else:
            place = ("leftImg8bit_foggyDBF", "leftImg8bit_trainval_foggyDBF")
        return self.rendered(*place, config, options)

    def label(self, split: str, data_dir: Path | None, config: str | None, options: Given) -> str:
        name, _, split = super().label(split, data_dir, config, options).rpartition("/")
        first = "-first" if options.get("edition") == "first" else ""
        return f"{name}{first}{'-refined' if options.get('refined') else ''}/{split}"

    def expected(self, split: str, config: str | None, options: Any) -> int | None:
        if not options.refined or split not in self.scenes:
            return super().expected(split, config, options)
        return {"train": 498, "val": 52}[split] * len(self.renderings(config, options))

    def chosen(self, split: str, match: Match, options: Any) -> Collection[str] | None:
        if not options.refined:
            return None
        candidates = [folder / name for folder in (match.data_dir, match.root) for name in _REFINED]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise NotThereError(
                f"the option refined needs {_REFINED[0]}, which comes with the images, in "
                f"{match.data_dir}"
            )
        with readable(path):
            lines = path.read_text(encoding="utf-8-sig").split()
        # One list of both splits.
        scenes = {PurePosixPath(line).name.partition("_leftImg8bit")[0] for line in lines}
        chosen = {name for name in match.names if PurePosixPath(name).name in scenes}
        if not chosen:
            raise UserError(f"{path} lists no image of the split '{split}'")
        return chosen


class RainyOptions(PairedOptions):
    """Options of ``rainy_cityscapes``: which of a strength's patterns of rain, or all."""

    pattern: Annotated[int, Field(ge=1, le=_PATTERNS)] | Literal["all"] = 1


@register_domain
class RainyCityscapes(WeatherDomain):
    """RainCityscapes (Hu et al., CVPR 2019): rain and fog on 295 images of Cityscapes."""

    name = "rainy_cityscapes"
    facts = Facts(
        license=_LICENSE,
        download=(
            "the Cityscapes site (registration): leftImg8bit_trainval_rain, beside gtFine of "
            "gtFine_trainvaltest"
        ),
        sharing=_SHARING,
        images={"train": 262, "val": 33},
    )
    options_model = RainyOptions
    strengths: ClassVar[Mapping[str, str]] = {
        "alpha_0.03": "alpha_0.03_beta_0.015_dropsize_0.002",
        "alpha_0.02": "alpha_0.02_beta_0.01_dropsize_0.005",
        "alpha_0.01": "alpha_0.01_beta_0.005_dropsize_0.01",
    }
    scenes = facts.images

    def renderings(self, config: str | None, options: Any) -> tuple[str, ...]:
        chosen = range(1, _PATTERNS + 1) if options.pattern == "all" else (options.pattern,)
        strengths = super().renderings(config, options)
        return tuple(f"{one}_pattern_{number}" for one, number in product(strengths, chosen))

    def layouts_of(self, config: str | None, options: Any) -> Sequence[Layout]:
        place = ("leftImg8bit_rain", "leftImg8bit_trainval_rain")
        return self.rendered(*place, config, options)

    def label(self, split: str, data_dir: Path | None, config: str | None, options: Given) -> str:
        name, _, split = super().label(split, data_dir, config, options).rpartition("/")
        pattern = options.get("pattern", 1)
        return f"{name}{'' if pattern == 1 else f'-pattern-{pattern}'}/{split}"
