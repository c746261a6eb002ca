"""Ways to make a step faster on the present machine, each with a fallback: precision and memory."""

import contextlib
import ctypes
import json
import logging
import subprocess
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from agvae.models.trainable import build_model

log = logging.getLogger(__name__)

FLOAT32, BFLOAT16 = "32-true", "bf16-mixed"


def choose_precision(trainer: dict[str, Any], model: dict[str, Any], resumed: str | None = None) -> str:
    """The precision that `trainer.precision=auto` stands for, for `model` with the other keys of conf/trainer.

    It is bf16-mixed on a GPU that computes in bfloat16. On a CPU it is bf16-mixed if the CPU has bfloat16 matrix units
    (AMX), and if `try_bfloat16`, in a separate process, finds it correct there and at least a quarter faster. On a CPU,
    a `resumed` run keeps its own precision. Otherwise it is 32-true: without such units, oneDNN's bfloat16 convolutions
    take longer than those in float32. It is also 32-true under FSDP, and for several processes on a CPU, which might
    disagree."""
    device = trainer["accelerator"]
    if device in ("auto", "gpu") and torch.cuda.is_available():
        device = "cuda"
    elif device == "auto" and not torch.backends.mps.is_available():
        device = "cpu"
    alone = str(trainer["devices"]) in ("1", "auto") and trainer["num_nodes"] == 1
    if str(trainer["strategy"]).startswith("fsdp") or (device == "cpu" and not alone):
        return FLOAT32
    if device == "cuda":
        return BFLOAT16 if torch.cuda.is_bf16_supported(including_emulation=False) else FLOAT32
    if device != "cpu" or not torch.cpu._is_amx_tile_supported():
        return FLOAT32
    if resumed:
        return resumed
    tried = try_bfloat16(model)
    if "reason" in tried:
        log.warning("trainer.precision=%s: bfloat16 on this CPU %s", FLOAT32, tried["reason"])
    return BFLOAT16 if "reason" not in tried and tried["speedup"] >= 1.25 else FLOAT32


def try_bfloat16(model: dict[str, Any], timeout: float = 120) -> dict[str, Any]:
    """Compare a training step of `model` in bfloat16 with one in float32, in a separate process, because it may crash.

    Returns speedup, loss (relative difference) and cosine (between the gradients), and a `reason` if bfloat16 must not
    be used: the process died or took too long, the losses differ by 2 %, or the gradients have a cosine under 0.98."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "agvae.training.acceleration"],
            input=json.dumps([model, torch.get_num_threads()]),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return {"reason": "takes too long"}
    if done.returncode:
        return {"reason": f"crashes (status {done.returncode})"}
    tried = json.loads(done.stdout)
    if not (tried["loss"] < 0.02 and tried["cosine"] > 0.98):  # also true for NaN
        tried["reason"] = f"is not right: loss off by {tried['loss']:.2g}, cosine of gradients {tried['cosine']:.3f}"
    return tried


def _compare(config: dict[str, Any], side: int = 192, batch: int = 4) -> dict[str, float]:
    """Seconds, loss and gradient of a step in both precisions, with the same weights, picture and noise."""
    torch.manual_seed(0)
    model: Any = build_model(config)
    model.to(memory_format=torch.channels_last).train()
    x = F.interpolate(torch.rand(batch, 3, side // 16, side // 16), scale_factor=16, mode="bicubic").clamp(0, 1)
    x = x.contiguous(memory_format=torch.channels_last)
    quality = torch.linspace(0, model.levels - 1, batch).round()

    def step(bfloat16: bool) -> tuple[float, float, Tensor]:
        model.zero_grad()
        torch.manual_seed(1)
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            out = model(x, quality)
        loss = (out.bits / side**2 + 0.01 * 255**2 * (out.x_hat.float() - x).square().mean((1, 2, 3))).mean()
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.network_parameters() if p.grad is not None])
        return time.perf_counter() - start, loss.item(), gradient

    runs = [
        [step(bfloat16) for bfloat16 in (False, True)] for _ in range(3)
    ]  # alternating, because other work comes and goes
    (exact, wanted), (loss, gradient) = (run[1:] for run in runs[0])
    return {
        "speedup": min(run[0][0] for run in runs[1:]) / min(run[1][0] for run in runs[1:]),
        "loss": abs(loss / exact - 1),
        "cosine": F.cosine_similarity(wanted, gradient, dim=0).item(),
    }


def keep_freed_memory() -> None:
    """Make glibc keep the memory that tensors free, so that a CPU spends no time on requesting it again.

    Does nothing on other systems."""
    trim_threshold, most_maps = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(most_maps, 0)
        mallopt(trim_threshold, -1)


if __name__ == "__main__":
    config, threads = json.load(sys.stdin)
    torch.set_num_threads(threads)
    print(json.dumps(_compare(config)))
