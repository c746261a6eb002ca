"""Train AG-VAE: `python train.py [group=option] [key=value] …`; docs/configuration.md lists every key."""

from agvae.errors import leave_quietly_on_ctrl_c

leave_quietly_on_ctrl_c()

import hydra  # noqa: E402, so that Ctrl-C is quiet while packages are imported
from hydra.core.hydra_config import HydraConfig  # noqa: E402
from hydra.types import RunMode  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from agvae.configuration.command import run_hydra, run_task  # noqa: E402
from agvae.engine import train  # noqa: E402
from agvae.training import directories  # noqa: E402
from agvae.training.multirun import run_job  # noqa: E402

directories.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        run_job(__file__, HydraConfig.get())
    else:
        run_task(train, cfg)


if __name__ == "__main__":
    run_hydra(main)
