"""Published curves on Kodak, as the projects that measured them published them (`reference/kodak_rd.json`)."""

import json
from functools import cache
from importlib.resources import files

from agvae.evaluation.peers import published_as
from agvae.evaluation.rd import Curve

KODAK_IMAGES = 24

# The curves drawn behind a model's own. More could not be told apart. BD-rates use all curves.
_BACKGROUND = {
    "psnr-rgb": ("vtm", "bpg444", "jpeg", "mbt2018-mse", "mbt2018-mean-mse", "agvae-paper-fig7"),
    "ms-ssim-rgb": ("vtm", "bpg444", "jpeg", "mbt2018-ms-ssim", "mbt2018-mean-ms-ssim", "mbt2018-mean-mse"),
}

PUBLISHED_AS = {"bpg": "bpg444", "vtm": "vtm"}
"""The published curve of an external program, by its name here: the anchors of a validation on Kodak."""


@cache
def published_curves() -> tuple[Curve, ...]:
    """Every published curve. Each names its source, and some have no MS-SSIM."""
    text = (files("agvae.evaluation") / "reference" / "kodak_rd.json").read_text()
    return tuple(Curve.from_dict(curve) for curve in json.loads(text)["curves"])


def stand_in(codec: str) -> Curve | None:
    """The published curve of a codec that cannot be run. None if there is none."""
    by_name = {curve.name: curve for curve in published_curves()}
    return by_name.get(published_as(codec) or PUBLISHED_AS.get(codec, ""))


def background_curves(metric: str) -> list[Curve]:
    """The few published curves that are drawn behind a model's own in a plot of `metric`."""
    by_name = {curve.name: curve for curve in published_curves()}
    return [by_name[name] for name in _BACKGROUND[metric]]
