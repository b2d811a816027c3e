"""Distributed processes of one command: shared state, and errors that end all of them."""

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
    """The processes started by ``accelerate launch`` or ``torchrun``, and this one's device."""
    # PartialState ignores what ``accelerate launch --cpu`` sets.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


@contextmanager
def separate_accelerator() -> Iterator[None]:
    """Isolate an Accelerator created inside the block; the caller's settings are restored."""
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
    """End all processes when one meets bad input; inside, no process may wait for another one."""
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
    """Call ``load`` on one process of each machine, then on the others, which find files cached."""
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
    """Leave the process group, whose threads sometimes abort an exiting process otherwise."""
    # After an exception, do not wait for the other processes: they wait for this one.
    if hasattr(sys, "last_value"):
        return
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
