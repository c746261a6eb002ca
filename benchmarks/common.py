"""Helpers of the benchmarks: a photograph, random models, clocks and memory, the configuration, tables."""

import os
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from agvae.data.bundled_photos import sample_photos
from agvae.images import load_rgb
from agvae.models import AGVAE
from agvae.models.context import SpatialContext
from agvae.models.layers import DepthwiseBlock

ROOT = Path(__file__).parents[1]


def configuration(settings):
    """The configuration of train.py with these settings."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", list(settings))


def photo(width, height):
    """A photograph, (height, width, 3) uint8.

    For sizes above 512, the photograph is repeated in mirror images, so that its detail stays the same."""
    pixels = load_rgb(*sample_photos(("astronaut.png",)))
    rows, columns = (np.arange(side) % (2 * 512) for side in (height, width))
    return pixels[np.minimum(rows, 1023 - rows)[:, None], np.minimum(columns, 1023 - columns)]


@torch.no_grad()
def random_model(transforms, levels=6, context="none", scales=(-2.5, 0.5)):
    """A model in evaluation mode with random weights, whose symbols and σ spread as in a trained one.

    The transforms are minnen2018 or depthwise. `scales` are the ends of the range of ln σ. With one level, it is a
    fixed-rate model with a symmetric Gaussian, like CompressAI's models."""
    torch.manual_seed(0)
    model = AGVAE.from_config(
        {
            "transforms": transforms,
            "gain": {"name": "hcvr" if levels > 1 else "none", "levels": levels},
            "entropy": {"name": "asymmetric", "form": "half_mass"} if levels > 1 else {"name": "symmetric"},
            "context": {"name": context},
            "quantizer": {"name": "universal"},
        }
    )
    model.initialise_gains([2.0**level for level in range(levels)])
    if transforms["name"] == "depthwise":
        # They start as a block transform: the latent spreads well, but the blocks add nothing and z is nearly 0.
        for block in (module for module in model.modules() if isinstance(module, DepthwiseBlock)):
            for layer in (block.spatial[-1], block.project):
                layer.reset_parameters()
        model.h_a[-1].weight *= 10
    else:
        model.g_a[-1].weight *= 10
    spread_scales(entropy_layer(model).bias[: -model.M], scales)
    return model.eval()


def entropy_layer(model):
    """The layer of our models that gives the entropy parameters: those of σ first, then the M of μ."""
    return model.context.head[-1] if isinstance(model.context, SpatialContext) else model.h_s[-1]


@torch.no_grad()
def spread_scales(biases, scales=(-2.5, 0.5)):
    """Set the biases to random σ, with ln σ spread evenly between the ends of `scales`."""
    biases.copy_(torch.empty_like(biases).uniform_(*scales).exp())


def clock(device="cpu"):
    """The clock for times: processor time on one CPU thread, which other work hardly changes, else the wall clock."""
    return time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def best_time(function, repeats):
    """The shortest time of some runs in seconds, and the last result. The first run also warms up."""
    now, seconds = clock(), []
    for _ in range(repeats):
        start = now()
        result = function()
        seconds.append(now() - start)
    return min(seconds), result


class Stopwatch(ExitStack):
    """Adds up the seconds that functions take, by stage, until it is closed."""

    def __init__(self):
        super().__init__()
        self.now, self.seconds = clock(), {}

    def watch(self, stage, owner, *names):
        """Count the time of these functions of a class, object or module as `stage`."""
        for name in names:
            self.enter_context(mock.patch.object(owner, name, self._watched(stage, getattr(owner, name))))

    def best(self, function, repeats):
        """The seconds of each stage, of "the rest" and of "all", in the shortest of some runs."""
        found = []
        for _ in range(repeats):
            self.seconds, start = {}, self.now()
            function()
            whole = self.now() - start
            found.append(self.seconds | {"the rest": whole - sum(self.seconds.values()), "all": whole})
        return min(found, key=lambda seconds: seconds["all"])

    def _watched(self, stage, function):
        def timed(*arguments, **options):
            start = self.now()
            result = function(*arguments, **options)
            self.seconds[stage] = self.seconds.get(stage, 0) + self.now() - start
            return result

        return timed


def peak_memory():
    """The peak resident memory of this process, in bytes. ru_maxrss would start from the peak of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def conditions():
    """The conditions of a measurement, as text."""
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' * (threads > 1)}, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}"


def table(head, rows):
    """Print a Markdown table, each row as it comes."""
    print("|", " | ".join(head), "|\n|" + "---|" * len(head))
    for row in rows:
        print("|", " | ".join(map(str, row)), "|", flush=True)
    print(flush=True)
