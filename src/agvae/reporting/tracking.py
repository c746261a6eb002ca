"""Logs a run's pictures and histograms to W&B and TensorBoard, and its tables and model to W&B."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from agvae.data import Batch
from agvae.data.download import KODAK_SHA256
from agvae.data.layouts import data_name
from agvae.errors import ConfigError, Forgiving
from agvae.evaluation import KODAK_IMAGES, METRICS, PUBLISHED_AS, Curve, background_curves, bd_rate, published_curves
from agvae.evaluation.validation import SHORT, Measured, rd_curve
from agvae.facts import model_facts
from agvae.metrics import ms_ssim_db
from agvae.models import AGVAE
from agvae.models.trainable import is_peer
from agvae.reporting.figures import channel_rate_figure, gain_figure, rd_figure, reconstruction_figure, rendered

IMAGE_COLUMNS = ("step", "image", "quality", "bpp", "psnr", "ms_ssim")
CURVE_COLUMNS = ("step", "quality", "bpp", "psnr", "ms_ssim", "ms_ssim_db")

_STEP = "trainer/global_step"
_KODAK = {Path(name).stem for name in KODAK_SHA256}
_KODAK_SIDE = 768
_CROP = 256


@dataclass
class Gathered:
    """The results of a validation: the run's step, the points of the RD curve, a row for each image and quality, the
    rates of the channels at each quality, the panel (name, original, decoded pictures and their labels) and one crop.
    Of the model, its gain vectors, by name, and log σ_l − log σ_r over the latent of that crop, by level."""

    step: int = 0
    points: list[dict[str, float]] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list)
    channel_bpp: dict[float, list[Tensor]] = field(default_factory=dict)
    panel: list[tuple[str, np.ndarray, list[np.ndarray], list[str]]] = field(default_factory=list)
    example: Tensor | None = None
    gains: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    skew: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass
class Media:
    """The content shown for a validation, by key: captioned pictures, values for histograms, tables as
    (columns, rows)."""

    pictures: dict[str, list[tuple[np.ndarray, str]]] = field(default_factory=dict)
    histograms: dict[str, np.ndarray] = field(default_factory=dict)
    tables: dict[str, tuple[Sequence[str], list[list[Any]]]] = field(default_factory=dict)


class Tracking(Callback):
    """Shows the model at validations: RD curve, pictures, gain vectors and the distribution of bits. At the end, it
    logs the model.

    If validation covers all of Kodak in whole pictures, the BD-rates in percent against the published curves of
    `PUBLISHED_AS` go to every logger, as `val/bd_rate_<anchor>_<psnr|ms_ssim>`, and checkpoints may monitor them.
    Figures, histograms and tables are logged at the first validation, whenever the step has grown by the factor
    `growth` since, and at the end. `pictures` is the number of pictures in the panel of reconstructions. `qualities`
    are those of the panel (None: the lowest, the middle and the highest level). `checkpoints` is the folder whose
    best.ckpt (or else last.ckpt) becomes W&B's model artifact. A failure here is a warning and never ends a run."""

    def __init__(
        self, checkpoints: str | Path, pictures: int = 4, qualities: Sequence[float] | None = None, growth: float = 1.2
    ):
        self.checkpoints = Path(checkpoints)
        self.pictures = pictures
        self.qualities = [float(quality) for quality in qualities or ()]
        self.growth = growth
        self.forgiving = Forgiving("this run's pictures and tables are incomplete")
        self.gathered = Gathered()
        self.shown_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the qualities of the panel. Raises ConfigError if the run does not validate at one of them."""
        top = pl_module.model.levels - 1
        self.qualities = self.qualities or sorted({0.0, float(top // 2), float(top)})
        if missing := [quality for quality in self.qualities if quality not in pl_module.qualities]:
            raise ConfigError(
                f"callbacks.tracking.qualities has {missing[0]:g}, at which the run does not validate; add it to "
                "validation.qualities"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _has_kodak(trainer) and _is_cropped(trainer):
            rank_zero_warn("for BD-rates against BPG and VTM, validate on Kodak's whole pictures: data.val_crop=null")
        for logger in _of(trainer, WandbLogger):
            with self.forgiving:
                for name, best in _best(pl_module.qualities).items():
                    logger.experiment.define_metric(name, step_metric=_STEP, step_sync=True, summary=f"{best},last")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.gathered = Gathered(trainer.global_step)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: list[Measured],
        batch: Batch,
        batch_idx: int,
        *_: Any,
    ) -> None:
        if not _shows(trainer):
            return
        with self.forgiving:
            name = Path(batch.path[0]).name
            for measured in outputs:
                values = torch.cat([measured.bpp, measured.psnr, measured.ms_ssim]).tolist()
                self.gathered.rows.append([self.gathered.step, name, measured.quality, *values])
                self.gathered.channel_bpp.setdefault(measured.quality, []).append(measured.channel_bpp[0])
            chosen = [m for m in outputs if m.quality in self.qualities and m.decoded is not None]
            if chosen and batch_idx < self.pictures:
                decoded = [_hwc(_centre(measured.decoded)) for measured in chosen]
                labels = [f"q {m.quality:g}: {m.bpp.item():.3f} bpp, {m.psnr.item():.2f} dB" for m in chosen]
                self.gathered.panel.append((name, _hwc(_centre(batch.image)), decoded, labels))
            if batch_idx == 0:
                self.gathered.example = _centre(batch.image)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        points = pl_module.curve.compute()  # gathers over ranks, so every rank must call it
        if _has_whole_kodak(trainer) and not pl_module.rate_only:
            for name, percent in _bd_rates(rd_curve(points)).items():
                pl_module.log(name, percent)
        if not _shows(trainer):
            return
        self.gathered.points = points
        with self.forgiving:  # here, because the averaged weights are in use only until the end of this hook
            model = pl_module.model
            if not isinstance(model, AGVAE):
                return
            units = {"y": model.gain, "z": model.hyper_gain}
            self.gathered.gains = {
                name: (_numpy(unit.log_gain.exp()), _numpy(unit.log_inverse.exp()))
                for name, unit in units.items()
                if unit is not None
            }
            self.gathered.skew = _skew(model, pl_module.pixels(self.gathered.example))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.gathered.step >= self.growth * self.shown_step:
            self._show(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._show(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in _of(trainer, WandbLogger) if trainer.is_global_zero else ():
            with self.forgiving:
                _log_model(logger.experiment, self.checkpoints, pl_module.rd_points)

    def _show(self, trainer: Trainer) -> None:
        gathered = self.gathered
        if not gathered.points or gathered.step == self.shown_step:
            return
        self.shown_step = gathered.step
        with self.forgiving:
            media = _media(gathered, _title(trainer), _has_whole_kodak(trainer))
            for logger in _of(trainer, WandbLogger):
                _to_wandb(logger.experiment, media, gathered.step)
            for logger in _of(trainer, TensorBoardLogger):
                _to_tensorboard(logger.experiment, media, gathered.step)


def _bd_rates(curve: Curve) -> dict[str, float]:
    """BD-rates by logged name. Those that do not exist (yet) are left out."""
    anchors = {anchor.name: anchor for anchor in published_curves()}
    rates = {
        f"val/bd_rate_{short}_{SHORT[metric]}": bd_rate(anchors[name], curve, metric).percent
        for short, name in PUBLISHED_AS.items()
        for metric in METRICS
    }
    return {name: percent for name, percent in rates.items() if percent is not None}


def _best(qualities: Sequence[float]) -> dict[str, str]:
    """The better direction of each logged scalar that has one. W&B's summary keeps its best value."""
    better = {"val/loss": "min", "train/loss": "min"}
    better |= {f"val/bd_rate_{anchor}_{metric}": "min" for anchor in PUBLISHED_AS for metric in SHORT.values()}
    ways = {"bpp": "min", "psnr": "max", "ms_ssim": "max"}
    return better | {f"val/{key}_q{quality:g}": way for key, way in ways.items() for quality in qualities}


