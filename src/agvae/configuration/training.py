"""All keys of conf/train.yaml: the configuration of `python train.py`."""

import difflib
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from agvae.configuration.data import DataConfig
from agvae.configuration.model import AGVAE, Model
from agvae.configuration.objects import Callbacks, Logger
from agvae.configuration.optimization import Loss, Optimizer, Scheduler
from agvae.configuration.values import Amount, Count, Duration, FilePath, Numbers, Section, Text, Words, either

PARTS = ("g_a", "g_s", "h_a", "h_s", "context", "prior", "gain", "hyper_gain")
"""The parts of an AG-VAE that a run can freeze or start anew, by the names of the model's attributes."""


def _parts(names: list[str]) -> list[str]:
    """The names. Raises ValueError for a name that is no part. The error gives the nearest one."""
    for name in names:
        if name not in PARTS:
            near = difflib.get_close_matches(name, PARTS, 1, 0.0)[0]
            raise ValueError(
                f"{{key}} must name parts of the model ({either(PARTS)}), not {name}: the nearest is {near}"
            )
    return names


Parts = Annotated[list[str], AfterValidator(_parts), Words("a list of parts of the model")]

Batches = Annotated[int, Field(ge=0, le=2**40)] | Annotated[float, Field(ge=0, le=1)]
_BATCHES = Words("a whole number from 0 on", "a share from 0 to 1")

Limit = Annotated[Annotated[int, Field(ge=-1, le=2**40)], Words("-1", "a whole number from 0 on")]


