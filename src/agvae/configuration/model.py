"""The keys of `model`: one choice for each part."""

import inspect
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from agvae import extensions
from agvae.configuration.values import (
    BUILT_IN,
    OWN,
    Part,
    Section,
    Text,
    Width,
    built_in_or_own,
    by_name,
    by_name_or_own,
)


class _Transforms(Section):
    N: Width = Field(description="channels inside the transforms, and of z")
    M: Width = Field(description="channels of the latent y")


class Minnen2018(_Transforms):
    name: Literal["minnen2018"] = Field(description="5×5 stride-2 convolutions and GDN (Minnen et al. 2018)")


class Residual(_Transforms):
    name: Literal["residual"] = Field(description="3×3 residual blocks and attention (the AG-VAE paper's)")


class Depthwise(_Transforms):
    name: Literal["depthwise"] = Field(description="depthwise-separable blocks at 1/8 and 1/16 of the resolution")
    blocks: Annotated[int, Field(ge=1, le=64)] = Field(
        description="residual blocks at 1/8 of the resolution, in g_a and in g_s; each has one more at 1/16"
    )
    H: Width | None = Field(None, description="channels inside h_s; null: they grow with M")


class Own(Section, extra="allow"):
    """A user's own part. Its other keys are the parameters of its function or class."""

    def _takes(self, name: str, **given: Any) -> None:
        """Raise ValueError unless the part can be called with its keys and the arguments of the model."""
        if not extensions.IMPORT_PATH.fullmatch(name):
            return  # an entry point, which the model imports
        keys = {key: value for key, value in self if key != "name"}
        try:
            inspect.signature(extensions.imported(name)).bind(**keys, **given)
        except TypeError as error:
            raise ValueError(f"{{key}} must have the parameters of {name} as its keys: {error}") from None


class OwnTransforms(Own):
    name: Annotated[str, Part("transforms")] = Field(description="your own function; see docs/extending.md")
    M: Width = Field(description="channels of the latent y; this and all other keys are parameters of the function")

    @model_validator(mode="after")
    def _can_be_built(self) -> "OwnTransforms":
        self._takes(self.name, hyper_channels=1)
        return self


class OwnContext(Own):
    name: Annotated[str, Part("context")] = Field(
        description="your own class; all other keys are its parameters; see docs/extending.md"
    )

    @model_validator(mode="after")
    def _can_be_built(self) -> "OwnContext":
        self._takes(self.name, M=1, K=1)
        return self


Transforms = Annotated[
    Annotated[Minnen2018, Tag("minnen2018")]
    | Annotated[Residual, Tag("residual")]
    | Annotated[Depthwise, Tag("depthwise")]
    | Annotated[OwnTransforms, Tag(OWN)],
    by_name_or_own("transforms"),
]


class NoGain(Section):
    name: Literal["none"] = Field(description="no gain units: a fixed-rate model for one λ")
    levels: Literal[1] = Field(description="a fixed-rate model has one level")


class _Gain(Section):
    levels: Annotated[int, Field(ge=1, le=256)] = Field(
        description="n, the number of gain vectors, each with its own λ"
    )


class CVR(_Gain):
    name: Literal["cvr"] = Field(description="gain units on the latent y: continuous variable rate")


class HCVR(_Gain):
    name: Literal["hcvr"] = Field(description="gain units on y and on the hyper-latent z")


Gain = Annotated[
    Annotated[NoGain, Tag("none")] | Annotated[CVR, Tag("cvr")] | Annotated[HCVR, Tag("hcvr")],
    Discriminator(by_name),
]


class Entropy(Section):
    name: Literal["asymmetric", "symmetric"] = Field(
        description="Gaussian of each element of y: (μ, σ_l, σ_r), or with σ_l = σ_r"
    )
    form: Literal["half_mass", "two_piece"] = Field(
        "half_mass", description="half_mass (μ is the median) or two_piece (the split normal); only asymmetric uses it"
    )
    tail: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="weight of a second Gaussian, three times as wide; 0: the paper's Gaussian"
    )


class BuiltInContext(Section):
    name: Literal["none", "checkerboard", "multiscale", "quadtree"] = Field(
        description="how decoded elements of y help to predict others; passes: 1, 2, one per wavefront, 4"
    )
    width: Width | None = Field(
        None,
        description="half the output channels of h_s and of the convolutions of ŷ; null: M; none does not use it",
    )


Context = Annotated[
    Annotated[BuiltInContext, Tag(BUILT_IN)] | Annotated[OwnContext, Tag(OWN)], built_in_or_own("context")
]


class Quantizer(Section):
    name: Literal["mixed", "noise", "universal"] = Field(
        description="replacement for rounding in training: noise for the rate and rounding for the picture (mixed), "
        "noise for "
        "both, or dithered rounding (universal, the paper's)"
    )


class AGVAE(Section):
    transforms: Transforms
    gain: Gain
    entropy: Entropy
    context: Context
    quantizer: Quantizer


class CompressAI(Section):
    architecture: Text = Field(
        description="a model of CompressAI: bmshj2018-factorized, bmshj2018-hyperprior, mbt2018-mean, mbt2018, "
        "cheng2020-anchor, cheng2020-attn; for all rates bmshj2018-hyperprior-vbr, mbt2018-mean-vbr, mbt2018-vbr"
    )
    quality: Annotated[int, Field(ge=1, le=8)] = Field(
        description="sets the widths, and λ if loss.lambdas is null; …-vbr does not use it"
    )
    N: Width | None = Field(description="channels inside the transforms and of z; null: CompressAI's")
    M: Width | None = Field(description="channels of the latent y; null: CompressAI's; cheng2020 has no M")


def _kind_of_model(value: Any) -> str:
    return "compressai" if isinstance(value, dict) and "architecture" in value else BUILT_IN


Model = Annotated[
    Annotated[AGVAE, Tag(BUILT_IN)] | Annotated[CompressAI, Tag("compressai")], Discriminator(_kind_of_model)
]
