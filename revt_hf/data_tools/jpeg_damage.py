"""Damage inside JPEGs: decoders fill it up, and libjpeg says so on the terminal only.

So images are decoded once more in other processes whose terminal is a pipe.
"""

import json
import subprocess
import sys
import threading
from types import TracebackType

_DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG file")
_DONE = "done"
# A process that needs OpenCV alone; libjpeg writes a file's first warning only.
_DECODER = f"""
import json, sys
import cv2
cv2.setNumThreads(1)
for line in sys.stdin:
    cv2.imread(json.loads(line), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    print({_DONE!r}, file=sys.stderr, flush=True)
"""


class JpegDamage:
    """Finds damage, for several threads at once, in a ``with`` block; one process each."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "JpegDamage":
        return self

    def find(self, path: str) -> str | None:
        """What libjpeg says of a JPEG file that can be decoded; None if it is sound."""
        decoder = getattr(self._own, "decoder", None)
        if decoder is None or decoder.poll() is not None:
            decoder = self._own.decoder = self._start()
        assert decoder.stdin is not None and decoder.stderr is not None
        found = None
        try:
            decoder.stdin.write(json.dumps(path) + "\n")
            decoder.stdin.flush()
        except OSError:
            return "its decoder crashed"
        while (line := decoder.stderr.readline()) != f"{_DONE}\n":
            if not line:
                return "its decoder crashed"
            if line.startswith(_DAMAGE):
                found = found or line.strip()
        return found

    def _start(self) -> subprocess.Popen[str]:
        decoder = subprocess.Popen(
            [sys.executable, "-c", _DECODER],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._started.append(decoder)
        return decoder

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for decoder in self._started:
            decoder.kill()
            decoder.communicate()
