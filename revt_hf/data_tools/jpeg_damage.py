"""Find damage inside JPEGs, which decoders paper over.

libjpeg only warns on standard error, so images are decoded once more in processes that write it to
a pipe.
"""

import json
import subprocess
import sys
import threading

_DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG file")
_DONE = "done"
# Imports OpenCV only; libjpeg writes a file's first warning only.
_DECODER = f"""
import json, sys
import cv2
cv2.setNumThreads(1)
for line in sys.stdin:
    cv2.imread(json.loads(line), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    print({_DONE!r}, file=sys.stderr, flush=True)
"""


class JpegDamage:
    """Finds damage in a ``with`` block, with one process for each thread that asks."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "JpegDamage":
        return self

    def find(self, path: str) -> str | None:
        """libjpeg's warning about a JPEG file that can be decoded; None if it is sound."""
        decoder = getattr(self._own, "decoder", None)
        if decoder is None or decoder.poll() is not None:
            decoder = self._own.decoder = self._start()
        assert decoder.stdin is not None and decoder.stderr is not None  # noqa: S101
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

    def __exit__(self, *_: object) -> None:
        for decoder in self._started:
            decoder.kill()
            decoder.communicate()
