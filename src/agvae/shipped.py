"""The models that are included in the package: their files, and a card of each."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "weights"
"""The folder of the model files. A model has the name of its file, without the suffix."""

CARDS = FOLDER / "cards.json"
"""The purpose of each model, and its figures, which benchmarks/showcase.py writes."""

DEFAULT_MODEL = "agvae-mse"
"""The model that compresses if none is named."""


class Card(NamedTuple):
    """Facts of a model that are known without reading its file.

    metric: "psnr-rgb" or "ms-ssim-rgb", the metric that it was trained for. fingerprint: as files name it, in
    hexadecimal digits. levels: the number of trained levels. parameters: their number. kodak: "results" is a curve in
    the field's JSON schema, means over the 24 pictures; "bd_rate" is in percent against published curves, by name and
    metric."""

    name: str
    purpose: str
    metric: str
    fingerprint: str
    levels: int
    parameters: int
    kodak: dict[str, Any]


def names() -> list[str]:
    """Names of the models. The default comes first."""
    found = (file.stem for file in FOLDER.glob("*.safetensors"))
    return sorted(found, key=lambda name: (name != DEFAULT_MODEL, name))


def card_of(fingerprint: str) -> Card | None:
    """The card of the model with a fingerprint; None if no shipped model has it."""
    return next((card for card in cards() if card.fingerprint == fingerprint), None)


def path(name: str) -> Path:
    """The file of a model, whether or not it exists."""
    return FOLDER / f"{name}.safetensors"


@cache
def cards() -> tuple[Card, ...]:
    """The cards of all models, in the order of `names`."""
    known = json.loads(CARDS.read_text())
    return tuple(Card(name, **known[name]) for name in names())
