"""What ``revt diagnose`` does with networks: open data and models, measure, draw, write."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from revt_hf.analysis.blend_scores import Data, load_data
from revt_hf.analysis.blending import Blender
from revt_hf.analysis.disagreement import disagreement
from revt_hf.analysis.disagreement_chart import draw_disagreement
from revt_hf.analysis.norm import norm_shifts
from revt_hf.analysis.norm_chart import draw_norm
from revt_hf.analysis.path import paths, ways
from revt_hf.analysis.path_chart import draw_paths
from revt_hf.analysis.plane import FinishedPoints, PlanePoint, new_points, scan
from revt_hf.analysis.plane_chart import draw_plane
from revt_hf.checkpoints.tensors import open_checkpoint
from revt_hf.config.domain_spec import Source
from revt_hf.config.recipe import load_recipe
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import (
    atomic_folder,
    check_growing,
    check_output,
    file_sha256,
    growing_folder,
    write_json,
)
from revt_hf.core.processes import process_state
from revt_hf.evaluation.command import chosen_protocol, requested_splits
from revt_hf.evaluation.splits import SplitSpec
from revt_hf.merging.command import spread_images
from revt_hf.merging.record import member_entry
from revt_hf.results.build import LIBRARIES
from revt_hf.results.figures import short_names

_PLANE_FILES = ("points/*.json", "plane.json", "plane-head-*.png")


@dataclass(frozen=True)
class Request:
    """On which images, and how, and where results go.

    Attributes:
        splits: where images come from.
        output: the folder of results.
        protocol: a name of ``PROTOCOLS``; None for what the models' folders name.
        max_size: ``WIDTHxHEIGHT`` or ``native``, in place of the protocol's own.
        images: of each split at most so many, spread over it.
        workers: processes that decode images.
        overwrite: replace the output if it exists.
        quiet: no progress bars.
    """

    splits: tuple[SplitSpec, ...]
    output: Path
    protocol: str | None = None
    max_size: str | None = None
    images: int | None = None
    workers: int = 0
    overwrite: bool = False
    quiet: bool = False

    def inputs(self, *models: str | None) -> list[str | None]:
        """All that is read: models, and the images' folders."""
        return [*models, *(path for split in self.splits for path in split.spec.inputs)]

    def data(self, models: Sequence[str]) -> Data:
        """The images, as these models want them.

        Raises:
            UserError: a domain's data or the protocol cannot be used.
        """
        protocol = chosen_protocol(models, self.max_size, self.protocol)
        return load_data(self.splits, protocol, self.images, self.workers)


def diagnosis_splits(
    recipe: Path | None,
    domain: str | None,
    data_dir: Path | None,
    config: str | None,
    split: str,
    options: Sequence[str],
) -> tuple[SplitSpec, ...]:
    """The splits to look at: a recipe's source-val, or any split of a domain.

    Raises:
        UserError: neither or both are given, or one cannot be read.
    """
    requested = requested_splits(recipe, domain, data_dir, config, split, options)
    return tuple(one for one in requested if one.is_source or recipe is None)


def path_command(
    members: Sequence[str],
    start: str | None,
    points: int,
    everything: bool,
    request: Request,
) -> dict[str, Any]:
    """Write ``path.png`` and ``path.json``; the latter's content.

    Raises:
        UserError: bad members, data or numbers, or an output that exists.
    """
    inputs = request.inputs(*members, start)
    check_output(request.output, request.overwrite, inputs)
    if len(members) != 2:
        raise UserError(f"a path has two ends, not {len(members)}: name two members")
    data = request.data(members)
    with Blender(members, start, start_head=everything, quiet=request.quiet) as blender:
        about = _about(blender.records(), data)
        total = len(ways(start is not None)) * points * data.images
        with _bar(total, "path", request) as on_image:
            lines = paths(blender, data, points, start is not None, everything, on_image)
    result = {"format": "revt_hf.path/1", **about, "lines": [line.to_json() for line in lines]}
    with atomic_folder(request.output, request.overwrite, inputs) as scratch:
        draw_paths(lines, short_names(members), data.label, scratch / "path.png")
        write_json(scratch / "path.json", result)
    return result


