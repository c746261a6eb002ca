"""Helpers of comparisons of trained models: train.py in a process of its own, arguments after --, means over seeds."""

import argparse
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common import ROOT

from agvae.configuration.command import with_home
from agvae.evaluation import BDRate, Curve


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """The arguments of the script, and the OVERRIDEs for train.py that follow `--`."""
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    return parser.parse_args(words[:at]), [with_home(word) for word in words[at + 1 :]]


def train(run_dir: Path, settings: Sequence[str]) -> float:
    """Train in `run_dir` without output. Returns the processor time in seconds."""
    command = [sys.executable, ROOT / "train.py", *settings, "logger=csv", "callbacks.progress_bar=null"]
    command += ["+trainer.enable_progress_bar=false", "trainer.num_sanity_val_steps=0", f"hydra.run.dir={run_dir}"]
    before = _processor_seconds()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return _processor_seconds() - before


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ends(curves: Sequence[Curve]) -> list[str]:
    """Mean bpp and dB over seeds at the lowest, the middle and the highest quality."""
    last = len(curves[0].results["bpp"]) - 1
    return [
        " / ".join(
            f"{statistics.mean(curve.results[key][at] for curve in curves):.{digits}f}"
            for key, digits in (("bpp", 3), ("psnr-rgb", 2))
        )
        for at in (0, last // 2, last)
    ]


def over_seeds(rates: Sequence[BDRate]) -> str:
    """The mean of BD-rates and their range, or the reason why there is none.

    >>> over_seeds([BDRate(1.0), BDRate(-2.0)])
    '-0.5 % (-2.0 to +1.0)'
    """
    percents = [rate.percent for rate in rates]
    if None in percents:
        return next(rate.reason for rate in rates if rate.reason)
    text = f"{statistics.mean(percents):+.1f} %"
    return f"{text} ({min(percents):+.1f} to {max(percents):+.1f})" if len(percents) > 1 else text
