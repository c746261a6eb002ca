"""Facts of a model, under the same names in a training run, its checkpoints, a model file and the summary of an
evaluation.

`model` is the configuration of the model. `loss` is the configuration of its loss, with the λ of each level
(`lambdas`), the weight of each level in the loss (`level_weights`) and the formula of the distortion (`distortion`).
`steps` counts optimiser steps. `run` identifies the training run, and `fingerprint` the model file, as compressed files
name it. Files of older versions lack some of these.
"""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agvae.files import write_atomically

RUN_FILE = "run.json"
"""The file in which a training run keeps its facts, in its folder."""


def new_run_id() -> str:
    """An identifier for a training run: eight random hexadecimal digits, whatever the seed."""
    return secrets.token_hex(4)


def model_facts(model: Any) -> dict[str, Any]:
    """The facts of a `Codec` or a `ModelFile`."""
    return {**model.info, "model": model.config, "fingerprint": model.fingerprint.hex()}


def write_run_facts(run_dir: Path, facts: Mapping[str, Any]) -> None:
    """Write the facts of a training run into its folder. Raises OSError."""
    write_atomically(run_dir / RUN_FILE, f"{json.dumps(facts, indent=2, allow_nan=False)}\n".encode())


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration with its keys joined by dots, as overrides name them.

    >>> flat({"gain": {"name": "cvr", "levels": 6}})
    {'gain.name': 'cvr', 'gain.levels': 6}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found
