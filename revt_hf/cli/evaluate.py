"""``revt evaluate`` and ``revt predict``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from revt_hf.cli.options import (
    BatchSize,
    DataOptions,
    Models,
    OutputOptions,
    OverwriteOptions,
    ProtocolOptions,
    Workers,
    named_models,
    with_options,
)
from revt_hf.core.errors import UserError, counted

EXIT_FAILED = 2


class ClassIds(StrEnum):
    """The ids in class maps."""

    train = "train"
    cityscapes = "cityscapes"


@with_options
def evaluate(
    models: Models,
    data: DataOptions,
    choice: ProtocolOptions,
    report: OutputOptions,
    ensembles: Annotated[
        list[str] | None,
        typer.Option(
            "--ensemble",
            metavar="HOW",
            help="Also score all models together: logits, product, probabilities or features.",
        ),
    ] = None,
    head: Annotated[
        int, typer.Option(min=1, help="Model whose decode head an ensemble of features uses.")
    ] = 1,
    cost: Annotated[bool, "Also measure parameters, FLOPs, images/s and GPU memory."] = False,
    batch_size: BatchSize = 1,
    workers: Workers = 0,
    classes: Annotated[
        str | None, "Print the mean over synthia16 or synthia13 instead of all 19 classes."
    ] = None,
) -> None:
    """Score models on domains, by the paper's test protocol or another one."""
    from revt_hf.core.processes import failing_together, process_state
    from revt_hf.evaluation.evaluate import EvaluateOptions
    from revt_hf.evaluation.evaluate import evaluate as score
    from revt_hf.evaluation.result import write_results
    from revt_hf.results.formats import print_scores
    from revt_hf.results.rows import check_subset

    check_subset(classes)
    named, splits = named_models(models), data.splits()
    read = [path for one in splits for path in one.spec.inputs]
    report.check([*named.values(), data.recipe, *read])
    how = (tuple(ensembles or ()), head, cost, batch_size, workers)
    with failing_together(process_state()):
        protocol = choice.resolve(named.values())
    results = score(named, splits, protocol, EvaluateOptions(*how, report.quiet))
    if process_state().is_main_process:
        report.finish(results, write=write_results)
        print_scores(results, classes)


@with_options
def predict(
    models: Models,
    paths: Annotated[
        list[Path],
        typer.Option(
            "--input", metavar="PATH", help="Image, folder of images or video; may be repeated."
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results.")],
    choice: ProtocolOptions,
    report: OverwriteOptions,
    save: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,...",
            help="Write only maps, overlays, side-by-side or differences. "
            "Default: everything that suits the input.",
        ),
    ] = None,
    ids: Annotated[
        ClassIds, "Write train ids (0..18) or Cityscapes' ids (7, 8, 11, ...)."
    ] = ClassIds.train,
    batch_size: BatchSize = 1,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Threads that decode images.")] = 2,
) -> None:
    """Write class maps, overlays and model comparisons for images and videos."""
    from revt_hf.prediction.inputs import IMAGES, VIDEOS
    from revt_hf.prediction.prediction import PredictOptions, predict_files
    from revt_hf.prediction.saving import IDS, KEPT

    kinds = None if save is None else save.replace(" ", "").split(",")
    for kind in kinds or ():
        if kind not in KEPT:
            raise UserError(f"--save {kind}: use {', '.join(KEPT)}, with commas between them")
    named = named_models(models)
    for model in named.values():
        if Path(model).suffix.lower() in IMAGES | VIDEOS and Path(model).is_file():
            raise UserError(
                f"{model} is not a model: put --input before each image, or name their folder"
            )
    # A JSON file in a folder of images is not an image.
    is_json = report.json_file is not None and report.json_file.suffix == ".json"
    read = [path for path in paths if path.is_file() or not is_json]
    report.check([*named.values(), *read], [output])
    options = PredictOptions(
        kept=None if kinds is None else tuple(kind for kind in KEPT if kind in kinds),
        ids=IDS[list(ClassIds).index(ids)],
        protocol=choice.resolve(named.values()),
        batch_size=batch_size,
        workers=workers,
        overwrite=report.overwrite,
        quiet=report.quiet,
    )
    done = predict_files(named, paths, output, options)
    failed = f", {len(done.failed)} failed" if done.failed else ""
    remark = f"predicted {counted(len(done.images), 'input')}{failed}: {output}"
    report.finish(done.to_json(), remark=remark)
    if done.failed:
        raise typer.Exit(EXIT_FAILED)
