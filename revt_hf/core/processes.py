"""Several processes of one command: what they agree on, and what the main one says for all."""

import atexit
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import gather_object, parse_flag_from_env

from revt_hf.core.errors import DataWarning, UserError

Processes: TypeAlias = Accelerator | PartialState
T = TypeVar("T")
_EXIT_BAD_INPUT = 2


def process_state() -> PartialState:
    """The processes that ``accelerate launch`` or ``torchrun`` started, and this one's device."""
    # PartialState by itself does not look at what ``accelerate launch --cpu`` sets.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


@contextmanager
def separate_accelerator() -> Iterator[None]:
    """Settings of an Accelerator made inside the block end with it; the caller's come back.

    All Accelerators of a process share what the first one was told (precision, accumulation).
    """
    shared = [kind._shared_state for kind in (AcceleratorState, GradientState)]
    callers = [dict(state) for state in shared]
    for state in shared:
        state.clear()
    try:
        yield
    finally:
        for state, values in zip(shared, callers, strict=True):
            state.clear()
            state.update(values)


@contextmanager
def failing_together(processes: Processes) -> Iterator[None]:
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
    if processes.is_main_process:
        raise problem or UserError(problems[0])
    sys.exit(_EXIT_BAD_INPUT)


def local_main_first(processes: Processes, load: Callable[[], T]) -> T:
    """Call ``load`` on one process of each machine, then on its others, which find files cached.

    Raises:
        UserError: see :func:`failing_together`.
    """
    loaded: list[T] = []
    for first in (True, False):
        with failing_together(processes), warnings.catch_warnings():
            if not processes.is_main_process:
                warnings.simplefilter("ignore", DataWarning)
            if processes.is_local_main_process is first:
                loaded.append(load())
    return loaded[0]


@atexit.register
def _leave_processes() -> None:
    """Leave the process group, whose threads otherwise abort an ending process now and then."""
    # One that ends by an exception must not wait for the others: they wait for it.
    if hasattr(sys, "last_value"):
        return
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
