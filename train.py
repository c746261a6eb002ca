"""Train AG-VAE: `python train.py [group=option] [key=value] …`; conf/train.yaml lists what there is to choose."""

import hydra
from omegaconf import DictConfig

import agvae.training.runs  # noqa: F401  makes ${run_directory:…} known to the configuration
from agvae.engine import train
from agvae.errors import exit_on_error, run_hydra


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    exit_on_error(train, cfg)


if __name__ == "__main__":
    run_hydra(main)
