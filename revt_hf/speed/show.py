"""Results of ``revt benchmark`` as tables of text."""

from collections.abc import Iterator, Sequence

from revt_hf.results.layout import Cell, Heading, Layout
from revt_hf.results.summary import DASH
from revt_hf.speed.loaders import ROUNDS, LoaderRow
from revt_hf.speed.machine import Machine
from revt_hf.speed.prediction import InferenceOptions, InferenceRow
from revt_hf.speed.steps import FIRST
from revt_hf.speed.timing import in_a_row
from revt_hf.speed.training import StepRow, TrainingOptions
from revt_hf.speed.variants import REFERENCE, VARIANTS

RANDOM_WEIGHTS = "b0 to b5 have random weights: speed and memory do not depend on their values"


def inference_layout(
    rows: Sequence[InferenceRow], options: InferenceOptions, machine: Machine
) -> Layout:
    """The table of predictions."""
    headings = [Heading("model", "name"), Heading("variant", "name")]
    numbers = ["parameters (M)", "GFLOPs", "peak MiB", "other classes %"]
    if options.frame_rate:
        numbers += ["images/s", f"x {REFERENCE}"]
    if options.best_batch:
        numbers += ["best images/s", f"best x {REFERENCE}", "batch", "its peak MiB"]
    headings += [Heading(name, "cost") for name in numbers]
    cells = tuple(tuple(map(Cell, _inference_cells(row, rows, options))) for row in rows)
    height, width = options.image
    caption = f"Prediction of {width}x{height} images on {machine.device}"
    return Layout(caption, tuple(headings), cells, tuple(_inference_notes(rows, options, machine)))


def _inference_cells(
    row: InferenceRow, rows: Sequence[InferenceRow], options: InferenceOptions
) -> Iterator[str]:
    ratio, best_ratio = row.ratios(rows)
    yield row.model
    yield row.variant
    yield f"{row.parameters / 1e6:.2f}"
    yield f"{row.flops / 1e9:.1f}"
    yield _number(row.peak_mib, ".0f")
    yield _number(None if row.differing is None else 100 * row.differing, ".2f")
    if options.frame_rate:
        yield _number(row.rate, ".3g")
        yield _number(ratio, ".2f")
    if options.best_batch:
        yield _number(row.best_rate, ".3g")
        yield _number(best_ratio, ".2f")
        yield str(row.best_batch.batch) if row.best_batch else DASH
        yield _number(row.best_batch_peak_mib, ".0f")


def _inference_notes(
    rows: Sequence[InferenceRow], options: InferenceOptions, machine: Machine
) -> Iterator[str]:
    names = dict.fromkeys(row.variant for row in rows)
    yield "; ".join(f"{name}: {VARIANTS[name].text}" for name in names)
    if options.frame_rate:
        yield (
            f"images/s: batch 1, the median of {options.images} images after "
            f"{options.warm_up}, {in_a_row(options.images)} of each variant in turn; from "
            "normalised pixels to the class map in the CPU's memory"
        )
    if options.best_batch:
        yield "best: batches 1, 2, 4, ... until images/s stop rising or memory ends"
    yield f"network input: {options.protocol.text}. {RANDOM_WEIGHTS}"
    yield machine.text
    for row in rows:
        if row.failure is not None:
            yield f"{row.model} {row.variant}: {row.failure}"


def steps_layout(rows: Sequence[StepRow], options: TrainingOptions, machine: Machine) -> Layout:
    """The table of training steps."""
    headings = [Heading("model", "name"), Heading("training step", "name")]
    numbers = ("steps/s", "images/s", "x the first", "peak MiB")
    headings += [Heading(name, "cost") for name in numbers]
    cells = tuple(
        (
            Cell(row.model),
            Cell(row.step),
            Cell(_number(row.steps_per_second, ".3g")),
            Cell(_number(row.images_per_second, ".3g")),
            Cell(_number(row.ratio, ".2f")),
            Cell(_number(row.peak_mib, ".0f")),
        )
        for row in rows
    )
    height, width = options.crop
    notes = [
        f"{FIRST}: transformers' own loss; the others: ours, with these fields of a recipe's train "
        "section. AdamW is fused where nothing else is said",
        f"the median of {options.steps} steps after {options.warm_up}, {in_a_row(options.steps)} "
        "of each kind in turn; images lie on the device, Accelerate is not used",
        RANDOM_WEIGHTS,
        machine.text,
        *(f"{row.model}, {row.step}: {row.failure}" for row in rows if row.failure is not None),
    ]
    caption = f"Training steps of {options.batch} crops of {width}x{height} on {machine.device}"
    return Layout(caption, tuple(headings), cells, tuple(notes))


def loaders_layout(rows: Sequence[LoaderRow], recipe: str, machine: Machine) -> Layout:
    """The table of loading alone."""
    headings = [Heading("read from", "name"), Heading("workers", "count")]
    headings += [Heading(name, "cost") for name in ("images/s", "x the first")]
    cells = tuple(
        (
            Cell(row.name),
            Cell(str(row.workers)),
            Cell(_number(row.images_per_second, ".3g")),
            Cell(_number(row.ratio, ".2f")),
        )
        for row in rows
    )
    notes = [
        f"the median of {ROUNDS} rounds; decoding, augmentation and batches of {recipe}, without "
        "the way to a GPU",
        machine.text,
        *(f"{row.name}, {row.workers} workers: {row.failure}" for row in rows if row.failure),
    ]
    return Layout("Loading training crops, no network", tuple(headings), cells, tuple(notes))


def _number(value: float | None, how: str) -> str:
    """A number of a given format; three digits never become an exponent."""
    if value is None:
        return DASH
    if how == ".3g" and value >= 100:
        return f"{value:.0f}"
    return format(value, how)
