"""Drawn pictures for training: pages, windows, charts, patterns and noise, which photographs do not teach.

On such pictures, a model trained on photographs alone spends many times the bits of PNG, and reproduces them badly.
Each function draws one kind from a random generator, so a picture is a pure function of its seed.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LETTERS = "etaoinshrdlu etaoin cmfwypvbgkjqxz ETAOIN 0123456789.,;:-()[]{}=+/"
_SIZES = (9, 10, 11, 12, 13, 14, 16, 20, 28)
_PRIMARIES = ((0, 255, 0), (255, 0, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255))

Color = tuple[int, int, int]


def drawn_picture(random: np.random.Generator, side: int) -> np.ndarray:
    """A drawn picture (side, side, 3) uint8, of one kind chosen at random."""
    kind = _KINDS[random.integers(len(_KINDS))]
    return kind(random, side)


def text(random: np.random.Generator, side: int) -> np.ndarray:
    """A page or a listing: lines of letters in one size or several, dark on light or light on dark."""
    image, ink = _page(random, side)
    draw = ImageDraw.Draw(image)
    one_size = int(random.choice(_SIZES)) if random.random() < 0.5 else None
    left, y = int(random.choice((4, 20))), int(random.integers(9))
    while y < side:
        size = one_size or int(random.choice(_SIZES))
        line = "".join(random.choice(list(_LETTERS), side // 4))
        color = ink if random.random() < 0.8 else _color(random)
        draw.text((left, y), line, fill=color, font=_font(random, size))
        y += int(size * random.uniform(1.1, 1.7))
    return np.asarray(image)


def windows(random: np.random.Generator, side: int) -> np.ndarray:
    """Windows and buttons: overlapping plain rectangles with borders and labels."""
    image, ink = _page(random, side)
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(6, 26)):
        x, y = (int(v) for v in random.integers(-20, side, 2))
        box = (x, y, x + int(random.integers(8, 160)), y + int(random.integers(8, 90)))
        outline = ink if random.random() < 0.6 else None
        if random.random() < 0.5:
            draw.rectangle(box, fill=_color(random), outline=outline, width=int(random.integers(1, 3)))
        else:
            draw.rounded_rectangle(box, int(random.integers(2, 12)), fill=_color(random), outline=outline)
        draw.text((x + 4, y + 3), "Save  Cancel 42 %", fill=_grey(random, 0, 255), font=_font(random, 11))
    return np.asarray(image)


def lines(random: np.random.Generator, side: int) -> np.ndarray:
    """A chart: thin and thick lines, on a grid half of the time."""
    image, ink = _page(random, side)
    draw = ImageDraw.Draw(image)
    if random.random() < 0.5:
        grid = _grey(random, 100, 220)
        for place in range(0, side, int(random.choice((8, 16, 20, 32)))):
            draw.line((0, place, side, place), fill=grid)
            draw.line((place, 0, place, side), fill=grid)
    for _ in range(random.integers(5, 60)):
        points = [tuple(map(int, point)) for point in random.integers(0, side, (int(random.choice((2, 2, 3, 6))), 2))]
        color = ink if random.random() < 0.5 else _color(random)
        draw.line(points, fill=color, width=int(random.choice((1, 1, 1, 2, 3, 8))))
    return np.asarray(image)


def ramp(random: np.random.Generator, side: int) -> np.ndarray:
    """One plain colour, saturated half of the time, or a smooth change from one colour to another."""
    if random.random() < 0.4:
        color = _PRIMARIES[random.integers(len(_PRIMARIES))] if random.random() < 0.5 else _color(random)
        return np.full((side, side, 3), color, np.uint8)
    y, x = np.mgrid[:side, :side] / side
    share = (x, y, np.hypot(x - 0.5, y - 0.5) * 2**0.5)[random.integers(3)]
    return _blend(random, share)


def pattern(random: np.random.Generator, side: int) -> np.ndarray:
    """Stripes along either axis or a chequerboard, with a period of at least two pixels."""
    y, x = np.mgrid[:side, :side]
    across, down = (int(random.choice((1, 1, 2, 3, 4, 8, 16))) for _ in range(2))
    share = (x // across, y // down, x // across + y // down)[random.integers(3)] % 2
    return _blend(random, share)


def noise(random: np.random.Generator, side: int) -> np.ndarray:
    """Grey or coloured noise of several strengths and grains."""
    grain = int(random.choice((1, 1, 2, 4)))
    channels = 1 if random.random() < 0.5 else 3
    coarse = random.normal(128, random.choice((6, 20, 60)), (-(-side // grain), -(-side // grain), channels))
    whole = coarse.clip(0, 255).astype(np.uint8).repeat(grain, 0).repeat(grain, 1)[:side, :side]
    return np.ascontiguousarray(np.broadcast_to(whole, (side, side, 3)))


_KINDS: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (text, windows, lines, ramp, pattern, noise)


def _page(random: np.random.Generator, side: int) -> tuple[Image.Image, Color]:
    """An empty page and the colour of its ink: a third of the pages are dark, a fifth coloured."""
    dark = random.random() < 0.35
    paper, ink = (_grey(random, 0, 40), _grey(random, 190, 255)) if dark else (_grey(random, 225, 255), (20, 20, 20))
    return Image.new("RGB", (side, side), paper if random.random() < 0.8 else _color(random)), ink


def _blend(random: np.random.Generator, share: np.ndarray) -> np.ndarray:
    """A blend from one colour at share 0 to another at share 1, (H, W) → (H, W, 3) uint8."""
    first, second = (np.array(_color(random), np.float64) for _ in range(2))
    return (first + (second - first) * share[..., None]).round().astype(np.uint8)


def _color(random: np.random.Generator) -> Color:
    red, green, blue = random.integers(0, 256, 3).tolist()
    return red, green, blue


def _grey(random: np.random.Generator, low: int, high: int) -> Color:
    value = int(random.integers(low, high + 1))
    return value, value, value


def _font(random: np.random.Generator, size: int) -> ImageFont.FreeTypeFont:
    files = _font_files()
    return _load_font(files[random.integers(len(files))], size)


@cache
def _font_files() -> list[str]:
    """The DejaVu fonts, which matplotlib ships."""
    import matplotlib

    return sorted(map(str, (Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("DejaVu*.ttf")))


@cache
def _load_font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)
