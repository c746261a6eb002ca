"""Fixtures that all tests share: a photo, and a model small enough to run everywhere."""

import copy
from importlib import resources

import numpy as np
import pytest
import torch
from PIL import Image

from agvae.entropy.coder import Decoder
from agvae.models import AGVAE

TINY = {
    "transforms": {"name": "minnen2018", "N": 8, "M": 12},
    "gain": {"name": "hcvr", "levels": 3},
    "entropy": {"name": "asymmetric", "form": "half_mass"},
    "context": {"name": "none"},
    "quantizer": {"name": "universal"},
}


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A real colour photograph, 512×512, without profile or metadata."""
    with resources.files("skimage.data").joinpath("astronaut.png").open("rb") as file:
        return Image.fromarray(np.array(Image.open(file).convert("RGB")))


@pytest.fixture
def tiny_config() -> dict:
    """Configuration of a model that runs in milliseconds."""
    return copy.deepcopy(TINY)


def at_random(network: torch.nn.Module) -> torch.nn.Module:
    """The network with random weights in all layers. Training would start with some layers that add nothing."""
    for layer in network.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return network


def lively_model(config: dict, seed: int = 0) -> AGVAE:
    """A model in eval mode with random weights, whose symbols and scales spread as in a trained one."""
    torch.manual_seed(seed)
    model = AGVAE.from_config(config)
    model.initialise_gains([4.0**level for level in range(model.levels)])
    if config["transforms"]["name"] == "depthwise":
        at_random(model.g_a)
        at_random(model.g_s)
    with torch.no_grad():
        for network, factor in ((model.g_a, 10), (model.h_a, 20)):
            *_, last = (layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
            last.weight *= factor
        # Without this, all scales would be at their lower bound.
        final = model.h_s[-1] if config["context"]["name"] == "none" else model.context.head[-1]
        scales = final.bias[: -model.M]
        scales.copy_(torch.empty_like(scales).uniform_(0.0, 1.5).exp())
    return model.eval()


def recording(codec, data: bytes):
    """The decoded picture, and the symbols of z and of y in the order of reading."""
    read = {"pop_z": [], "pop_y": []}

    def recorded(name):
        pop = getattr(Decoder, name)

        def popped(decoder, *arguments):
            read[name].append(pop(decoder, *arguments))
            return read[name][-1]

        return popped

    with pytest.MonkeyPatch.context() as patch:
        for name in read:
            patch.setattr(Decoder, name, recorded(name))
        image = codec.decompress(data)
    return image, *(np.concatenate([part.ravel() for part in parts]) for parts in read.values())


@pytest.fixture
def tiny_model(tiny_config) -> AGVAE:
    """A tiny lively model."""
    return lively_model(tiny_config)
