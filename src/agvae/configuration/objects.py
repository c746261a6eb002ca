"""The keys of `callbacks` and `logger`: objects made from a class or function, `_target_`, and its arguments."""

import importlib
import inspect
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from agvae.configuration.values import Count, FilePath, Numbers, Section, Text, Words

OTHER = "_target_"
"""The tag of an object of any other class."""

Target = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$"), Words("package.module.Class")]


class Instance(Section, extra="allow"):
    """An object of any class that can be imported; the other keys are the arguments of its constructor."""

    target: Target = Field(alias="_target_", description="any class; the other keys are its arguments")

    @model_validator(mode="after")
    def _can_be_made(self) -> "Instance":
        module, _, name = self.target.rpartition(".")
        try:
            made = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            words = f"{{key}}._target_ must be a class that can be imported, not {self.target}: {error}"
            raise ValueError(words) from None
        given = {key: value for key, value in (self.__pydantic_extra__ or {}).items() if key[:1] != "_"}
        try:
            inspect.signature(made).bind(**given)
        except TypeError as error:
            raise ValueError(f"{{key}} must have arguments of {self.target}: {error}") from None
        return self


Metric = Annotated[
    str,
    Field(pattern=r"^val/(loss|(bpp|psnr|ms_ssim)_q\d+(\.\d+)?)$"),
    Words("val/loss", "val/bpp_qQ", "val/psnr_qQ", "val/ms_ssim_qQ of a quality Q of validation"),
]


class Best(Section):
    target: Literal["lightning.pytorch.callbacks.ModelCheckpoint"] = Field(
        alias="_target_", description="keeps the best checkpoint"
    )
    dirpath: FilePath = Field(description="folder of the checkpoint")
    filename: Text = Field(description="name of the file, without the suffix")
    monitor: Metric = Field(description="the logged value that decides")
    mode: Literal["min", "max"] = Field("min", description="whether the lowest or the highest value is the best")
    save_top_k: Annotated[int, Field(ge=-1, le=1000)] = Field(1, description="number of checkpoints to keep; −1: all")
    auto_insert_metric_name: bool = Field(
        description="false: no = in file names, which Hydra would read as an override"
    )
    enable_version_counter: bool = Field(description="false: a new best replaces the old one")


class Last(Section):
    target: Literal["agvae.training.checkpoints.LastCheckpoint"] = Field(
        alias="_target_", description="keeps a checkpoint of the last step, however training ends"
    )
    path: FilePath = Field(description="the file")
    every_n_steps: Count = Field(description="steps between checkpoints; also around validations and at the end")


class SkippedSteps(Section):
    target: Literal["agvae.training.callbacks.SkippedSteps"] = Field(
        alias="_target_", description="skips steps with a loss or gradient that is not finite"
    )


class Rollback(Section):
    target: Literal["agvae.training.rollback.Rollback"] = Field(
        alias="_target_", description="goes back to the last good weights when a run diverges; null: off"
    )
    every_n_steps: Annotated[int, Field(ge=1, le=10_000)] = Field(description="steps between checks of the losses")
    in_a_row: Count = Field(
        description="steps in a row with a loss or gradient that is not finite, after which a run has diverged"
    )
    growth: Annotated[float, Field(gt=1, le=1000)] = Field(
        description="a run has also diverged when its smoothed loss exceeds its best by this factor"
    )
    factor: Annotated[float, Field(gt=0, le=1)] = Field(description="going back multiplies the learning rate by this")
    limit: Annotated[int, Field(ge=0, le=1000)] = Field(
        description="times to go back without a new best loss; the next divergence ends the run. 0: the first ends it"
    )


class DataWait(Section):
    target: Literal["agvae.training.callbacks.DataWait"] = Field(
        alias="_target_", description="logs the share of the time that is spent waiting for data"
    )


class RDCurve(Section):
    target: Literal["agvae.training.callbacks.RDCurveWriter"] = Field(
        alias="_target_", description="writes the RD curve of each validation"
    )
    path: FilePath = Field(description="the file, CSV")


class Tracking(Section):
    target: Literal["agvae.reporting.tracking.Tracking"] = Field(
        alias="_target_", description="pictures and figures for W&B and TensorBoard, the model as W&B's artifact"
    )
    checkpoints: FilePath = Field(description="folder of the model that becomes the artifact")
    pictures: Annotated[int, Field(ge=0, le=1024)] = Field(
        description="held-out pictures in the panel of reconstructions"
    )
    qualities: Numbers | None = Field(
        description="qualities in the panel; null: the lowest, the middle and the highest level"
    )
    growth: Annotated[float, Field(ge=1, le=1000)] = Field(
        description="log figures again when the step has grown by this factor; 1: at every validation"
    )


class LearningRate(Section):
    target: Literal["lightning.pytorch.callbacks.LearningRateMonitor"] = Field(
        alias="_target_", description="logs the learning rate"
    )
    logging_interval: Literal["step", "epoch"] | None = Field(description="how often; null: both")
    log_momentum: bool = Field(False, description="also log the momentum")
    log_weight_decay: bool = Field(False, description="also log the weight decay")


