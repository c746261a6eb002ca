"""Model files: weights, integer coding tables and configuration in one safetensors file.

Reading a file runs no code from it. Nothing is built before all sizes and shapes are known to fit the configuration.
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from agvae import shipped
from agvae.entropy.tables import Tables, build_tables
from agvae.extensions import UntrustedError
from agvae.files import write_atomically
from agvae.models import AGVAE
from agvae.models.exact import exact
from agvae.models.fixed_point import InexactError
from agvae.models.trainable import is_peer

FORMAT = 1
_NO_CHECKPOINT = "not a training checkpoint of agvae; train.py writes them into the folder checkpoints of a run"

_INTEGER_MAX = 1024
"""Largest width, number of levels or blocks that a configuration may ask for."""

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""Types that weights may have. float64 is not among them, because it can hold values that float32 cannot."""

_SHORT = 120
"""Largest number of characters from a file that an error message repeats."""


class ModelError(ValueError):
    """A model file or checkpoint that cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class ModelFile:
    """Everything that coding needs: configuration, weights and tables of the model, and its facts (`agvae.facts`)."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    tables: Tables
    info: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> bytes:
        """The 4 bytes by which a stream names its model, from a SHA-256 over configuration, weights and tables."""
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for name, tensor in sorted(self._tensors().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.digest()[:4]

    def build(self, device: str | torch.device = "cpu") -> AGVAE:
        """The model in exact arithmetic, in evaluation mode and in the memory format that suits convolutions best.

        Raises ModelError if exact arithmetic cannot represent it."""
        return _exact(_assemble(self.config, self.weights)).to(device, memory_format=torch.channels_last)

    def build_float(self, device: str | torch.device = "cpu") -> AGVAE:
        """The model as it was trained, in float32. It has gradients, but its parse is not exact."""
        return _assemble(self.config, self.weights).to(device, memory_format=torch.channels_last)

    def save(self, path: str | Path) -> None:
        """Write the file completely or not at all."""
        info = {**self.info, "fingerprint": self.fingerprint.hex()}
        metadata = {"format": FORMAT, "model": self.config, "info": info}
        tensors = {name: tensor.contiguous() for name, tensor in self._tensors().items()}
        write_atomically(path, to_safetensors(tensors, {"agvae": json.dumps(metadata)}))

    def _tensors(self) -> dict[str, Tensor]:
        return {f"model.{name}": w.cpu() for name, w in self.weights.items()} | {
            f"tables.{name}": t for name, t in self.tables.to_tensors().items()
        }


def from_model(model: AGVAE, info: dict[str, Any] | None = None, half: bool = False) -> ModelFile:
    """A trained model, ready to code. Its tables are built here. `half` stores the weights as float16.

    Raises ModelError if weights are not finite, or if exact arithmetic cannot represent them."""
    dtype = torch.float16 if half else torch.float32
    weights = {name: w.detach().cpu().to(dtype) for name, w in model.state_dict().items()}
    if not all(w.isfinite().all() for w in weights.values()):
        raise ModelError("the weights contain values that are not finite or too large for float16")
    stored = _assemble(model.config, weights)
    _exact(stored)
    masses, offsets = stored.prior.pmf()
    tables = build_tables(model.table_form, masses, offsets, tail=model.tail)
    return ModelFile(model.config, weights, tables, info or {})


def _exact(model: AGVAE) -> AGVAE:
    try:
        return exact(model)
    except InexactError as error:
        raise ModelError(str(error)) from error


def _assemble(config: dict[str, Any], weights: dict[str, Tensor]) -> AGVAE:
    model = _skeleton(config)
    model.load_state_dict({name: w.float() for name, w in weights.items()}, assign=True)
    return model.eval()


class Checkpoint(NamedTuple):
    """The model of a training checkpoint: configuration, weights (averaged ones if there are any) and facts."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    info: dict[str, Any]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the model of a training checkpoint. Raises ModelError if the file is not a checkpoint of this project."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        config = checkpoint["hyper_parameters"]["model"]
        weights = checkpoint.get("ema") or {
            name.removeprefix("model."): w for name, w in checkpoint["state_dict"].items() if name.startswith("model.")
        }
        weights = dict(weights)
        info = {"loss": checkpoint["hyper_parameters"].get("loss"), "steps": checkpoint["global_step"]}
        info |= {"run": checkpoint["run"]} if "run" in checkpoint else {}  # older versions do not identify their run
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except Exception as error:  # torch.load raises almost anything on a foreign file
        raise ModelError(f"{path}: {_NO_CHECKPOINT}") from error
    return Checkpoint(config, weights, info)


def from_checkpoint(path: str | Path, half: bool = False) -> ModelFile:
    """The model of a training checkpoint, ready to code.

    Raises ModelError if the file is not a checkpoint of an AG-VAE model."""
    config, weights, info = read_checkpoint(path)
    if is_peer(config):
        raise ModelError(
            f"{path}: holds {config['architecture']} of CompressAI, not AG-VAE; "
            f"evaluate it with codecs=[compressai:{path}]"
        )
    try:
        _check_integers(config, most_blocks=len(weights))
        expected = _skeleton(config)
    except Exception as error:  # an invalid configuration can raise almost anything
        raise ModelError(f"{path}: {_NO_CHECKPOINT}") from error
    _check_weights(path, expected, weights)
    try:
        return from_model(_assemble(config, weights), info, half)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def load(name_or_path: str | Path) -> ModelFile:
    """Read a model file, or an included model by its name. Raises ModelError, which says what is wrong."""
    path = shipped.path(str(name_or_path))
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        names = ", ".join(shipped.names())
        raise ModelError(f"{name_or_path}: neither a file nor a model that comes with agvae ({names})")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["agvae"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        config, form, info = metadata["model"], metadata["format"], metadata.get("info", {})
    except Exception as error:  # on an untrusted file these libraries raise almost anything
        if path.suffix == ".ckpt":
            raise ModelError(
                f"{path}: not a model file; `agvae export` turns a training checkpoint into one"
            ) from error
        raise ModelError(f"{path}: not a model file of agvae ({_short(error)})") from error
    if form != FORMAT:
        raise ModelError(
            f"{path}: the model file has format {_short(form)}, but this version of agvae reads format {FORMAT}"
        )
    weights, tables = (
        {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        for prefix in ("model.", "tables.")
    )
    try:
        _check_integers(config, most_blocks=len(weights))
        model = _skeleton(config)
        checked = Tables.from_tensors(tables)
    except UntrustedError as error:
        raise ModelError(f"{path}: {error}") from error
    except Exception as error:  # so does an invalid configuration
        raise ModelError(f"{path}: its configuration or its tables are invalid ({_short(error)})") from error
    _check_weights(path, model, weights)
    if len(checked.z_offset) != model.N or checked.form != model.table_form:
        raise ModelError(f"{path}: its coding tables do not fit its configuration")
    if not isinstance(info, dict):
        raise ModelError(f"{path}: the facts of its model must be a dictionary, not {_short(info)}")
    # The fingerprint is computed from the rest.
    return ModelFile(config, weights, checked, {key: value for key, value in info.items() if key != "fingerprint"})


def find(fingerprint: bytes) -> tuple[str, ModelFile] | None:
    """The included model with this fingerprint, and its name. Only the model whose card states it is read."""
    card = shipped.card_of(fingerprint.hex())
    model = load(card.name) if card else None
    return (card.name, model) if card and model and model.fingerprint == fingerprint else None


def _skeleton(config: dict[str, Any]) -> AGVAE:
    """The model of a configuration. On "meta", nothing is drawn or allocated that the weights would overwrite."""
    with torch.device("meta"):
        return AGVAE.from_config(config)


def _check_integers(config: Any, most_blocks: int) -> None:
    """Raise if a width or count is out of range. Even without weights, building 1,024 blocks takes seconds."""
    for name, value in config.items():
        most = min(most_blocks, _INTEGER_MAX) if name == "blocks" else _INTEGER_MAX
        if isinstance(value, dict):
            _check_integers(value, most_blocks)
        elif isinstance(value, int) and not 0 < value <= most:
            raise ValueError(f"{name} must be between 1 and {most}, not {value}")


def _check_weights(path: str | Path, model: AGVAE, weights: dict[str, Tensor]) -> None:
    expected = {name: w.shape for name, w in model.state_dict().items()}
    found = {name: getattr(w, "shape", None) for name, w in weights.items()}
    if wrong := [n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n)]:
        raise ModelError(f"{path}: its weights do not fit its configuration ({_short(min(wrong, key=str))})")
    if not all(w.dtype in _DTYPES for w in weights.values()):
        raise ModelError(f"{path}: the type of its weights must be one of {', '.join(map(str, _DTYPES))}")
    if not all(w.isfinite().all() for w in weights.values()):
        raise ModelError(f"{path}: its weights contain values that are not finite")


def _short(found: Any) -> str:
    """Text from an untrusted file, or from a library's error, in one short line without control characters."""
    text = str(found)[:_SHORT].strip() or type(found).__name__
    return "".join(c if c.isprintable() else " " for c in text)
