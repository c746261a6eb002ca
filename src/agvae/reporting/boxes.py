"""Parts of pictures that are worth looking at."""

from typing import NamedTuple

import numpy as np

from agvae.arguments import parsed


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    x: int
    y: int
    width: int
    height: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """The part of an (H, W, 3) array."""
        return image[self.y : self.y + self.height, self.x : self.x + self.width]

    def within(self, image: np.ndarray) -> bool:
        """Whether the whole part lies in an (H, W, 3) array."""
        return self.x + self.width <= image.shape[1] and self.y + self.height <= image.shape[0]

    def __str__(self) -> str:
        return ",".join(map(str, self))


def box(text: str) -> Box:
    """An argument X,Y,W,H. Raises ArgumentTypeError."""

    def good(numbers: tuple[int, ...]) -> bool:
        return len(numbers) == 4 and min(numbers) >= 0 and min(numbers[2:]) > 0

    return Box(*parsed(text, lambda t: tuple(map(int, t.split(","))), good, "a box, X,Y,W,H in pixels"))


def busiest_boxes(image: np.ndarray, width: int, height: int, steps: tuple[int, int], count: int = 1) -> list[Box]:
    """The `count` boxes of `width` × `height` with the largest deviation of brightness, largest first.

    The candidates lie `steps` (across, down) pixels apart. None may be larger than the picture (H, W, 3)."""
    grey = image.mean(axis=2)
    across = range(0, image.shape[1] - width + 1, steps[0])
    down = range(0, image.shape[0] - height + 1, steps[1])
    boxes = [Box(x, y, width, height) for y in down for x in across]
    return sorted(boxes, key=lambda box: -box.of(grey).std())[:count]
