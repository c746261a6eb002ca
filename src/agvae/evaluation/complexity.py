"""The cost of a model: parameters and FLOPs of each of its parts, and of its gain units (equations 1 and 2).

FLOPs are counted with `torch.utils.flop_counter` while the model codes a picture of which only the shape exists. A
multiplication with an addition in convolutions and matrix products counts 2, and a multiplication by a gain counts 1.
As usual in the field, activations, normalising divisions and biases are not counted. One multiplication with its
addition is a MAC; a gain has none.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from agvae.models.agvae import AGVAE
from agvae.models.coding_order import WholeFeatures
from agvae.strides import STRIDE_Z, Y_PER_Z

GAIN_UNITS = ("m", "m′", "h", "h′")
"""The gain and inverse gain of y, and those of z."""

ENCODER = ("g_a", "m", "h_a", "h", "prior", "h′", "h_s", "context")
DECODER = ("prior", "h′", "h_s", "context", "m′", "g_s")
"""The parts that run when a picture is coded, and when it is decoded."""


class Cost(NamedTuple):
    """Parameters, and for one picture FLOPs and the MACs among them."""

    parameters: int
    flops: int
    macs: int


def part_costs(config: dict[str, Any], height: int, width: int) -> dict[str, Cost]:
    """The counted cost of each part of the model that `config` describes, for a picture of `height` × `width`.

    Keys are g_a, g_s, h_a, h_s, context, prior (a table when coding, so no FLOPs) and `GAIN_UNITS`, without the parts
    that the model lacks. Together they contain every parameter once. Sides are rounded up to multiples of 64, as in
    coding. Layers count as they are computed: a context by its coding order, which visits every position once."""
    with torch.device("meta"):  # shapes without memory or arithmetic
        model = AGVAE.from_config(config).eval()
        x, y, z = (torch.empty(shape) for shape in _shapes(model, height, width))
        quality = torch.zeros(1)
        psi = torch.empty(1, model.context.hyper_channels, *y.shape[2:])

    def walk(psi: Tensor) -> None:
        model.context.walk(WholeFeatures(model.context.project(psi)), lambda cell, parameters: parameters[:, :, -1])

    costs = {
        "g_a": _network(model.g_a, model.g_a, x),
        "g_s": _network(model.g_s, model.g_s, y),
        "h_a": _network(model.h_a, model.h_a, y),
        "h_s": _network(model.h_s, model.h_s, z),
        "context": _network(model.context, walk, psi),
        "prior": Cost(_parameters(model.prior), 0, 0),
    }
    gained = {
        "m": (model.gain, model.analyze, model.g_a, x),
        "m′": (model.gain, model.synthesize, model.g_s, y),
        "h": (model.hyper_gain, model.hyper_analyze, model.h_a, y),
        "h′": (model.hyper_gain, model.hyper_synthesize, model.h_s, z),
    }
    for name, (unit, with_gain, without, latent) in gained.items():
        if unit is not None:
            logs = unit.log_inverse if name.endswith("′") else unit.log_gain
            applied = _flops(with_gain, latent, quality, formulas=_PRODUCTS) - _flops(
                without, latent, formulas=_PRODUCTS
            )
            costs[name] = Cost(logs.numel(), applied, 0)
    return costs


def gain_costs(config: dict[str, Any], height: int, width: int) -> Cost:
    """The result of the paper's equations for the gain units of one picture: (1) parameters, (2) FLOPs.

    c·n·2 parameters and c·h·w·2 FLOPs for the gain and inverse gain of y, where (c, h, w) is its shape and n the number
    of levels. With HCVR, c_hp·n·2 and c_hp·h_hp·w_hp·2 more, for z. Zero for a model without gain."""
    with torch.device("meta"):
        model = AGVAE.from_config(config)
    _, y, z = _shapes(model, height, width)
    gained = {"none": (), "cvr": (y,), "hcvr": (y, z)}[config["gain"]["name"]]
    parameters = sum(shape[1] * model.levels * 2 for shape in gained)
    return Cost(parameters, sum(math.prod(shape) * 2 for shape in gained), 0)


def total(costs: dict[str, Cost], parts: tuple[str, ...] | None = None) -> Cost:
    """The sum over the named parts that a model has, by default over all."""
    chosen = [cost for name, cost in costs.items() if parts is None or name in parts]
    return Cost(*(sum(values) for values in zip(*chosen, strict=True))) if chosen else Cost(0, 0, 0)


def _shapes(model: AGVAE, height: int, width: int) -> tuple[tuple[int, int, int, int], ...]:
    """Shapes of x, y and z."""
    height, width = (-(-side // STRIDE_Z) for side in (height, width))
    return (
        (1, 3, height * STRIDE_Z, width * STRIDE_Z),
        (1, model.M, height * Y_PER_Z, width * Y_PER_Z),
        (1, model.N, height, width),
    )


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _network(module: nn.Module, run: Callable[..., Any], *inputs: Any) -> Cost:
    """The parameters of `module`, and the products that `run` computes with them."""
    flops = _flops(run, *inputs)
    return Cost(_parameters(module), flops, flops // 2)


def _flops(run: Callable[..., Any], *inputs: Any, formulas: dict[Any, Callable[..., int]] | None = None) -> int:
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter, torch.no_grad():
        run(*inputs)
    return counter.get_total_flops()


def _product_flops(*shapes: Any, out_shape: torch.Size) -> int:
    """FLOPs of an elementwise product, which the counter does not count by default."""
    return math.prod(out_shape)


_PRODUCTS = {torch.ops.aten.mul: _product_flops}
