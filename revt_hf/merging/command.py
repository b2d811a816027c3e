"""What ``revt recalibrate`` does."""

from pathlib import Path
from typing import Any

from torch.utils.data import ConcatDataset
from tqdm import tqdm

from revt_hf.domains import load_spec
from revt_hf.evaluation.inference import Protocol
from revt_hf.merging.recalibration import recalibrate
from revt_hf.recipe import Recipe, load_recipe
from revt_hf.recorded import recorded_evaluation


def recalibrate_command(
    model: Path, recipe: Path, output: Path, pictures: int, overwrite: bool, quiet: bool
) -> Path:
    """Recalibrate a model folder on the first pictures of a recipe's training splits.

    Raises:
        UserError: the model, the recipe or its data cannot be used, or ``output`` exists.
    """
    rows = _first_pictures(load_recipe(recipe), pictures)
    protocol = Protocol(recorded_evaluation([model]).bound)
    with tqdm(total=len(rows), unit="picture", desc="recalibrate", disable=quiet) as progress:
        return recalibrate(model, output, rows, protocol, overwrite, progress.update)


def _first_pictures(recipe: Recipe, pictures: int) -> Any:
    """About so many training pictures, of a mixture by the sources' weights."""
    weights = sum(source.weight for source in recipe.sources)
    parts = []
    for source in recipe.sources:
        rows = load_spec(source, source.train)
        share = max(1, round(pictures * source.weight / weights))
        parts.append(rows.select(range(min(share, len(rows)))))
    return ConcatDataset(parts)
