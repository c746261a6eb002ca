"""Evaluate a model on a data set, beside other codecs.

python evaluate.py checkpoint=PATH_OR_NAME data=folder data.root=DIR; conf/evaluate.yaml says what each key means.
"""

import hydra
from omegaconf import DictConfig

from agvae.engine import evaluate
from agvae.errors import exit_on_error, run_hydra


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    exit_on_error(evaluate, cfg)


if __name__ == "__main__":
    run_hydra(main)
