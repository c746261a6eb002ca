"""The callback behind `compile`: compiled functions and, on one GPU, a recorded step. It falls back where one fails."""

import logging
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from agvae.training import capture, compilation
from agvae.training.lightning_internals import is_sharded

log = logging.getLogger(__name__)


class FastSteps(Callback):
    """Compiles the model for training and records its step as a CUDA graph (`capture.CapturedStep`).

    `asked` is true, or auto: only on CUDA devices, and not under FSDP. If the step cannot be recorded, it runs
    compiled. If compilation fails, it runs as it is. Either way, the log says why. Validation, whose pictures have all
    sizes, runs uncompiled and in full float32. In training with bf16-mixed, products of float32 matrices on a GPU are
    in TF32."""

    def __init__(self, asked: Literal[True, "auto"]):
        self.asked = asked
        self.precision = torch.get_float32_matmul_precision()
        self.in_training = self.precision

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        on_cuda = trainer.strategy.root_device.type == "cuda"
        if self.asked == "auto" and (not on_cuda or is_sharded(trainer)):
            return
        self.precision = torch.get_float32_matmul_precision()
        self.in_training = "high" if on_cuda and trainer.precision == "bf16-mixed" else self.precision
        torch.set_float32_matmul_precision(self.in_training)
        compilation.keep_compiled_code()
        compilation.compile_model(pl_module.model)
        batch = _made_up_batch(trainer, pl_module)
        try:
            _try(trainer, pl_module, *batch)
        except Exception as error:  # a compiler that is missing or fails can make torch raise almost anything
            compilation.restore(pl_module.model)
            _say("compile=%s: compilation failed, so the model runs uncompiled: %s", self.asked, _first_line(error))
        if (reason := capture.obstacle(trainer, pl_module.rate_only)) is not None:
            if on_cuda:
                _say("training steps are not recorded as a CUDA graph: %s", reason)
            return
        try:
            pl_module.captured = capture.CapturedStep(
                pl_module.objective, pl_module.model, *batch, trainer.precision_plugin.forward_context
            )
        except Exception as error:  # a layer or loss of one's own may do anything
            _say("training steps cannot be recorded as a CUDA graph, and run one by one: %s", _first_line(error))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.compiler.set_stance("force_eager")
        torch.set_float32_matmul_precision(self.precision)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.compiler.set_stance("default")
        torch.set_float32_matmul_precision(self.in_training)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        torch.compiler.set_stance("default")
        torch.set_float32_matmul_precision(self.precision)
        pl_module.captured = None  # frees the memory of the graph


def _made_up_batch(trainer: Trainer, module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and levels of the shapes of the run's batches."""
    data, device = trainer.datamodule.config, module.device
    levels = module.trained_levels[torch.arange(data.batch_size, device=device) % len(module.levels)]
    side = data.patch_size
    return torch.full((data.batch_size, 3, side, side), 128, dtype=torch.uint8, device=device), levels


def _try(trainer: Trainer, module: Any, image: torch.Tensor, level: torch.Tensor) -> None:
    """A forward and backward pass that leaves no trace."""
    with capture.state_kept(module.model, module.device), torch.enable_grad():
        try:
            with trainer.precision_plugin.forward_context():
                total = module.objective(image, level).total
            total.backward()
        finally:
            module.zero_grad()


def _first_line(error: Exception) -> str:
    error = getattr(error, "inner_exception", error)  # torch.compile wraps what went wrong
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")


@rank_zero_only
def _say(message: str, *values: object) -> None:
    log.warning(message, *values)