def _media(gathered: Gathered, title: str, on_kodak: bool) -> Media:
    media = Media()
    curve = rd_curve(gathered.points)
    for metric, short in SHORT.items():
        if np.isfinite(curve.results[metric]).any():
            figure = rd_figure([curve], metric, background_curves(metric) if on_kodak else (), title)
            media.pictures[f"rd/{short}"] = [(rendered(figure), f"step {gathered.step}")]
    if gathered.panel:
        media.pictures["reconstructions/panel"] = [
            (rendered(reconstruction_figure(original, decoded, labels, name)), name)
            for name, original, decoded, labels in gathered.panel
        ]
    for name, (gains, inverses) in gathered.gains.items():
        figure = gain_figure(gains, inverses, f"Gain vectors of {name}")
        media.pictures[f"gains/{name}"] = [(rendered(figure), f"step {gathered.step}")]
        for level, (gain, inverse) in enumerate(zip(gains, inverses, strict=True)):
            media.histograms |= {f"gains/{name}_m_{level}": gain, f"gains/{name}_inverse_{level}": inverse}

    levels = [quality for quality in gathered.channel_bpp if quality == int(quality)]
    rates = np.stack([_numpy(torch.stack(gathered.channel_bpp[level]).mean(0)) for level in levels])
    figure = channel_rate_figure(rates, "Rate of each channel of y")
    media.pictures["latent/channel_bpp"] = [(rendered(figure), f"step {gathered.step}")]
    media.histograms |= {f"latent/channel_bpp_q{level:g}": rate for level, rate in zip(levels, rates, strict=True)}
    media.histograms |= {f"latent/log_sigma_ratio_q{level}": ratio for level, ratio in gathered.skew.items()}

    media.tables["val/images"] = (IMAGE_COLUMNS, gathered.rows)
    by_channel = [[channel, *rate] for channel, rate in enumerate(rates.T.tolist())]
    media.tables["latent/channels"] = (["channel", *(f"bpp_q{level:g}" for level in levels)], by_channel)
    rows = [
        [gathered.step, *(point[key] for key in CURVE_COLUMNS[1:-1]), ms_ssim_db(point["ms_ssim"])]
        for point in gathered.points
    ]
    media.tables["rd/points"] = (CURVE_COLUMNS, rows)
    return media


