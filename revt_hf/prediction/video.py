"""Videos: read frames, write frames at the same rate."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.output_folders import clear_files, scratch_file

_CODECS = {".avi": "MJPG", ".mp4": "mp4v"}
# Containers without an index only estimate their number of frames.
_TOLERATED = 0.02


def video_suffix(path: Path) -> str:
    """The suffix of a video's results: ``.avi`` (MJPG) for ``.avi``, else ``.mp4`` (mp4v)."""
    return ".avi" if path.suffix.lower() == ".avi" else ".mp4"


class Video:
    """A video that is read frame by frame, rotated as it is displayed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file():
            raise UserError(f"{path}: not a regular file")
        self._capture = cv2.VideoCapture(str(path))
        self.rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        # Negative where the container does not record it.
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        if not self._capture.isOpened() or not self.rate > 0:
            raise UserError(f"{path}: not a video that OpenCV can read")

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Frames (H, W, 3), uint8, RGB; an error if clearly fewer exist than the file records."""
        count = 0
        while (read := self._capture.read())[0]:
            count += 1
            yield np.asarray(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB), dtype=np.uint8)
        self._capture.release()
        missing = self.frames - count
        if count == 0 or missing > max(1, _TOLERATED * self.frames):
            raise UserError(f"{self._path}: the video ends after {count} of {self.frames} frames")


class VideoOutput:
    """A video that is written frame by frame and appears when the ``with`` block ends.

    Codecs only allow even sizes: an odd frame's last row or column is repeated.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self._path, self._rate = path, rate
        # OpenCV chooses the container by the suffix.
        self._scratch = scratch_file(path)
        self._writer: Any = None
        self._frames = 0

    def __enter__(self) -> "VideoOutput":
        with readable_os_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            clear_files(self._path.parent)
        return self

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Append a frame (H, W, 3), uint8, RGB; all have the same size."""
        odd_rows, odd_columns = frame.shape[0] % 2, frame.shape[1] % 2
        even = np.pad(frame, ((0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix])
            size = (even.shape[1], even.shape[0])
            self._writer = cv2.VideoWriter(str(self._scratch), codec, self._rate, size)
            if not self._writer.isOpened():
                raise UserError(f"cannot write {self._path}: OpenCV has no encoder for it here")
        self._frames += 1
        self._writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
        try:
            if kind is None and self._writer is not None:
                # OpenCV does not report a full disk.
                written = cv2.VideoCapture(str(self._scratch)).get(cv2.CAP_PROP_FRAME_COUNT)
                if written < self._frames:
                    raise UserError(
                        f"cannot write {self._path}: the file is cut short; is the disk full?"
                    )
                with readable_os_errors(self._path):
                    self._scratch.replace(self._path)
        finally:
            self._scratch.unlink(missing_ok=True)