def plane_command(
    members: Sequence[str], levels: Sequence[int], request: Request
) -> dict[str, Any]:
    """Write ``plane.json`` and a ternary plot for each head; the former's content.

    Finished points stay in the output folder: the same call goes on where one was interrupted, and
    finer levels start from coarser ones. Plots are drawn anew after each level.

    Raises:
        UserError: bad members, data or levels.
    """
    if len(members) != 3:
        raise UserError(f"a plane has three corners, not {len(members)}: name three members")
    if not levels or min(levels) < 1:
        raise UserError("--steps: whole numbers from 1 on, coarse to fine, such as 4,8")
    check_growing(request.output, True, _PLANE_FILES, request.inputs(*members))
    data = request.data(members)
    names = short_names(members)
    growing = growing_folder(request.output, True, _PLANE_FILES, request.inputs(*members))
    with growing, Blender(members, quiet=request.quiet) as blender:
        about = _about(blender.records(), data)
        finished = FinishedPoints(request.output, about)
        left = sum(
            weights not in finished.points for fresh in new_points(levels) for weights in fresh
        )
        result: dict[str, Any] = {}

        def on_level(steps: int, points: Sequence[PlanePoint]) -> None:
            rows = [point.to_json() for point in points]
            result.update({"format": "revt_hf.plane/1", **about, "steps": steps, "points": rows})
            write_json(request.output / "plane.json", result)
            for head in points[0].scores:
                path = request.output / f"plane-head-{head}.png"
                draw_plane(points, head, names, data.label, path)

        with _bar(left * data.images, "plane", request) as on_image:
            scan(blender, data, levels, finished, on_image, on_level)
    return result


def norm_command(
    merge: str, members: Sequence[str], sources: Sequence[Source], images: int, request: Request
) -> dict[str, Any]:
    """Write ``norm.png`` and ``norm.json``; the latter's content.

    Args:
        merge: a folder or Hub id.
        members: what it was merged from.
        sources: domains whose training images the merge is recalibrated on.
        images: about so many of them.
        request: what to measure on.

    Raises:
        UserError: a model or data that cannot be used, or an output that exists.
    """
    inputs = request.inputs(merge, *members)
    check_output(request.output, request.overwrite, inputs)
    data = request.data([merge])
    training = spread_images(sources, images)
    total = (2 + len(members)) * data.images + len(training)
    with _bar(total, "norm", request) as on_image:
        shifts = norm_shifts(merge, members, data, training, on_image)
    result = {
        "format": "revt_hf.norm/1",
        **_about({"members": _records(members), "merge": _records([merge])[0]}, data),
        "recalibrated_on": len(training),
        "models": [shift.to_json() for shift in shifts],
    }
    names = short_names([merge, *members])
    with atomic_folder(request.output, request.overwrite, inputs) as scratch:
        draw_norm(shifts, [names[0], *names], data.label, scratch / "norm.png")
        write_json(scratch / "norm.json", result)
    return result


def disagreement_command(
    members: Sequence[str], merge: str, shown: int, request: Request
) -> dict[str, Any]:
    """Write ``disagreement.png`` and ``disagreement.json``; the latter's content.

    Args:
        members: at least two folders or Hub ids.
        merge: a folder or Hub id.
        shown: how many of the most disputed images are drawn.
        request: what to look at.

    Raises:
        UserError: a model or data that cannot be used, or an output that exists.
    """
    inputs = request.inputs(merge, *members)
    check_output(request.output, request.overwrite, inputs)
    if len(members) < 2:
        raise UserError("only several members can differ: name at least two")
    data = request.data([*members, merge])
    total = (len(members) + 1) * data.images
    with _bar(total, "disagreement", request) as on_image:
        found = disagreement(members, merge, data, shown, on_image)
    result = {
        "format": "revt_hf.disagreement/1",
        **_about({"members": _records(members), "merge": _records([merge])[0]}, data),
        **found.counts.to_json([*members, merge]),
        "images": [{"name": name, "disputed": share * 100} for name, share in found.images],
    }
    with atomic_folder(request.output, request.overwrite, inputs) as scratch:
        draw_disagreement(found.scenes, scratch / "disagreement.png")
        write_json(scratch / "disagreement.json", result)
    return result


def norm_sources(recipe: Path | None, splits: Sequence[SplitSpec], train: str) -> list[Source]:
    """Whose training images a merge is recalibrated on: the recipe's, or the domain's own."""
    if recipe is not None:
        return list(load_recipe(recipe).sources)
    return [Source(**split.spec.model_dump(), train=train, val=split.split) for split in splits]


def _records(models: Sequence[str]) -> list[dict[str, Any]]:
    """Path and sha256 of models, as ``merge.json`` has them."""
    entries = []
    for model in models:
        with open_checkpoint(model, quiet=True) as checkpoint:
            digests = {path.name: file_sha256(path) for path in checkpoint.originals}
        entries.append(member_entry(model, digests))
    return entries


def _about(records: Mapping[str, Any], data: Data) -> dict[str, Any]:
    return {
        **records,
        "data": data.to_json(),
        "device": str(process_state().device),
        "versions": {name: version(name) for name in LIBRARIES},
    }


class _bar:  # noqa: N801
    """A progress bar of images; gives what is to be called after each."""

    def __init__(self, total: int, name: str, request: Request) -> None:
        self._bar = tqdm(total=total, desc=name, unit="image", disable=request.quiet)

    def __enter__(self) -> Callable[[], object]:
        return self._bar.update

    def __exit__(self, *_: object) -> None:
        self._bar.close()