class Trainer(Section):
    """Arguments of lightning.Trainer, as Lightning names them.

    Those that conf/trainer/default.yaml does not list are given with a +, as in +trainer.deterministic=true."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field(description="auto: the fastest available")
    devices: Annotated[
        Annotated[int, Field(ge=-1, le=2**16)]
        | Annotated[str, Field(pattern=r"^(auto|-1|\d+(,\d+)*)$")]
        | Annotated[list[Annotated[int, Field(ge=0, le=2**16)]], Field(min_length=1)],
        Words("auto", "a number of devices", "a list of their numbers"),
    ] = Field(description="number of devices, or a list of them; with more than one, strategy auto is ddp")
    strategy: Text = Field(description="auto, ddp, fsdp, …")
    num_nodes: Annotated[int, Field(ge=1, le=2**16)] = Field(description="number of machines")
    precision: (
        Literal[
            "auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "32", "16", "bf16", "64"
        ]
        | Literal[16, 32, 64]
    ) = Field(
        description="auto: bf16-mixed if it is faster and correct, else 32-true; likelihoods and losses are always "
        "float32"
    )
    max_steps: Limit = Field(description="optimiser steps; −1: no limit")
    max_epochs: Limit | None = Field(description="passes over the data; −1: no limit")
    max_time: Duration | None = Field(
        description="time for the whole run, over which the learning rate falls; a resumed run has the rest of it"
    )
    accumulate_grad_batches: Count = Field(description="batches per optimiser step")
    gradient_clip_val: Amount | None = Field(description="largest norm of the network's gradient; null: no clipping")
    val_check_interval: Annotated[
        Annotated[int, Field(ge=1, le=2**40)] | Annotated[float, Field(gt=0, le=1)],
        Words("a whole number from 1 on", "a share of an epoch"),
    ] = Field(description="batches between validations")
    check_val_every_n_epoch: Count | None = Field(description="null: the interval continues across epochs")
    num_sanity_val_steps: Limit = Field(
        description="validation images tried before training, to show faults at once; −1: all"
    )
    limit_train_batches: Annotated[Batches, _BATCHES] | None = Field(
        description="number of batches of an epoch that are used, for experiments"
    )
    limit_val_batches: Annotated[Batches, _BATCHES] | None = Field(
        description="number of validation images that are used"
    )
    overfit_batches: Annotated[Batches, _BATCHES] = Field(description="train only on this number of batches")
    log_every_n_steps: Annotated[int, Field(ge=0, le=2**40)] = Field(
        description="steps between logged values; 0: none are logged"
    )
    enable_model_summary: bool = Field(description="Lightning's table of layers")
    min_epochs: Count | None = Field(None, description="smallest number of passes over the data")
    min_steps: Count | None = Field(None, description="smallest number of optimiser steps")
    enable_progress_bar: bool = Field(True, description="false: no bar; needs callbacks.progress_bar=null")
    gradient_clip_algorithm: Literal["norm", "value"] | None = Field(
        None, description="the quantity that gradient_clip_val limits; null: norm"
    )
    deterministic: bool | Literal["warn"] | None = Field(None, description="deterministic algorithms on GPUs")
    benchmark: bool | None = Field(None, description="cuDNN's search for the fastest algorithms")
    detect_anomaly: bool = Field(False, description="torch's search for operations that give NaN")
    profiler: Literal["simple", "advanced", "pytorch"] | None = Field(None, description="Lightning's profilers")


class EMA(Section):
    decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        description="e.g. 0.999: average the weights, validate with the average and export it; null: off"
    )


class Latents(Section):
    crops: Count | None = Field(
        None,
        description="number of fixed patches whose latents y = g_a(x) are computed once, kept on disk and trained "
        "on; it needs freeze with g_a, g_s and gain; null: train on pictures",
    )
    dtype: Literal["float16", "float32"] = Field("float16", description="number format on disk; float32 is exact")
    folder: FilePath = Field(
        "latents",
        description="folder of the latents, with a subfolder for each g_a, data set and patch size; runs may share it",
    )
    gib: Amount = Field(4.0, description="limit for the latents of a run on disk")


class Validation(Section):
    qualities: Numbers | None = Field(
        description="qualities of the RD curve in addition to the levels, e.g. [0.5, 1.25]; null: half-way between "
        "levels"
    )


class Training(Section):
    """The configuration of `python train.py`. Groups such as model/transforms and loss are chosen with group=option."""

    GROUPS: ClassVar = (
        "model", "model/transforms", "model/gain", "model/entropy", "model/context", "model/quantizer", "loss", "data",
        "optimizer", "scheduler", "trainer", "callbacks", "logger", "experiment", "sweep", "debug",
    )  # fmt: skip

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(description="seed of weights, patches, levels and noise")
    ckpt_path: FilePath | None = Field(
        description="resume from a checkpoint: its path, or last for the newest run; the run keeps its own "
        "configuration"
    )
    init_from: FilePath | None = Field(
        description="start from the weights of a checkpoint, a model file or a shipped model with the same model.*"
    )
    init_except: Parts = Field([], description="parts that do not come from init_from: they start anew")
    freeze: Parts = Field(
        [], description="parts that are not trained; with g_a, g_s and gain frozen, the loss is the rate alone"
    )
    latents: Latents = Field(default_factory=lambda: Latents.model_validate({}))
    threads: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="threads of each process on a CPU; null: one for each core that it may use"
    )
    compile: bool | Literal["auto"] = Field(
        description="compile the model (a minute at the start) and, on one GPU, record the training step as a CUDA "
        "graph; where either fails, the run says so and goes on without it; auto: only on CUDA devices"
    )
    ema: EMA
    validation: Validation
    run_dir: FilePath = Field(description="folder of everything that a run writes")
    model: Model
    loss: Loss
    data: DataConfig
    optimizer: Optimizer
    scheduler: Scheduler
    trainer: Trainer
    callbacks: Callbacks
    logger: Logger
    variants: dict[str, dict[str, Any]] | None = Field(None, description="the choices of sweep=…")
    entropy: Text | None = Field(None, description="the choice of a run in sweep=entropy")
    gain_units: Text | None = Field(None, description="the choice of a run in sweep=gain_units")
    gain_vectors: Text | None = Field(None, description="the choice of a run in sweep=gain_vectors")

    @model_validator(mode="after")
    def _can_freeze(self) -> "Training":
        for key in ("freeze", "init_except"):
            names = getattr(self, key)
            if names and not isinstance(self.model, AGVAE):
                raise ValueError(f"{key} must be [] for model=compressai: it names parts of AG-VAE")
            if missing := [name for name in names if name in self._gains_missing()]:
                raise ValueError(f"{key} must not name {missing[0]}: the model has none; choose another model/gain")
            if names and self.init_from is None and self.ckpt_path is None:
                raise ValueError(f"{key} needs the weights of another model: set init_from")
        if both := [name for name in self.freeze if name in self.init_except]:
            raise ValueError(f"freeze and init_except must not both name {both[0]}: frozen weights come from init_from")
        if {*self.freeze} == {*PARTS} - {*self._gains_missing()}:
            raise ValueError("freeze must leave a part to train")
        return self

    @model_validator(mode="after")
    def _can_cache_latents(self) -> "Training":
        if self.latents.crops is None:
            return self
        if missing := [name for name in ("g_a", "g_s", "gain") if name not in [*self.freeze, *self._gains_missing()]]:
            raise ValueError(
                f"freeze must hold {missing[0]} with latents.crops={self.latents.crops}: kept latents can train the "
                "entropy model only; set latents.crops=null to train on pictures"
            )
        if self.compile is True:
            raise ValueError(
                "compile must be false or auto with latents.crops: the transforms do not run in training steps"
            )
        return self

    def _gains_missing(self) -> list[str]:
        gain = self.model.gain.name if isinstance(self.model, AGVAE) else "hcvr"
        return {"none": ["gain", "hyper_gain"], "cvr": ["hyper_gain"], "hcvr": []}[gain]

    @model_validator(mode="after")
    def _has_a_sweep(self) -> "Training":
        for key in ("entropy", "gain_units", "gain_vectors"):
            point = getattr(self, key)
            if point is not None and point not in (self.variants or {}):
                raise ValueError(
                    f"{key} must be one of the choices of sweep={key}, not {point}; to change the model, set model.*"
                )
        return self
