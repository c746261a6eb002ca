"""The keys of `loss`, `optimizer` and `scheduler`."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from agvae.configuration.values import Amount, Numbers, Part, Section, Share, Steps, Words, by_name

Lambdas = Annotated[
    list[Annotated[float, Field(gt=0)]], Field(min_length=2), Words("a list of at least two rising numbers above 0")
]


class Loss(Section):
    name: Annotated[str, Part("loss", "mse", "msssim")] = Field(
        description="distortion: mean squared error on [0, 255], or 1000·(1 − MS-SSIM)"
    )
    ladder: Lambdas = Field(
        description="λ, low to high rate; log-spaced between its ends if the model has another number of levels"
    )
    lambdas: Numbers | None = Field(description="your own λ in place of the ladder, one for each level, rising")
    levels: (
        Annotated[list[Annotated[int, Field(ge=0)]] | Annotated[int, Field(ge=0)], Words("a level", "a list of levels")]
        | None
    ) = Field(None, description="train only these levels, for a model whose other levels are not used; null: all")
    level_weight_power: Annotated[float, Field(ge=-10, le=10)] = Field(
        description="p: the weight of a picture in the loss is λ^(−p); the paper has 0, which favours high rates"
    )
    level_sampling: Literal["stratified", "sample", "batch"] = Field(
        description="stratified: each picture of a batch has its own level, and a batch has all levels equally often; "
        "sample: each picture draws its own; batch: all pictures share one (the paper's)"
    )

    @model_validator(mode="after")
    def _rises(self) -> "Loss":
        if any(high <= low for low, high in pairwise(self.ladder)):
            raise ValueError(f"loss.ladder must rise, low rate first, not {self.ladder}")
        return self


class Optimizer(Section):
    name: Literal["adam", "adamw"] = Field(description="Adam, or Adam with decoupled weight decay; fused")
    lr: Amount = Field(description="learning rate of the network")
    quantile_lr: Amount = Field(
        description="learning rate of the prior's quantiles, which have a loss of their own and no schedule"
    )
    betas: Annotated[
        list[Annotated[float, Field(ge=0, lt=1)]],
        Field(min_length=2, max_length=2),
        Words("a list of two numbers from 0 to below 1"),
    ] = Field(description="decay of the running mean and square of the gradient")
    weight_decay: Amount = Field(
        description="adam: L2 penalty on the network; adamw: in each step, a weight shrinks by lr times this share"
    )


class _Warm(Section):
    warmup_steps: Steps = Field(description="steps in which the learning rate rises linearly from 0")


class _Ending(_Warm):
    total_steps: Annotated[int, Field(ge=1, le=2**40)] | None = Field(
        description="null: the whole run, in steps (trainer.max_steps or max_epochs) or time (trainer.max_time), "
        "whichever is further; a number: this many steps"
    )


class Constant(_Warm):
    name: Literal["constant"] = Field(description="constant after the warm-up, whatever the length of the run")


class Cosine(_Ending):
    name: Literal["cosine"] = Field(description="half a cosine over the whole run")
    final_factor: Share = Field(description="learning rate at the end, as a share of lr")


class WSD(_Ending):
    name: Literal["wsd"] = Field(
        description="warm-up, stable, decay: a run can be extended from any checkpoint of its stable part"
    )
    decay_share: Share = Field(description="share of the run in which the learning rate falls, linearly")
    final_factor: Share = Field(description="learning rate at the end, as a share of lr")


class Multistep(_Ending):
    name: Literal["multistep"] = Field(description="steps down at given shares of the run")
    milestones: Annotated[list[Share], Words("a list of numbers from 0 to 1")] = Field(description="shares of the run")
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="each milestone multiplies the learning rate by this"
    )


class Plateau(Section):
    name: Literal["plateau"] = Field(
        description="steps down when val/loss has stopped falling, whatever the length of the run"
    )
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(description="a step multiplies the learning rate by this")
    patience: Steps = Field(description="validations without a new best before a step")
    final_factor: Share = Field(description="the learning rate stays above this share of lr")


Scheduler = Annotated[
    Annotated[Constant, Tag("constant")]
    | Annotated[Cosine, Tag("cosine")]
    | Annotated[WSD, Tag("wsd")]
    | Annotated[Multistep, Tag("multistep")]
    | Annotated[Plateau, Tag("plateau")],
    Discriminator(by_name),
]
