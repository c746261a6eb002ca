"""Evaluate a model on a data set, beside other codecs.

python evaluate.py checkpoint=PATH_OR_NAME data=folder data.root=DIR; docs/configuration.md lists every key.
"""

import sys

from agvae.errors import leave_quietly_on_ctrl_c

leave_quietly_on_ctrl_c()

import hydra  # noqa: E402, so that Ctrl-C is quiet while packages are imported
from omegaconf import DictConfig  # noqa: E402

from agvae.configuration.command import run_hydra, run_task  # noqa: E402
from agvae.engine import evaluate  # noqa: E402


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    if run_task(evaluate, cfg)["interrupted"]:
        sys.exit(130)


if __name__ == "__main__":
    run_hydra(main)
