"""Diagnoses of members and merges: measure on images, draw, write plot and JSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from revt_hf.analysis.blending import Blender, ScoringData, load_data
from revt_hf.analysis.disagreement import disagreement, draw_disagreement, shares
from revt_hf.analysis.norm import draw_norm, norm_shifts
from revt_hf.analysis.path import draw_paths, line_ends, paths
from revt_hf.analysis.plane import FinishedPoints, draw_plane, new_points, scan
from revt_hf.config.domain_spec import Source
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import (
    atomic_folder,
    check_output,
    growing_folder,
    write_json,
)
from revt_hf.core.processes import process_state
from revt_hf.evaluation.cost import LIBRARIES
from revt_hf.evaluation.result import SplitSpec
from revt_hf.merging.recalibration import spread_images
from revt_hf.merging.record import current_record
from revt_hf.results.figures import short_names

_PLANE_FILES = ("points/*.json", "plane.json", "plane-head-*.png")


@dataclass(frozen=True)
class DiagnoseOptions:
    """What a diagnosis is measured on and where it is written; as the options of ``diagnose``."""

    output: Path
    splits: tuple[SplitSpec, ...]
    protocol: Protocol
    images: int | None = None
    workers: int = 0
    overwrite: bool = False
    quiet: bool = False

    def inputs(self, *models: str | None) -> list[str | None]:
        """All paths that are read: models, and the folders of the images."""
        return [*models, *(path for split in self.splits for path in split.spec.inputs)]

    def data(self) -> ScoringData:
        return load_data(self.splits, self.protocol, self.images, self.workers)

    def progress(self, total: int, name: str) -> "tqdm[Any]":
        return tqdm(total=total, desc=name, unit="image", disable=self.quiet)


def diagnose_path(
    members: Mapping[str, str],
    options: DiagnoseOptions,
    init: str | None = None,
    points: int = 11,
    interpolate_head: bool = False,
) -> dict[str, Any]:
    """Write ``path.png`` and ``path.json`` (returned): scores on the line between two members.

    With ``init`` also on the lines from there to each; see :func:`revt_hf.analysis.path.paths`.
    """
    folders = list(members.values())
    inputs = options.inputs(*folders, init)
    check_output(options.output, options.overwrite, inputs)
    if len(folders) != 2:
        raise UserError(f"a path has two ends, not {len(folders)}: name two members")
    data = options.data()
    with Blender(folders, init, init_head=interpolate_head, quiet=options.quiet) as blender:
        about = _about(data, blender.records())
        total = len(line_ends(blender.has_init)) * points * data.images
        with options.progress(total, "path") as bar:
            lines = paths(blender, data, points, interpolate_head, bar.update)
    result = {**about, "lines": lines}
    draw = partial(draw_paths, lines, short_names(list(members)), data.label)
    return _written("path", result, draw, options, inputs)


def diagnose_plane(
    members: Mapping[str, str], levels: Sequence[int], options: DiagnoseOptions
) -> dict[str, Any]:
    """Write ``plane.json`` (returned) and a ternary plot for each head of three members.

    Finished points stay in the output folder: the same call resumes where one was interrupted, and
    finer levels (numbers of steps) start from coarser ones. Plots are redrawn after each level.
    """
    folders, names = list(members.values()), short_names(list(members))
    if len(folders) != 3:
        raise UserError(f"a plane has three corners, not {len(folders)}: name three members")
    if not levels or min(levels) < 1:
        raise UserError("--steps: give whole numbers from 1, coarse to fine, such as 4,8")
    inputs = options.inputs(*folders)
    check_output(options.output, True, inputs, _PLANE_FILES)
    data = options.data()
    growing = growing_folder(options.output, True, _PLANE_FILES, inputs)
    result: dict[str, Any] = {"format": "revt_hf.plane/1"}
    with Blender(folders, quiet=options.quiet) as blender, growing:
        about = _about(data, blender.records())
        finished = FinishedPoints(options.output, about)
        left = sum(point not in finished.points for fresh in new_points(levels) for point in fresh)
        with options.progress(left * data.images, "plane") as bar:
            for steps, points in scan(blender, data, levels, finished, bar.update):
                rows = [point.model_dump(mode="json", by_alias=True) for point in points]
                result |= {**about, "steps": steps, "points": rows}
                write_json(options.output / "plane.json", result)
                for head in points[0].heads:
                    path = options.output / f"plane-head-{head}.png"
                    draw_plane(points, head, names, data.label, path)
    return result


def diagnose_norm(
    models: Mapping[str, str], sources: Sequence[Source], images: int, options: DiagnoseOptions
) -> dict[str, Any]:
    """Write ``norm.png`` and ``norm.json`` (returned): shifts of the head's BatchNorm statistics.

    ``models`` are a merge, then its members; the merge is also recalibrated on about so many images
    of ``sources``.
    """
    (merge, *members), names = models.values(), short_names(list(models))
    inputs = options.inputs(merge, *members)
    check_output(options.output, options.overwrite, inputs)
    data = options.data()
    training = spread_images(sources, images)
    total = (2 + len(members)) * data.images + len(training)
    with options.progress(total, "norm") as bar:
        shifts = norm_shifts(merge, members, data, training, bar.update)
    result = {
        **_about(data, _records(members, merge)),
        "recalibrated_on": len(training),
        "models": shifts,
    }
    draw = partial(draw_norm, shifts, [names[0], *names], data.label)
    return _written("norm", result, draw, options, inputs)


def diagnose_disagreement(
    members: Mapping[str, str], merge: str, shown: int, options: DiagnoseOptions
) -> dict[str, Any]:
    """Write ``disagreement.png`` and ``disagreement.json`` (returned): where members differ.

    The ``shown`` most disputed images are drawn.
    """
    folders = list(members.values())
    inputs = options.inputs(*folders, merge)
    check_output(options.output, options.overwrite, inputs)
    if len(folders) < 2:
        raise UserError("only several members can differ: name at least two")
    data = options.data()
    with options.progress((len(folders) + 1) * data.images, "disagreement") as bar:
        counts, images, worst = disagreement(folders, merge, data, shown, bar.update)
    result = {
        **_about(data, _records(folders, merge)),
        **shares(counts, [*members, merge]),
        "images": [{"name": name, "disputed": share * 100} for name, share in images],
    }
    draw = partial(draw_disagreement, worst)
    return _written("disagreement", result, draw, options, inputs)


def _records(members: Sequence[str], merge: str) -> dict[str, Any]:
    """Path and sha256 of models, as in merge.json."""
    *entries, merged = (current_record(model).to_json() for model in (*members, merge))
    return {"members": entries, "merge": merged}


def _about(data: ScoringData, records: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **records,
        "data": data.to_json(),
        "device": str(process_state().device),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def _written(
    name: str,
    values: dict[str, Any],
    draw: Callable[[Path], None],
    options: DiagnoseOptions,
    inputs: Sequence[str | None],
) -> dict[str, Any]:
    result = {"format": f"revt_hf.{name}/1", **values}
    with atomic_folder(options.output, options.overwrite, inputs) as scratch:
        draw(scratch / f"{name}.png")
        write_json(scratch / f"{name}.json", result)
    return result