def _to_wandb(run: Any, media: Media, step: int) -> None:
    import wandb

    shown = {key: [wandb.Image(image, caption=text) for image, text in many] for key, many in media.pictures.items()}
    shown |= {key: wandb.Histogram(values) for key, values in media.histograms.items()}
    shown |= {key: wandb.Table(columns=list(columns), data=rows) for key, (columns, rows) in media.tables.items()}
    shown["rd/curve"] = wandb.plot.line(shown.pop("rd/points"), "bpp", "psnr", title="PSNR (dB) over bpp")
    run.log({**shown, _STEP: step})


def _to_tensorboard(writer: Any, media: Media, step: int) -> None:
    for key, many in media.pictures.items():
        for number, (image, _) in enumerate(many):
            writer.add_image(key if len(many) == 1 else f"{key}_{number}", image, step, dataformats="HWC")
    for key, values in media.histograms.items():
        writer.add_histogram(key, values, step)


def _log_model(run: Any, checkpoints: Path, points: list[dict[str, float]]) -> None:
    import wandb

    from agvae.codec.model_file import from_checkpoint, read_checkpoint

    kept = [path for name in ("best.ckpt", "last.ckpt") if (path := checkpoints / name).exists()]
    if is_peer(config := read_checkpoint(kept[0]).config):  # its only file is its checkpoint
        artifact = wandb.Artifact(
            f"{config['architecture']}-{run.id}", "model", metadata={"model": config, "rd": points}
        )
        artifact.add_file(str(kept[0]))
        run.log_artifact(artifact)
        return
    model = from_checkpoint(kept[0])
    artifact = wandb.Artifact(f"agvae-{run.id}", "model", metadata={**model_facts(model), "rd": points})
    with tempfile.TemporaryDirectory() as folder:  # W&B makes a copy
        path = Path(folder, "model.safetensors")
        model.save(path)
        artifact.add_file(str(path))
    run.log_artifact(artifact)


def _skew(model: AGVAE, x: Tensor) -> dict[int, np.ndarray]:
    """log σ_l − log σ_r of each element of y, by level. Empty for a symmetric model."""
    if model.symmetric:
        return {}
    of_levels = ((level, model.code(model.g_a(x), level).parameters) for level in range(model.levels))
    return {level: _numpy((p.sigma_l.log() - p.sigma_r.log()).flatten()) for level, p in of_levels}


def _shows(trainer: Trainer) -> bool:
    """Whether this process shows this validation anywhere."""
    loggers = _of(trainer, WandbLogger, TensorBoardLogger)
    return bool(loggers) and trainer.is_global_zero and not trainer.sanity_checking


def _of(trainer: Trainer, *kinds: type[Logger]) -> list[Any]:
    return [logger for logger in trainer.loggers if isinstance(logger, kinds)]


def _has_kodak(trainer: Trainer) -> bool:
    return {Path(path).stem.lower() for _, path in trainer.datamodule.pictures.samples} == _KODAK


def _has_whole_kodak(trainer: Trainer) -> bool:
    """Whether validation covers the pictures over which the published curves are means."""
    return _has_kodak(trainer) and not _is_cropped(trainer) and sum(trainer.num_val_batches) == KODAK_IMAGES


def _is_cropped(trainer: Trainer) -> bool:
    crop = trainer.datamodule.config.val_crop
    return crop is not None and crop < _KODAK_SIDE


def _title(trainer: Trainer) -> str:
    config, count = trainer.datamodule.config, sum(trainer.num_val_batches)
    name = "Kodak" if _has_kodak(trainer) else config.val_root.name if config.val_root else data_name(config)
    crops = "centre crops" if config.val_crop is not None else "whole pictures"
    return f"Validation, {name}, mean over {count} image{'s' * (count > 1)}, {crops}, rate as estimated"


def _centre(images: Tensor) -> Tensor:
    """The middle of pictures (B, C, H, W), at most 256 × 256. Sides that are multiples of 64 stay so."""
    height, width = (min(side, _CROP) for side in images.shape[-2:])
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


def _hwc(images: Tensor) -> np.ndarray:
    return images[0].permute(1, 2, 0).cpu().numpy()


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
