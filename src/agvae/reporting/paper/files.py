"""Input and output of the paper's commands: pictures in; figures, numbers and tables out."""

import argparse
import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agvae.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from agvae.codec import Codec


def compressed(codec: "Codec", image: Any, picture: str, **target: float) -> bytes:
    """The learned file at a target of `Codec.compress`. Raises DataError if the model cannot meet it."""
    from agvae.codec import TargetError

    try:
        return codec.compress(image, **target, lossless=False)
    except TargetError as error:
        raise DataError(f"{picture} with {codec.name}: {error}") from error


def load(folder: Path, name: str) -> np.ndarray:
    """The picture called `name`, with or without its suffix, in `folder` or below, (H, W, 3) uint8."""
    from agvae.data import list_images
    from agvae.images import ImageError, load_rgb

    found = [path for path in list_images(folder) if name.lower() in (path.name.lower(), path.stem.lower())]
    if not found:
        raise DataError(f"{folder}: has no picture named {name}; choose another with --picture or --target")
    try:
        return load_rgb(found[0])
    except ImageError as error:
        raise DataError(str(error)) from error


def save(figure: "Figure", options: argparse.Namespace, stem: str) -> None:
    file = BytesIO()
    figure.savefig(file, format=options.format)
    write(file.getvalue(), options, f"{stem}.{options.format}")


def write_json(numbers: dict[str, Any], options: argparse.Namespace, stem: str) -> None:
    write(f"{json.dumps(numbers, indent=2, allow_nan=False)}\n".encode(), options, f"{stem}.json")


def write(data: bytes, options: argparse.Namespace, name: str) -> None:
    from agvae.files import write_atomically

    path = options.output / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from error
    print(path)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table with aligned columns, and numbers to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    padded = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in cells)
    lines = [f"| {' | '.join(row)} |" for row in padded]
    rule = "".join(f"|{'-' * (width + 1)}{':' if i else '-'}" for i, width in enumerate(widths)) + "|"
    return "\n".join((lines[0], rule, *lines[1:]))
