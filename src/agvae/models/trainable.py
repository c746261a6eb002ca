"""The interface between a model and its training, shared by AG-VAE and the models of other projects."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from agvae.models.agvae import AGVAE
from agvae.models.outputs import Output


class Trainable(Protocol):
    """A model that `AGVAEModule` trains: an `nn.Module` with these members.

    config: the configuration from which `build_model` made it; checkpoints store it. levels: the number of λ that it is
    trained for; its qualities are [0, levels − 1]. own_lambdas: the λ of each level, by `loss.name`, that replace the
    ladder of the loss; empty if the model has none."""

    config: dict[str, Any]
    levels: int

    @property
    def own_lambdas(self) -> Mapping[str, list[float]]: ...

    def __call__(self, x: Tensor, quality: Tensor | float) -> Output:
        """Rate and picture at a quality, one for all or one per picture. Rounds in evaluation mode."""

    def initialise_gains(self, lambdas: list[float]) -> None:
        """Start from scales of the latent that suit these λ, if the model has scales."""

    def aux_loss(self) -> Tensor:
        """A loss of the quantiles alone, which is added to that of the network."""

    def network_parameters(self) -> list[nn.Parameter]: ...
    def quantile_parameters(self) -> list[nn.Parameter]: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def named_children(self) -> Iterator[tuple[str, nn.Module]]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any: ...
    def to(self, *, memory_format: torch.memory_format) -> Any: ...


def is_peer(config: Mapping[str, Any]) -> bool:
    """Whether a configuration `model` describes a model of another project (conf/model/compressai.yaml)."""
    return "architecture" in config


def build_model(config: dict[str, Any]) -> Trainable:
    """The model of a configuration `model`. Raises ValueError for a choice that does not exist."""
    if not is_peer(config):
        return AGVAE.from_config(config)
    from agvae.models.peers import PeerModel

    try:
        return PeerModel(**config)
    except TypeError:
        own = ("architecture", "quality", "N", "M")
        unknown = ", ".join(f"model.{key}" for key in config if key not in own)
        raise ValueError(f"model=compressai has no key {unknown}: remove it") from None
