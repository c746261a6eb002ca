"""One run on many processes, whoever starts them: one directory, one configuration and a clean end.

Lightning starts the other processes of a machine as `python train.py …` once more; torchrun and SLURM start all of them.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agvae.errors import ConfigError

STORE_TIMEOUT = 300  # seconds that torchrun's store may take to answer
_SET_BY_LIGHTNING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


def agreed_directory(new: str) -> str:
    """`new`, a directory named for the time of day, under the name that all processes of this run give it.

    Under torchrun it is what the first process to ask would have taken, told to the others through torchrun's own
    store; under SLURM the time gives way to the number of the job's step, as in outputs/train/slurm-1234.0."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        from datetime import timedelta

        from torch.distributed import TCPStore

        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=STORE_TIMEOUT))
        return store.compare_set(f"agvae/{Path(new).parent}", "", new).decode()
    if "SLURM_NTASKS" in os.environ:
        from lightning.pytorch.plugins.environments import SLURMEnvironment

        if SLURMEnvironment.detect():
            step = f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_STEP_ID', 0)}"
            return str(Path(new).with_name(step))
    return new


@contextmanager
def launched(trainer) -> Iterator[None]:
    """While this is open, processes that Lightning starts join this very run; afterwards they have ended.

    Of a sweep (`train.py -m`) they do the job at hand alone, in its directory, and not the sweep once more, and
    nothing of them is left that the next job would take for its own."""
    kept = {name: os.environ.get(name) for name in _SET_BY_LIGHTNING}
    arguments = sys.argv
    try:
        sys.argv = _arguments_of_this_job()
        yield
    except SystemExit:
        raise  # all ranks leave together
    except BaseException:
        for process in _started_by(trainer):
            process.kill()  # it may wait for this one in a collective
        raise
    finally:
        sys.argv = arguments
        _wait_for_others(trainer)
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _arguments_of_this_job() -> list[str]:
    """The command line of one job as Hydra resolved it: the configuration's place and the job's own overrides."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import read_write

    if not HydraConfig.initialized():
        return sys.argv
    hydra = HydraConfig.get()
    with read_write(hydra):
        hydra.run.dir = hydra.runtime.output_dir  # Lightning hands this on; of a sweep's job it would be another
    places = {source.provider: source.path for source in hydra.runtime.config_sources if source.schema == "file"}
    extra = ["--config-dir", places["command-line"]] if "command-line" in places else []
    overrides = [o for o in hydra.overrides.hydra if not o.startswith("hydra.mode=")]
    return [
        sys.argv[0],
        "--config-path",
        places["main"],
        "--config-name",
        hydra.job.config_name,
        *extra,
        *overrides,
        *hydra.overrides.task,
    ]


def _started_by(trainer) -> list[subprocess.Popen]:
    processes = getattr(trainer.strategy.launcher, "procs", [])
    return [process for process in processes if isinstance(process, subprocess.Popen)]


def _wait_for_others(trainer) -> None:
    import torch.distributed

    started = _started_by(trainer)
    for process in started:
        process.wait()
    if started:
        trainer.strategy.launcher.procs.clear()  # Lightning's observer of them then ends too
        if torch.distributed.is_initialized():  # by this run, for processes that are no more
            torch.distributed.destroy_process_group()


def check_sharding(strategy: object, precision: str, decay: float | None) -> None:
    """Raise ConfigError for what FSDP would do wrong without a word."""
    if not str(strategy).startswith("fsdp"):
        return
    if precision != "32-true":
        raise ConfigError(
            f"trainer.precision={precision} under FSDP would round λ and the likelihoods' parameters too: "
            "use trainer.precision=32-true, or trainer=ddp"
        )
    if decay is not None:
        raise ConfigError("ema.decay averages whole weights, which FSDP's processes do not hold: use trainer=ddp")
