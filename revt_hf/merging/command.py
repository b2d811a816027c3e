"""What ``revt recalibrate`` does."""

from pathlib import Path

from tqdm import tqdm

from revt_hf.domains import load_spec
from revt_hf.evaluation.inference import Protocol
from revt_hf.merging.recalibration import recalibrate
from revt_hf.recipe import load_recipe
from revt_hf.recorded import recorded_evaluation


def recalibrate_command(
    model: Path, recipe: Path, output: Path, pictures: int, overwrite: bool, quiet: bool
) -> Path:
    """Recalibrate a model folder on the first pictures of a recipe's training split.

    Raises:
        UserError: the model, the recipe or its data cannot be used, or ``output`` exists.
    """
    source = load_recipe(recipe).source
    rows = load_spec(source, source.train)
    rows = rows.select(range(min(pictures, len(rows))))
    protocol = Protocol(recorded_evaluation([model]).bound)
    with tqdm(total=len(rows), unit="picture", desc="recalibrate", disable=quiet) as progress:
        return recalibrate(model, output, rows, protocol, overwrite, progress.update)
