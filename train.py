"""Train AG-VAE: `python train.py [group=option] [key=value] …`; conf/train.yaml lists what there is to choose."""

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from agvae.engine import train
from agvae.errors import exit_on_error, run_hydra
from agvae.training import directories
from agvae.training.multirun import run_job

directories.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        run_job(__file__, HydraConfig.get())
    else:
        exit_on_error(train, cfg)


if __name__ == "__main__":
    run_hydra(main)
