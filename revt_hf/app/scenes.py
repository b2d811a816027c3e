"""What the page shows: an image, segmented by every model and their ensemble, and its panels."""

import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from revt_hf.checkpoints.headers import refuse_graph
from revt_hf.checkpoints.tensors import MERGE_FILE, local_folder
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec
from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.domains import DOMAINS, load_spec
from revt_hf.data.domains.corruptions import Kind, corrupt
from revt_hf.data.domains.files import list_files
from revt_hf.data.label_space import CITYSCAPES, IGNORE_INDEX, LabelSpace
from revt_hf.data.parallel import jpeg_damage
from revt_hf.data.reading import resize_to_fit
from revt_hf.evaluation.class_maps import MeanProbabilities
from revt_hf.evaluation.ensembles import ensemble_name, ensemble_segmenter
from revt_hf.evaluation.evaluate import load_segmenters
from revt_hf.evaluation.loading import too_small
from revt_hf.evaluation.predictor import ClassMap, Image, Segmenter
from revt_hf.models.networks import family_of_model, input_limits
from revt_hf.prediction.inputs import IMAGES, Input, read_image
from revt_hf.prediction.prediction import short_names
from revt_hf.prediction.saving import DIFFERENCES, views_of
from revt_hf.results.sheets import Panel

IMAGE = "image"
# Larger images are scaled down: a page shows no more, and a CPU has to segment them.
LONGEST_SIDE = 1024
MOST_EXAMPLES = 12
_COMBINE = "probabilities"  # the original's ensemble
_STREETS = {"val_images": 1, "size": [256, 512]}


@dataclass(frozen=True, eq=False)
class Found:
    """What a network finds: class map and confidence (0..255; None of masks), (H, W), uint8."""

    classes: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None
    seconds: float  # of network and arg max


@dataclass(frozen=True, eq=False)
class Scene:
    """An image as it was segmented, and what each network found."""

    image: Image
    found: Mapping[str, Found]

    def panels(self, space: LabelSpace, hidden: Collection[str], confidence: bool) -> list[Panel]:
        """The image, a panel for each network, and where they differ; no network runs.

        Pixels of hidden classes look as in the image.
        """
        table = np.arange(256, dtype=np.uint8)
        table[[space.ids[name] for name in hidden]] = IGNORE_INDEX
        maps = {name: table[one.classes] for name, one in self.found.items()}
        views = views_of(self.image, maps, space)
        for name, one in self.found.items() if confidence else ():
            if one.confidence is not None:
                views[name] = np.where(
                    (maps[name] == IGNORE_INDEX)[..., None], self.image, heat(one.confidence)
                )
        return [Panel(IMAGE, self.image), *(Panel(*view) for view in views.items())]


def heat(confidence: NDArray[np.uint8]) -> Image:
    """Confidence (H, W), 0..255, as colours (H, W, 3), RGB: from dark blue to yellow."""
    coloured = cv2.applyColorMap(confidence, cv2.COLORMAP_CIVIDIS)
    return np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB), np.uint8)


@dataclass(frozen=True)
class Shown:
    """The networks of a page; ``ensemble`` is the name of the members' ensemble, if it is shown."""

    segmenters: Mapping[str, Segmenter]
    members: tuple[str, ...]
    protocol: Protocol
    ensemble: str | None = None

    @property
    def space(self) -> LabelSpace:
        return next(iter(self.segmenters.values())).space

    @property
    def leading(self) -> str:
        """The first merge, or else the first model."""
        return next((name for name in self.segmenters if name not in self.members), self.members[0])

    @property
    def has_confidence(self) -> bool:
        """Whether all networks have probabilities of pixels; scores of masks are none."""
        models = (model for one in self.segmenters.values() for model in one.models)
        return not any(family_of_model(model).masks for model in models)

    def segment(self, image: Image, severities: Mapping[Kind, int], name: str) -> Scene:
        """Corrupt an image by the severities (0: not at all), in their order, and segment it.

        Raises:
            UserError: a network cannot take an image of this size.
        """
        limits = input_limits(model for one in self.segmenters.values() for model in one.models)
        reason = too_small((image.shape[0], image.shape[1]), self.protocol, limits)
        if reason:
            raise UserError(reason)
        for kind, severity in severities.items():
            if severity:
                image = corrupt(image, name, kind, severity)
        classes, means, seconds = {}, {}, {}
        for label, segmenter in self.segmenters.items():
            since = time.perf_counter()
            ((means[label],),) = segmenter.probabilities([image], self.protocol)
            classes[label] = segmenter.class_map_of(means[label])
            seconds[label] = time.perf_counter() - since
        confidence = self._add_probabilities(classes, means)
        if self.ensemble:
            seconds[self.ensemble] = sum(seconds[name] for name in self.members)
        found = {
            label: Found(one, confidence.get(label), seconds[label])
            for label, one in classes.items()
        }
        return Scene(image, found)

    def _add_probabilities(
        self, classes: dict[str, ClassMap], means: Mapping[str, MeanProbabilities]
    ) -> dict[str, ClassMap]:
        """The confidence of each network, 0..255 (H, W); adds the class map of the ensemble."""
        if not self.has_confidence:
            return {}
        rows: dict[str, list[torch.Tensor]] = {name: [] for name in means}
        best: list[torch.Tensor] = []
        if self.ensemble:
            rows[self.ensemble] = []
        for strips in zip(*(mean.strips() for mean in means.values()), strict=True):
            parts = dict(zip(means, strips, strict=True))
            if self.ensemble:
                total = reduce(torch.add, (parts[name] for name in self.members))
                parts[self.ensemble] = total / len(self.members)
                best.append(total.argmax(0))
            for name, part in parts.items():
                rows[name].append(part.amax(0))
        if self.ensemble:
            classes[self.ensemble] = torch.cat(best).to(torch.uint8).cpu().numpy()
        return {
            name: (torch.cat(parts) * 255).round().to(torch.uint8).cpu().numpy()
            for name, parts in rows.items()
        }


