"""torch.compile in small pieces: a minute the first time, seconds once its cache has them."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from agvae.models import AGVAE
from agvae.models.kernels import depthwise_training


class Form(NamedTuple):
    """A compiled function in the place of a module's method of this name."""

    module: nn.Module
    method: str
    function: Callable[..., Any]


def compiled_forms(model: AGVAE) -> list[Form]:
    """Compiled functions for the slow parts of a model: networks, context, prior and likelihoods.

    Networks of depthwise blocks get their form for training, `kernels.depthwise_training`, with a compiled block. Other
    networks are compiled as a whole. Nothing is compiled before the first call."""
    compiled = functools.partial(torch.compile, dynamic=False)
    block = compiled(depthwise_training.block)
    forms = [Form(model, "likelihood", compiled(model.likelihood))]
    networks = {network: depthwise_training.supports(network) for network in (model.g_a, model.g_s)}
    for network, depthwise in networks.items():
        if depthwise:
            forms.append(Form(network, "forward", functools.partial(depthwise_training.run, network, block)))
    whole: list[nn.Module] = [network for network, depthwise in networks.items() if not depthwise]
    whole += [model.context, model.prior]
    # They are a hundredth of the step of a depthwise model, and would take long to compile.
    whole += [] if all(networks.values()) else [model.h_a, model.h_s]
    # Sequential.compile would skip Sequential's own forward and compile its blocks one by one.
    return forms + [Form(module, "forward", compiled(module.forward)) for module in whole]


def put_in_place(forms: list[Form]) -> None:
    """From now on, the model uses these functions."""
    for module, method, function in forms:
        module.__dict__[method] = function


def take_away(forms: list[Form]) -> None:
    """From now on, the model uses its own methods again."""
    for module, method, _ in forms:
        module.__dict__.pop(method, None)


def keep_compiled_code() -> None:
    """Keep the compiler's results in the user's cache, so that the next run need not compile again.

    TORCHINDUCTOR_CACHE_DIR, if it is set, names another folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agvae" / "inductor"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
