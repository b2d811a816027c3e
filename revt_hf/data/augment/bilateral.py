"""Bilateral filtering of random strength."""

from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError

SIGMA = 75.0
DIAMETERS = (1, 14)
# OpenCV derives the diameter 225 from sigma when it is given 0: one such image costs as much as
# several hundred others, and looks washed out. The published runs drew it once in 15 times.
PAPER_CODE_DIAMETERS = (0, 14)


class BilateralFilter(A.ImageOnlyTransform):
    """Smooth an RGB image (H, W, 3), uint8, keeping its edges.

    Args:
        diameter: smallest and largest neighbourhood (pixels), drawn uniformly; ``None`` is 1..14.
            0 means 225, derived by OpenCV from ``sigma``.
        sigma: of colour (grey levels) and of space (pixels).
        p: probability of filtering.
        paper_code: with ``diameter`` ``None``, draw 0..14 as the published runs did.

    Raises:
        UserError: a negative or empty range of diameters.
    """

    def __init__(
        self,
        diameter: tuple[int, int] | None = None,
        sigma: float = SIGMA,
        p: float = 0.5,
        paper_code: bool = False,
    ) -> None:
        super().__init__(p=p)
        low, high = diameter or (PAPER_CODE_DIAMETERS if paper_code else DIAMETERS)
        if not 0 <= low <= high:
            raise UserError(f"bilateral diameter {low}..{high}: give 0 <= smallest <= largest")
        self.diameter = (low, high)
        self.sigma = sigma
        self.paper_code = paper_code

    def get_params(self) -> dict[str, Any]:
        return {"d": self.py_random.randint(*self.diameter)}

    def apply(self, img: NDArray[np.uint8], d: int, **params: Any) -> NDArray[np.uint8]:
        return np.asarray(cv2.bilateralFilter(img, d, self.sigma, self.sigma))