def load_shown(models: Mapping[str, str], protocol: Protocol, ensemble: bool) -> Shown:
    """Load models by their names; a folder with ``merge.json`` is a merge, not a member."""
    for path in models.values():
        # A graph does not say whether it is a merge, and class maps have no confidence.
        refuse_graph(Path(path))
    named = short_names(models)
    merges = [name for name, path in named.items() if (local_folder(path) / MERGE_FILE).is_file()]
    members = tuple(name for name in named if name not in merges)
    if ensemble and len(members) < 2:
        raise UserError(
            f"--ensemble averages members: name at least two that are no merges, not {len(members)}"
        )
    title = ensemble_name(len(members), _COMBINE, 1) if ensemble else None
    for name in {IMAGE, DIFFERENCES, title} & set(named):
        raise UserError(f"{name}: the page has a picture of this name: name the model, NAME=PATH")
    segmenters = load_segmenters(named)
    if ensemble:
        # Refuses networks whose outputs have no mean.
        ensemble_segmenter([segmenters[name].models[0] for name in members], _COMBINE)
    return Shown(segmenters, members, protocol, title)


def read_upload(path: Path) -> tuple[Image, str]:
    """An image file's pixels, scaled down if they are many, and a remark on what was changed.

    Raises:
        UserError: it is not an image that can be read; the sentence names the file.
    """
    with jpeg_damage() as find_damage:
        _, image, damage = read_image(find_damage, Input(path, path.name, is_video=False))
    if isinstance(image, UserError):
        # The folder is that of the server's uploads.
        raise UserError(str(image).replace(str(path), path.name))
    remarks = [f"damaged inside, shown as far as it goes ({damage})"] if damage else []
    height, width = image.shape[:2]
    if max(height, width) > LONGEST_SIDE:
        image = resize_to_fit(image, (LONGEST_SIDE, LONGEST_SIDE), cv2.INTER_AREA)
        remarks.append(f"scaled down from {width}x{height}")
    return image, "; ".join(remarks)


def read_examples(source: str | None, space: LabelSpace) -> list[tuple[str, Image]]:
    """Names and images to pick from: of a domain that is drawn, or of a folder.

    ``None`` draws streets, the same one in every style, for networks of Cityscapes' classes.
    """
    if source is None and space != CITYSCAPES:
        return []
    name = source or "streets"
    if name in DOMAINS:
        return [_drawn_example(name, config) for config in _configs(name)]
    folder = Path(name)
    if not folder.is_dir():
        raise UserError(f"--examples {name}: neither a folder of images nor a domain that is drawn")
    files = [file for file in list_files(folder)[0] if Path(file).suffix.lower() in IMAGES]
    examples = []
    for file in files[:MOST_EXAMPLES]:
        try:
            examples.append((file, read_upload(folder / file)[0]))
        except UserError as error:
            warnings.warn(f"{folder / file}: {error}", DataWarning, stacklevel=2)
    if not examples:
        raise UserError(f"--examples {folder}: no image in it can be read")
    if len(files) > MOST_EXAMPLES:
        left = f"the first {MOST_EXAMPLES} of {len(files)} images are shown"
        warnings.warn(f"--examples {folder}: {left}", DataWarning, stacklevel=2)
    return examples


def _configs(name: str) -> Sequence[str]:
    domain = DOMAINS[name]
    if domain.needs_data_dir or not domain.configs:
        raise UserError(
            f"--examples {name}: images of this domain are in a folder of yours: name that folder"
        )
    return domain.configs


def _drawn_example(name: str, config: str) -> tuple[str, Image]:
    spec = DomainSpec(domain=name, config=config, options=dict(_STREETS))
    return config, load_spec(spec, "val")[0]["image"]