class ProgressBar(Section):
    target: Literal["agvae.training.pace.StepProgressBar"] = Field(
        alias="_target_", description="a line on the terminal: steps, their rate, the time to go"
    )
    refresh_rate: Annotated[int, Field(ge=0, le=10**6)] = Field(
        description="batches between redraws, each of which waits for the device; 0: no bar"
    )


def _target(value: Any) -> str:
    target = str(value.get("_target_")) if isinstance(value, dict) else OTHER
    return target if target in _KNOWN else OTHER


ByTarget = Discriminator(_target)

_BEST = "lightning.pytorch.callbacks.ModelCheckpoint"
_LAST = "agvae.training.checkpoints.LastCheckpoint"
_SKIPPED = "agvae.training.callbacks.SkippedSteps"
_ROLLBACK = "agvae.training.rollback.Rollback"
_WAIT = "agvae.training.callbacks.DataWait"
_CURVE = "agvae.training.callbacks.RDCurveWriter"
_TRACKING = "agvae.reporting.tracking.Tracking"
_RATE = "lightning.pytorch.callbacks.LearningRateMonitor"
_BAR = "agvae.training.pace.StepProgressBar"
_CSV = "lightning.pytorch.loggers.CSVLogger"
_TENSORBOARD = "lightning.pytorch.loggers.TensorBoardLogger"
_WANDB = "agvae.training.loggers.wandb_logger"
_KNOWN = {_BEST, _LAST, _SKIPPED, _ROLLBACK, _WAIT, _CURVE, _TRACKING, _RATE, _BAR, _CSV, _TENSORBOARD, _WANDB}

Other = Annotated[Instance, Tag(OTHER)]


class Callbacks(Section, extra="allow"):
    """Lightning's callbacks. Set one to null to leave it out. Add any other callback under a new name, as in
    +callbacks.NAME._target_=package.module.Class. Its other keys are the arguments of that class."""

    __pydantic_extra__: dict[str, Instance | None]

    best: Annotated[Annotated[Best, Tag(_BEST)] | Other, ByTarget] | None = None
    last: Annotated[Annotated[Last, Tag(_LAST)] | Other, ByTarget] | None = None
    skipped_steps: Annotated[Annotated[SkippedSteps, Tag(_SKIPPED)] | Other, ByTarget] | None = None
    rollback: Annotated[Annotated[Rollback, Tag(_ROLLBACK)] | Other, ByTarget] | None = None
    data_wait: Annotated[Annotated[DataWait, Tag(_WAIT)] | Other, ByTarget] | None = None
    rd_curve: Annotated[Annotated[RDCurve, Tag(_CURVE)] | Other, ByTarget] | None = None
    tracking: Annotated[Annotated[Tracking, Tag(_TRACKING)] | Other, ByTarget] | None = None
    learning_rate: Annotated[Annotated[LearningRate, Tag(_RATE)] | Other, ByTarget] | None = None
    progress_bar: Annotated[Annotated[ProgressBar, Tag(_BAR)] | Other, ByTarget] | None = None


class _File(Section):
    save_dir: FilePath = Field(description="folder of the logs")
    name: Text = Field(description="name of the subfolder")


class CSV(_File):
    target: Literal["lightning.pytorch.loggers.CSVLogger"] = Field(alias="_target_", description="metrics.csv")


class TensorBoard(_File):
    target: Literal["lightning.pytorch.loggers.TensorBoardLogger"] = Field(
        alias="_target_", description="TensorBoard (the extra tensorboard)"
    )


class Wandb(Section):
    target: Literal["agvae.training.loggers.wandb_logger"] = Field(
        alias="_target_", description="Weights & Biases, offline unless you are logged in"
    )
    run_dir: FilePath = Field(description="folder of the logs")
    project: Text = Field(description="W&B's project")
    entity: Text | None = Field(None, description="W&B's user or team; null: your default")
    name: Text | None = Field(None, description="name of the run; null: W&B's own")
    group: Text | None = Field(None, description="group of runs that W&B shows together")
    tags: list[Text] = Field([], description="words by which to find the run")
    notes: str | None = Field(None, description="a longer text about the run")
    job_type: Text | None = Field(None, description="W&B's type of job")


class Logger(Section, extra="allow"):
    """Lightning's loggers. Set one to null to leave it out. Add others as you add callbacks."""

    __pydantic_extra__: dict[str, Instance | None]

    csv: Annotated[Annotated[CSV, Tag(_CSV)] | Other, ByTarget] | None = None
    tensorboard: Annotated[Annotated[TensorBoard, Tag(_TENSORBOARD)] | Other, ByTarget] | None = None
    wandb: Annotated[Annotated[Wandb, Tag(_WANDB)] | Other, ByTarget] | None = None
