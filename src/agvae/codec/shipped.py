"""The models that come with the package: their files, and what is known of each."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[1] / "weights"
"""Where the model files lie; a model's name is its file's, without the suffix."""

CARDS = FOLDER / "cards.json"
"""What each model is for, and its figures on Kodak, which benchmarks/showcase.py writes."""

DEFAULT_MODEL = "agvae-mse"
"""The model that compresses where none is named."""


class Card(NamedTuple):
    """What is known of a model.

    metric: "psnr-rgb" or "ms-ssim-rgb", the one that it was trained for. kodak: its "results", a curve in the field's
    JSON schema, means over the 24 pictures, and its "bd_rate" in percent against published curves, by name and metric.
    """

    name: str
    purpose: str
    metric: str
    kodak: dict[str, Any]


def names() -> list[str]:
    """Names of the models, the default one first."""
    found = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
    return sorted(found, key=lambda name: name != DEFAULT_MODEL)


@cache
def cards() -> tuple[Card, ...]:
    """The cards of all models, in the order of `names`."""
    known = json.loads(CARDS.read_text())
    return tuple(Card(name, **known[name]) for name in names())
