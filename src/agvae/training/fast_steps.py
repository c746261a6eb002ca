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
        self.forms: list[compilation.Form] = []  # that training uses outside of a graph
        self.precisions = [torch.get_float32_matmul_precision()] * 2  # outside and inside of training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        on_cuda = trainer.strategy.root_device.type == "cuda"
        if self.asked == "auto" and (not on_cuda or is_sharded(trainer)):
            return
        before = torch.get_float32_matmul_precision()
        self.precisions = [before, "high" if on_cuda and trainer.precision == "bf16-mixed" else before]
        compilation.keep_compiled_code()
        self.forms = compilation.compiled_forms(pl_module.model)
        batch = _made_up_batch(trainer, pl_module)
        self._train_fast()
        try:
            _try(trainer, pl_module, *batch)
        except Exception as error:  # a compiler that is missing or fails can make torch raise almost anything
            self._stop()
            self.forms = []
            _say("compile=%s: compilation failed, so the model runs uncompiled: %s", self.asked, _first_line(error))
        if (reason := capture.obstacle(trainer, pl_module.rate_only)) is None:
            self._record(trainer, pl_module, batch)
        elif on_cuda:
            _say("training steps are not recorded as a CUDA graph: %s", reason)

    def _record(self, trainer: Trainer, module: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        try:
            autocast = trainer.precision_plugin.forward_context
            module.captured = capture.CapturedStep(module.objective, module.model, *batch, autocast)
        except Exception as error:  # a layer or loss of one's own may do anything
            _say("training steps cannot be recorded as a CUDA graph, and run one by one: %s", _first_line(error))
            return
        self._stop()  # the graph has its forms
        self.forms = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.forms and not trainer.sanity_checking:
            self._train_fast()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()
        pl_module.captured = None  # frees the memory of the graph

    def _train_fast(self) -> None:
        compilation.put_in_place(self.forms)
        torch.set_float32_matmul_precision(self.precisions[1])

    def _stop(self) -> None:
        compilation.take_away(self.forms)
        torch.set_float32_matmul_precision(self.precisions[0])


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
