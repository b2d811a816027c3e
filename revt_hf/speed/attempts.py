"""What a machine may not be able to do: a row of the table then says why, and the rest goes on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

OUT_OF_MEMORY = "out of memory"
_CPU_OUT_OF_MEMORY = "can't allocate memory"
_LONGEST = 160

T = TypeVar("T")


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """What came out, or why nothing did."""

    value: T | None = None
    failure: str | None = None


def attempted(work: Callable[[], T], compiled: bool) -> Attempt[T]:
    """Do some work that may need more memory than there is, or a compiler that is not there.

    Args:
        work: is called once.
        compiled: whether it compiles; everything that goes wrong then is a failure, without it
            only a lack of memory is.
    """
    try:
        return Attempt(work())
    except Exception as error:
        if _is_out_of_memory(error):
            failure = OUT_OF_MEMORY
        elif compiled:
            failure = f"torch.compile failed: {_first_words(error)}"
        else:
            raise
    # Only now do the frames of the error let go of their tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Attempt(failure=failure)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU_OUT_OF_MEMORY in str(error)


def _first_words(error: Exception) -> str:
    """The first line that says something; dynamo's first one only names the backend."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.endswith("raised:")]
    text = telling[0] if telling else type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
