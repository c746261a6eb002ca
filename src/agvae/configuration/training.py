"""The keys of conf/train.yaml, all of them: what `python train.py` takes."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from agvae.configuration.data import DataConfig
from agvae.configuration.model import Model
from agvae.configuration.objects import Callbacks, Logger
from agvae.configuration.optimization import Loss, Optimizer, Scheduler
from agvae.configuration.values import Amount, Count, Duration, FilePath, Numbers, Section, Text, Words

Batches = Annotated[int, Field(ge=0, le=2**40)] | Annotated[float, Field(ge=0, le=1)]
_BATCHES = Words("a whole number from 0 on", "a share from 0 to 1")

Limit = Annotated[Annotated[int, Field(ge=-1, le=2**40)], Words("-1", "a whole number from 0 on")]


class Trainer(Section):
    """Arguments of lightning.Trainer, as Lightning names them.

    Those that conf/trainer/default.yaml does not list are given with a +, as in +trainer.deterministic=true."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field(description="auto: the fastest there is")
    devices: Annotated[
        Annotated[int, Field(ge=-1, le=2**16)]
        | Annotated[str, Field(pattern=r"^(auto|-1|\d+(,\d+)*)$")]
        | Annotated[list[Annotated[int, Field(ge=0, le=2**16)]], Field(min_length=1)],
        Words("auto", "a number of devices", "a list of their numbers"),
    ] = Field(description="how many, or which; with more than one, strategy auto is ddp")
    strategy: Text = Field(description="auto, ddp, fsdp, …")
    num_nodes: Annotated[int, Field(ge=1, le=2**16)] = Field(description="machines")
    precision: (
        Literal[
            "auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "32", "16", "bf16", "64"
        ]
        | Literal[16, 32, 64]
    ) = Field(
        description="auto: bf16-mixed where it is faster and right, else 32-true; likelihoods and losses are float32"
    )
    max_steps: Limit = Field(description="optimiser steps; −1: no limit")
    max_epochs: Limit | None = Field(description="passes over the data; −1: no limit")
    max_time: Duration | None = Field(
        description="time for the whole run, over which the learning rate falls; a resumed run goes on with the rest"
    )
    accumulate_grad_batches: Count = Field(description="batches per optimiser step")
    gradient_clip_val: Amount | None = Field(description="largest norm of the network's gradient; null: no clipping")
    val_check_interval: Annotated[
        Annotated[int, Field(ge=1, le=2**40)] | Annotated[float, Field(gt=0, le=1)],
        Words("a whole number from 1 on", "a share of an epoch"),
    ] = Field(description="batches between validations")
    check_val_every_n_epoch: Count | None = Field(description="null: the interval runs on over the ends of epochs")
    num_sanity_val_steps: Limit = Field(
        description="validation images tried before training, so that a fault shows at once; −1: all"
    )
    limit_train_batches: Annotated[Batches, _BATCHES] | None = Field(
        description="batches of an epoch that are used, for trying things out"
    )
    limit_val_batches: Annotated[Batches, _BATCHES] | None = Field(description="validation images that are used")
    overfit_batches: Annotated[Batches, _BATCHES] = Field(description="train on so many batches alone")
    log_every_n_steps: Annotated[int, Field(ge=0, le=2**40)] = Field(
        description="steps between logged values; 0: none are logged"
    )
    enable_model_summary: bool = Field(description="Lightning's table of layers")
    min_epochs: Count | None = Field(None, description="fewest passes over the data")
    min_steps: Count | None = Field(None, description="fewest optimiser steps")
    enable_progress_bar: bool = Field(True, description="false: no bar; needs callbacks.progress_bar=null")
    gradient_clip_algorithm: Literal["norm", "value"] | None = Field(
        None, description="what gradient_clip_val limits; null: norm"
    )
    deterministic: bool | Literal["warn"] | None = Field(None, description="deterministic algorithms on GPUs")
    benchmark: bool | None = Field(None, description="cuDNN's search for the fastest algorithms")
    detect_anomaly: bool = Field(False, description="torch's search for operations that give NaN")
    profiler: Literal["simple", "advanced", "pytorch"] | None = Field(None, description="Lightning's profilers")


class EMA(Section):
    decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        description="e.g. 0.999: average the weights, validate with the average and export it; null: off"
    )


class Validation(Section):
    qualities: Numbers | None = Field(
        description="qualities of the RD curve beside the levels, e.g. [0.5, 1.25]; null: half-way between levels"
    )


class Training(Section):
    """What `python train.py` takes. Groups such as model/transforms and loss are chosen with group=option."""

    GROUPS: ClassVar = (
        "model", "model/transforms", "model/gain", "model/entropy", "model/context", "model/quantizer", "loss", "data",
        "optimizer", "scheduler", "trainer", "callbacks", "logger", "experiment", "sweep", "debug",
    )  # fmt: skip

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(description="of weights, patches, levels and noise")
    ckpt_path: FilePath | None = Field(
        description="resume: a checkpoint's path, or last for the newest run; the run's own configuration goes on"
    )
    init_from: FilePath | None = Field(
        description="start from the weights of a checkpoint, a model file or a shipped model with the same model.*"
    )
    threads: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="on a CPU, of each process; null: as many as the cores that it may use"
    )
    compile: bool = Field(
        description="compile the transforms (a minute at the start); where that cannot be, they run as they are"
    )
    ema: EMA
    validation: Validation
    run_dir: FilePath = Field(description="everything that a run writes")
    model: Model
    loss: Loss
    data: DataConfig
    optimizer: Optimizer
    scheduler: Scheduler
    trainer: Trainer
    callbacks: Callbacks
    logger: Logger
    variants: dict[str, dict[str, Any]] | None = Field(None, description="the points of sweep=…")
    entropy: Text | None = Field(None, description="the point of sweep=entropy that a run is")
    gain_units: Text | None = Field(None, description="the point of sweep=gain_units that a run is")
    gain_vectors: Text | None = Field(None, description="the point of sweep=gain_vectors that a run is")

    @model_validator(mode="after")
    def _has_a_sweep(self) -> "Training":
        for key in ("entropy", "gain_units", "gain_vectors"):
            point = getattr(self, key)
            if point is not None and point not in (self.variants or {}):
                raise ValueError(f"{key} must be a point of sweep={key}, not {point}; for the model, set model.*")
        return self
