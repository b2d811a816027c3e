"""An experiment's folder: may it be used."""

from pathlib import Path

from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.outputs import check_apart, real_path
from revt_hf.experiments.graph import Graph, Train

# Entries of the steps that are done, and their locks; with it a folder is an experiment's.
STEPS_FOLDER = ".steps"


def check_folder(graph: Graph, folder: Path) -> None:
    """Refuse a folder in which steps and tables would lie among other people's files.

    Raises:
        UserError: it is or holds the working directory, the home or the data; it lies in the data;
            or it holds something and is no experiment's.
    """
    trainings = [step.work.recipe for step in graph.of_kind(Train) if isinstance(step.work, Train)]
    specs = [spec for recipe in trainings for spec in (*recipe.sources, *recipe.targets)]
    check_apart(folder, dict.fromkeys(spec.data_dir for spec in specs))
    with readable_os_errors(folder):
        place = real_path(folder)
        if not place.exists() or (place / STEPS_FOLDER).is_dir():
            return
        if not place.is_dir() or any(place.iterdir()):
            raise UserError(f"{folder} exists and is no experiment's folder: choose another output")


def begin_folder(graph: Graph, folder: Path) -> None:
    """Check a folder, and make it the experiment's.

    Raises:
        UserError: see :func:`check_folder`; or nothing can be written there.
    """
    check_folder(graph, folder)
    with readable_os_errors(folder):
        (folder / STEPS_FOLDER).mkdir(parents=True, exist_ok=True)
