"""Several processes of one run: what they agree on, and what the main one says for all."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object

from revt_hf.errors import DataWarning, UserError

T = TypeVar("T")
_EXIT_BAD_INPUT = 2


@contextmanager
def failing_together(accelerator: Accelerator) -> Iterator[None]:
    """End all processes when one of them meets bad input, and let the main one say why.

    No process may wait for another one inside the block.

    Raises:
        UserError: on the main process; the first process's problem.
        SystemExit: on the other processes, which stay silent.
    """
    problem: UserError | None = None
    try:
        yield
    except UserError as error:
        problem = error
    problems = [text for text in gather_object([problem and str(problem)]) if text]
    if not problems:
        return
    if accelerator.is_main_process:
        raise problem or UserError(problems[0])
    sys.exit(_EXIT_BAD_INPUT)


def local_main_first(accelerator: Accelerator, load: Callable[[], T]) -> T:
    """Call ``load`` on one process of each machine, then on its others, which find files cached.

    Raises:
        UserError: see :func:`failing_together`.
    """
    loaded: list[T] = []
    for first in (True, False):
        with failing_together(accelerator), warnings.catch_warnings():
            if not accelerator.is_main_process:
                warnings.simplefilter("ignore", DataWarning)
            if accelerator.is_local_main_process is first:
                loaded.append(load())
    return loaded[0]
