"""Weights of CompressAI's mbt2018-mean and mbt2018 as those of an AG-VAE model without gains.

mbt2018-mean is AG-VAE with minnen2018, gain none, entropy symmetric and context none. mbt2018 also has a context: a
masked 5×5 convolution with 2M outputs, and layers of other widths than ours. Context multiscale of width 3M/2 can hold
it: its 5×5 and 7×7 convolutions take M of these outputs each. The remaining units start at random, with weight 0 in the
layer that reads them. So the model computes the same result, and training can use these units.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from agvae.models.agvae import AGVAE
from agvae.models.coding_order import RasterOrder

_OLD_NAMES = {"_matrix": "matrices.", "_bias": "biases.", "_factor": "factors."}


def from_compressai(state_dict: Mapping[str, Tensor]) -> AGVAE:
    """The AG-VAE model that computes what a state dict of MeanScaleHyperprior or
    JointAutoregressiveHierarchicalPriors does.

    Raises ValueError for weights of another architecture."""
    weights = {ours: w for name, w in state_dict.items() if (ours := our_name(name))}
    try:
        N, M, features = (len(weights[f"{name}.weight"]) for name in ("g_a.0", "g_a.6", "h_s.4"))
    except KeyError:
        raise ValueError(f"must hold mbt2018-mean or mbt2018 of CompressAI, not {_described(state_dict)}") from None
    has_context = "context_prediction.weight" in weights
    if M % 2 and has_context:
        raise ValueError(f"mbt2018 must have an even M to fit into context multiscale, not {M}")
    context = {"name": "multiscale", "width": 3 * M // 2} if has_context else {"name": "none"}
    model = AGVAE.from_config(
        {
            "transforms": {"name": "minnen2018", "N": N, "M": M},
            "gain": {"name": "none", "levels": 1},
            "entropy": {"name": "symmetric", "tail": 0.0},
            "context": context,
            "quantizer": {"name": "mixed"},
        }
    )
    if has_context:
        weights = _with_context(weights, model.state_dict(), M)
    expected = {name: w.shape for name, w in model.state_dict().items()}
    found = {name: w.shape for name, w in weights.items()}
    if unfit := [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]:
        raise ValueError(
            f"must hold mbt2018-mean or mbt2018 of CompressAI, not {_described(state_dict)} "
            f"with h_s of {features} channels: {min(unfit)} does not fit"
        )
    model.load_state_dict(weights)
    return model


def our_name(name: str) -> str | None:
    """Our name for a weight of CompressAI, of any version. None for buffers that our model does not need."""
    name = name.removeprefix("module.")
    if "_reparam" in name or name.startswith("gaussian_conditional") or name.endswith(".mask"):
        return None
    if not name.startswith("entropy_bottleneck."):
        return name
    name = name.removeprefix("entropy_bottleneck.")
    name = re.sub(r"^(_matrix|_bias|_factor)(?=\d)", lambda found: _OLD_NAMES[found[1]], name)
    name = re.sub(r"^_(?=(matrices|biases|factors)\.)", "", name)
    return f"prior.{name}" if name.startswith(("matrices.", "biases.", "factors.", "quantiles")) else None


def _with_context(weights: dict[str, Tensor], ours: dict[str, Tensor], M: int) -> dict[str, Tensor]:
    """Weights, with those of the last layer of h_s and of the context copied into ours, which have more units."""
    convolution, bias = (weights.pop(f"context_prediction.{part}") for part in ("weight", "bias"))
    layers = [tuple(weights.pop(f"entropy_parameters.{i}.{part}") for part in ("weight", "bias")) for i in (0, 2, 4)]
    (first, first_bias), (middle, middle_bias), (last, last_bias) = ((w.flatten(1), b) for w, b in layers)
    first_hyper, first_context = first.split(2 * M, dim=1)
    ours = {name: w.clone() for name, w in ours.items()}

    def put(name: str, weight: Tensor, bias: Tensor | None, columns: slice) -> None:
        """Copy into the first rows of a layer: the weight at these columns, and 0 at the others."""
        rows = len(weight)
        ours[f"{name}.weight"][:rows] = 0
        ours[f"{name}.weight"][:rows, columns] = weight
        if bias is not None:
            ours[f"{name}.bias"][:rows] = bias

    for part in ("weight", "bias"):
        ours[f"h_s.4.{part}"][: 2 * M] = weights.pop(f"h_s.4.{part}")
    put("context.from_hyper", first_hyper, first_bias, slice(0, 2 * M))
    put("context.from_context", first_context, None, slice(M, 3 * M))  # of the 3×3, 5×5 and 7×7 convolutions, M each
    put("context.head.1", middle, middle_bias, slice(0, middle.shape[1]))
    put("context.head.3", last, last_bias, slice(0, last.shape[1]))
    for i, half in ((1, slice(0, M)), (2, slice(M, 2 * M))):
        ours[f"context.convolutions.{i}.weight"] = _at_taps(convolution[half], i + 1)
        ours[f"context.convolutions.{i}.bias"] = bias[half]
    return {name: w for name, w in ours.items() if name.startswith(("context.", "h_s.4."))} | weights


def _at_taps(convolution: Tensor, reach: int) -> Tensor:
    """A masked 5×5 convolution (outputs, inputs, 5, 5) as the taps of our convolution of this reach."""
    taps = [tap for tap in RasterOrder.TAPS if max(map(abs, tap)) <= reach]
    nothing = torch.zeros_like(convolution[..., 0, 0])
    inside = [convolution[..., dy + 2, dx + 2] if max(abs(dy), abs(dx)) <= 2 else nothing for dy, dx in taps]
    return torch.stack(inside, dim=2)


def _described(state_dict: Mapping[str, Any]) -> str:
    if any(name.startswith("Gain") for name in state_dict):
        return "a variable-rate model"
    if "h_a.0.weight" not in state_dict:
        return "a model without h_a"
    return "another model with a hyperprior"
