"""The module that Lightning trains: a model with one level, and so one λ, per picture of the batch (AG-VAE §3.3)."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm
from torch.optim.lr_scheduler import ReduceLROnPlateau

from agvae.data import Batch, LatentBatch
from agvae.data.datamodule import batches_done
from agvae.errors import ConfigError, numbers
from agvae.evaluation.validation import Measured
from agvae.facts import new_run_id
from agvae.models.agvae import AGVAE
from agvae.models.trainable import build_model
from agvae.quality import check_quality, half_levels
from agvae.training import objective
from agvae.training.budget import budget_of
from agvae.training.capture import CapturedStep
from agvae.training.lightning_internals import is_sharded, trainer_of
from agvae.training.loggers import logs_after
from agvae.training.losses import distortion, resolved, trained_levels
from agvae.training.objective import StepLoss
from agvae.training.optimization import build_optimizer, build_scheduler, lay_over
from agvae.training.rd_curve import RDCurve
from agvae.training.validation import measure, measure_rate


class AGVAEModule(LightningModule):
    """The model, its loss, its optimiser and its validation, from the groups of conf/ as plain dicts.

    A checkpoint of it holds the weights under the prefix `model.` and these dicts as `hyper_parameters`, `loss`
    with its λ resolved, so that it loads with `weights_only=True`.
    """

    def __init__(
        self,
        model: dict[str, Any],
        loss: dict[str, Any],
        optimizer: dict[str, Any],
        scheduler: dict[str, Any],
        validation: dict[str, Any],
        seed: int = 0,
        freeze: Sequence[str] = (),
    ):
        """The groups of conf/ of these names, as plain dictionaries; the parts named in `freeze` are not trained.

        Raises ConfigError for a choice that cannot be."""
        super().__init__()
        try:
            self.model = build_model(model)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.frozen = [part for name, part in self.model.named_children() if name in freeze]
        for part in self.frozen:
            part.requires_grad_(False)
        # The distortion then has no gradient: no part of the entropy model changes what the decoder sees but μ, whose
        # gradient through straight-through rounding is zero.
        self.rate_only = {"g_a", "g_s"} <= {*freeze} and (getattr(self.model, "gain", None) is None or "gain" in freeze)
        levels = self.model.levels
        if loss["lambdas"] is None:
            loss = {**loss, "lambdas": self.model.own_lambdas.get(loss["name"])}
        loss = resolved(loss, levels)
        self.levels = trained_levels(loss, levels)
        self.lambdas: list[float] = loss["lambdas"]
        self.model.initialise_gains(self.lambdas)
        self.memory_format = torch.contiguous_format
        self.distortion = distortion(loss["name"])
        self.register_buffer("level_lambda", torch.tensor(self.lambdas), persistent=False)
        self.register_buffer("level_weight", torch.tensor(loss["level_weights"]), persistent=False)
        self.register_buffer("trained_levels", torch.tensor(self.levels), persistent=False)
        self.qualities = _validation_qualities(validation["qualities"], levels)
        self.curve = RDCurve(self.qualities)
        self.rd_points: list[dict[str, float]] = []
        self.run_id = new_run_id()
        self.step_loss: Tensor | None = None  # of the last batch, without that of the quantiles
        self.step_skipped: Tensor | None = None  # whether the optimiser's last step was
        self.captured: CapturedStep | None = None
        self.logs = True  # whether the values of this step are logged
        self.next_log = 0.0  # in seconds of the monotonic clock
        self.replayed = False  # whether the last step was a replay of `captured`
        self.save_hyperparameters(
            {
                "model": model,
                "loss": loss,
                "optimizer": optimizer,
                "scheduler": scheduler,
                "validation": validation,
                "seed": seed,
                "freeze": list(freeze),
            },
            logger=False,
        )
        self.train()

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of the run. See `agvae.facts`."""
        return {"run": self.run_id, "model": self.hparams["model"], "loss": self.hparams["loss"]}

    def setup(self, stage: str) -> None:
        """Store tensors with channels last, which is faster, if that is safe."""
        # On a CPU oneDNN's weight gradient of a strided 1×1 convolution then writes out of bounds, and may be wrong
        # without a word (oneDNN issue 6035, torch 2.11).
        on_cpu = self.trainer.strategy.root_device.type == "cpu"
        if not (on_cpu and any(_strided_1x1(module) for module in self.model.modules())):
            self.memory_format = torch.channels_last
            self.model.to(memory_format=torch.channels_last)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = self.run_id
        checkpoint["precision"] = self.trainer.precision  # a resumed run keeps what trainer.precision=auto chose

    def train(self, mode: bool = True) -> "AGVAEModule":
        """As nn.Module's, but frozen parts stay in evaluation mode: a layer of one's own may have running means."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    @property
    def _agvae(self) -> AGVAE:
        """The model where parts are frozen, which the schema allows for AG-VAE alone."""
        assert isinstance(self.model, AGVAE)
        return self.model

    @torch.no_grad()
    def latent(self, source: Tensor) -> Tensor:
        """y = g_a(x), (B, M, H/16, W/16), of pictures (B, 3, H, W) uint8, without autocast, as the codec computes it.

        Latents, of any floating type, are only converted."""
        if source.is_floating_point():
            return source.to(self.dtype, memory_format=self.memory_format)
        with torch.autocast(self.device.type, enabled=False):
            return self._agvae.latent(self.pixels(source)).contiguous(memory_format=self.memory_format)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        lay_over(checkpoint, self.hparams.optimizer)

    def pixels(self, image: Tensor) -> Tensor:
        """uint8 (B, 3, H, W), which takes a quarter of the bytes on the way to the device, to floats in [0, 1]."""
        return image.to(self.dtype, memory_format=self.memory_format) / 255

    def draw_levels(self, size: int) -> Tensor:
        """(size,): the levels to train, according to `loss.level_sampling`.

        sample: each picture of a batch has its own level; batch: they share one (the paper's); stratified: each has its
        own, drawn so that a batch has all levels equally often, up to one."""
        sampling, count = self.hparams.loss["level_sampling"], len(self.levels)
        if sampling == "stratified":
            offset = torch.rand((), device=self.device)
            index = ((torch.arange(size, device=self.device) + offset) * (count / size)).long().clamp(max=count - 1)
        else:
            index = torch.randint(count, (1 if sampling == "batch" else size,), device=self.device).expand(size)
        return self.trained_levels[index]

    def objective(self, source: Tensor, level: Tensor) -> StepLoss:
        """The loss of pictures (B, 3, H, W) uint8, or of their latents, at the levels (B,): pure, logs nothing.

        The distortion is left out where it has no gradient (`rate_only`)."""
        if self.rate_only:
            return objective.rate(self, self.latent(source), level)
        return objective.rate_distortion(self, source, level)

    def training_step(self, batch: Batch | LatentBatch, batch_idx: int) -> Tensor:
        """mean_i w_i·(R_i + λ_i·D_i), R in bits per pixel, plus the loss of the prior's quantiles.

        Levels and noise depend on nothing but the seed, the rank and the number of batches done, so that a resumed run
        draws what the uninterrupted one draws, and ranks draw differently. A loss that is not finite makes all
        gradients NaN, and so, summed over ranks, those of every rank. A captured step has the gradients already."""
        done = batches_done(self.trainer)
        _seed_generators(step_seed(self.hparams.seed, self.global_rank, done), self.device)
        source = batch.latent if isinstance(batch, LatentBatch) else batch.image
        level = self.draw_levels(len(source))
        self.replayed = self.captured is not None and self.captured.fits(source)
        losses = self.captured(source, level) if self.captured and self.replayed else self.objective(source, level)
        self.step_loss = losses.loss.detach().clone()
        self.logs = self._is_time_to_log()
        if self.logs:
            self._log_step(losses.detached(), level)
        return losses.total

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients, unless the step was a replay, which did."""
        if not self.replayed:
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Forget the gradients, unless the step was a replay, which has written them anew."""
        if not self.replayed:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def _is_time_to_log(self) -> bool:
        """Whether this step's values are logged: for the loggers, and once a second for the progress bar."""
        now = time.monotonic()
        if not logs_after(self.trainer, self.global_step + 1) and now < self.next_log:
            return False
        self.next_log = now + 1
        return True

    def _log_step(self, losses: StepLoss, level: Tensor) -> None:
        self.log("train/loss", losses.loss, prog_bar=True)
        self.log("train/bpp", losses.bpp.mean(), prog_bar=True)
        self.log("train/aux_loss", losses.aux_loss)
        if not self.rate_only:
            self.log("train/psnr", losses.psnr.mean(), prog_bar=True)
        # Reading which levels were drawn waits for the device, so only when the values are kept.
        if logs_after(self.trainer, self.global_step + 1):
            for s in level.unique().tolist():
                self.log(f"train/loss_level_{s}", losses.losses[level == s].mean())

    def configure_optimizers(self) -> dict[str, Any]:
        """One optimiser with two groups, network and quantiles; the schedule is the network's alone."""
        # A fused optimiser unscales float16 gradients itself, after clipping would have needed them unscaled.
        fused = self.trainer.precision != "16-mixed"
        optimizer = build_optimizer(
            self.hparams.optimizer, self.model.network_parameters(), self.model.quantile_parameters(), fused
        )
        budget = budget_of(self.trainer)
        scheduler = build_scheduler(
            self.hparams.scheduler, optimizer, self._run_length, lambda: budget.share if budget else 0.0
        )
        return {
            "optimizer": optimizer,
            # Lightning would step a plateau by stale values between validations; on_validation_epoch_end does it.
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "reduce_on_plateau": False},
        }

    def _run_length(self) -> float:
        steps = self.trainer.estimated_stepping_batches
        if steps < math.inf:
            return int(steps)
        if budget_of(self.trainer) is None:
            raise ConfigError(
                f"scheduler={self.hparams.scheduler['name']} follows the length of the run: "
                "set trainer.max_steps, trainer.max_epochs, trainer.max_time or scheduler.total_steps"
            )
        return math.inf

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip only the gradients of the network. Those of the quantiles have another scale and would dominate the
        norm.

        If a gradient is not finite, the optimiser skips this step. Only the device knows, and nothing waits for it:
        `step_skipped`, a boolean tensor, tells those who ask later. At this point, gradients are those of all ranks, so
        all ranks skip together."""
        network, quantiles = (group["params"] for group in optimizer.param_groups)
        norm = self._gradient_norm(network)
        if gradient_clip_val and gradient_clip_algorithm == "value":
            clip_grad_value_(network, gradient_clip_val)
        elif gradient_clip_val:
            clip_grads_with_norm_(network, gradient_clip_val, norm)
        if self.logs:
            self.log("train/grad_norm", norm)
        self.step_skipped = ~(norm + self._gradient_norm(quantiles)).isfinite()
        if optimizer.defaults["fused"]:
            optimizer.found_inf = self.step_skipped.float()  # otherwise the gradient scaler of float16 does it

    def _gradient_norm(self, parameters: list[nn.Parameter]) -> Tensor:
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        # Under FSDP each process holds a share of each gradient.
        if is_sharded(trainer_of(self)):
            norm = self.trainer.strategy.reduce(norm.to(self.device).square(), reduce_op="sum").sqrt()
        return norm

    def on_validation_epoch_start(self) -> None:
        self.curve.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> list[Measured]:
        """Add each image at each quality to the RD curve: the model's own rate, metrics on the 8-bit picture.

        Without autocast, as the codec codes. Where the loss is the rate alone, nothing is decoded and the metrics are
        NaN. Returns what was measured at each quality, for callbacks."""
        measured = []
        with torch.autocast(self.device.type, enabled=False):
            found = measure_rate(self, batch.image) if self.rate_only else measure(self, batch.image)
            for index, (point, loss) in enumerate(found):
                self.curve.update(index, point.bpp, point.psnr, point.ms_ssim, loss)
                measured.append(point)
        return measured

    def on_validation_epoch_end(self) -> None:
        """Log the RD curve's points and val/loss, the mean of the training loss over images and trained levels."""
        self.rd_points = points = self.curve.compute()
        losses = [p["loss"] for p in points if p["quality"] in self.levels]
        val_loss = sum(losses) / len(losses)
        # Equal on all ranks already: the curve gathers its sums.
        self.log("val/loss", val_loss, prog_bar=True)
        for point in points:
            for key in ("bpp", "psnr", "ms_ssim"):
                if point[key] == point[key]:
                    self.log(f"val/{key}_q{point['quality']:g}", point[key])
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau) and not self.trainer.sanity_checking:
            scheduler.step(val_loss)


def step_seed(seed: int, rank: int, batch: int) -> int:
    """A 63-bit seed for torch's generators: a hash of the run's seed, the rank and the number of the batch."""
    return int(np.random.SeedSequence((seed, rank, batch)).generate_state(1, np.uint64)[0]) >> 1


def _seed_generators(seed: int, device: torch.device) -> None:
    """`torch.manual_seed`, but on a GPU without asking for devices of other kinds, which takes a millisecond."""
    if device.type not in ("cpu", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)


def _strided_1x1(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and max(module.stride) > 1


def _validation_qualities(qualities: list[float] | None, levels: int) -> list[float]:
    if qualities is None:
        return half_levels(levels)
    qualities = numbers("validation.qualities", qualities)
    try:
        for quality in qualities:
            check_quality(quality, levels - 1)
    except ValueError as error:
        raise ConfigError(f"validation.qualities: {error}") from None
    # val/loss is the mean over the levels, so they are always among them.
    return sorted({*qualities, *map(float, range(levels))})
