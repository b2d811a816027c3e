"""Wait for processes and conditions."""

import time
from pathlib import Path

SECONDS = 60


def until(condition):
    """Wait for something; what it answers."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"not within {SECONDS} s")


def alive(number):
    """Whether a process runs; one that has ended and waits to be looked at does not."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
