"""The schema of conf/: every key's type, range and meaning, checked before anything is built.

    values ◄─ model, data, optimization, objects ◄─ training, evaluation ◄─ reference (docs/configuration.md), command

The YAML files hold the values, and `checking` compares them with the schema after Hydra has composed them. It imports
no heavy package, so that errors appear at once.
"""

from agvae.configuration.checking import checked
from agvae.configuration.evaluation import Evaluation
from agvae.configuration.training import Training

__all__ = ["Evaluation", "Training", "checked"]
