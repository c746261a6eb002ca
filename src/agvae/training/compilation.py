"""torch.compile in small pieces: a minute the first time, seconds once its cache has them."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agvae.models import AGVAE
from agvae.models.kernels import depthwise_training


def compile_model(model: AGVAE) -> None:
    """Put compiled functions into the place of the model's slow ones: networks, context, prior and likelihoods.

    Networks of depthwise blocks get their form for training, `kernels.depthwise_training`, with a compiled block. Other
    networks are compiled as a whole. Nothing is compiled before the first call. `restore` undoes it."""
    compiled = functools.partial(torch.compile, dynamic=False)
    fast_block = compiled(depthwise_training.block)
    for network in (model.g_a, model.g_s):
        if depthwise_training.supports(network):
            _replace(network, "forward", functools.partial(depthwise_training.run, network, fast_block))
    whole: list[nn.Module] = [model.g_a, model.g_s, model.h_a, model.h_s, model.context, model.prior]
    for module in whole:
        if "forward" not in module.__dict__:
            # Sequential.compile would skip Sequential's own forward and compile its blocks one by one.
            _replace(module, "forward", compiled(module.forward))
    _replace(model, "likelihood", compiled(model.likelihood))


def restore(model: AGVAE) -> None:
    """Undo `compile_model`."""
    for module in (model, model.g_a, model.g_s, model.h_a, model.h_s, model.context, model.prior):
        for name in ("forward", "likelihood"):
            module.__dict__.pop(name, None)


def keep_compiled_code() -> None:
    """Keep the compiler's results in the user's cache, so that the next run need not compile again.

    TORCHINDUCTOR_CACHE_DIR, if it is set, names another folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agvae" / "inductor"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))


def _replace(module: nn.Module, name: str, function: Callable[..., Any]) -> None:
    module.__dict__[name] = function
