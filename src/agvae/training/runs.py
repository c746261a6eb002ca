"""Run directories: where a run writes, and how a later one finds it again."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from agvae.errors import ConfigError, JobError
from agvae.facts import flat

CHECKPOINTS = "checkpoints"
CONFIG = "config.yaml"
"""The configuration that a run was made with, resolved, and its `environment`."""
LAST = Path(CHECKPOINTS) / "last.ckpt"


def run_directory(ckpt_path: str | None, new: str) -> str:
    """The directory of a run: `new`, or that of the run which `ckpt_path` resumes.

    A checkpoint in RUN/checkpoints resumes RUN; `last` resumes the newest run beside `new`. All processes of a run
    get the same. The configuration knows this as `${run_directory:…}`, since Hydra makes the directory before it
    calls any code of ours."""
    if ckpt_path is None:
        return agreed_directory(new)
    if ckpt_path == "last":
        found = sorted(Path(new).parent.glob(f"*/{LAST}"), key=lambda path: path.stat().st_mtime)
        return str(found[-1].parents[1]) if found else agreed_directory(new)
    path = Path(ckpt_path)
    return str(path.parents[1]) if path.is_file() and path.parent.name == CHECKPOINTS else agreed_directory(new)


def agreed_directory(new: str) -> str:
    """`new`, a directory named for the time of day, under the name that all processes of this run give it.

    Under torchrun it is what the first process to ask would have taken, told to the others through torchrun's own
    store; under SLURM the time gives way to the number of the job's step, as in outputs/train/slurm-1234.0."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        from torch.distributed import TCPStore

        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False)
        return store.compare_set(f"agvae/{Path(new).parent}", "", new).decode()
    if "SLURM_NTASKS" in os.environ:
        from lightning.pytorch.plugins.environments import SLURMEnvironment

        if SLURMEnvironment.detect():
            step = f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_STEP_ID', 0)}"
            return str(Path(new).with_name(step))
    return new


OmegaConf.register_new_resolver("run_directory", run_directory, use_cache=True)


def run_job(script: str, hydra: DictConfig) -> None:
    """Run one job of a Hydra multirun as `script` in a process of its own, as if it had been started alone.

    A process started for one run is what Lightning's launcher of several devices copies, and nothing of a run, from
    memory on a GPU to its W&B run, is left to the next. Ctrl-C and SIGTERM reach the run, which saves itself, and
    then end the multirun. Raises JobError if the run fails, so that Hydra goes on with the next and tells at the end.
    """
    directory = hydra.runtime.output_dir.replace("'", r"\'")
    overrides = [*hydra.overrides.hydra, *hydra.overrides.task]
    alone = ["hydra.mode=RUN", "hydra.output_subdir=null", f"hydra.run.dir='{directory}'"]
    process = subprocess.Popen([sys.executable, script, *overrides, *alone])
    stopped: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if number == signal.SIGTERM:  # Ctrl-C the terminal sends to both
            process.terminate()
        stopped.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        raise SystemExit(128 + stopped[0])
    if status:
        raise JobError(f"run {hydra.job.num}, in {hydra.runtime.output_dir}, ended with status {status}")


def load_checkpoint(ckpt_path: str | None, run_dir: Path) -> tuple[Path | None, dict[str, Any]]:
    """Path and content of the checkpoint that `ckpt_path` means: a file, or with `last` the last one of `run_dir`.

    (None, {}) for None. Raises ConfigError if it is missing or no checkpoint."""
    if ckpt_path is None:
        return None, {}
    path = run_dir / LAST if ckpt_path == "last" else Path(ckpt_path)
    if not path.is_file():
        what = "there is no run with a checkpoint" if ckpt_path == "last" else "there is no such file"
        raise ConfigError(f"ckpt_path={ckpt_path}: {what}; give the path of a checkpoint, or leave ckpt_path out")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        content["hyper_parameters"], content["loops"]
    except Exception as error:  # whatever a file that is none makes torch raise
        raise ConfigError(f"ckpt_path={path} is not a training checkpoint of this program") from error
    return path, content


def check_resumable(checkpoint: dict[str, Any], model: dict[str, Any], max_steps: int) -> None:
    """Raise ConfigError if the checkpoint holds another model than the one configured, or has no step left to take."""
    different = differences(checkpoint["hyper_parameters"]["model"], model)
    if different:
        raise ConfigError(f"the checkpoint's model has {' '.join(different)}: resume with the options it began with")
    if 0 <= max_steps <= checkpoint["global_step"]:
        raise ConfigError(
            f"the checkpoint is of step {checkpoint['global_step']}, and trainer.max_steps={max_steps}: set it higher"
        )


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Where two model configurations differ, as the overrides that would make `wanted` what was found.

    But for the quantiser of training: it has no weights, and may change on the way."""
    found, wanted = flat(found), flat(wanted)
    keys = [key for key in found | wanted if not key.startswith("quantizer.")]
    return [f"model.{key}={found.get(key)}" for key in keys if found.get(key) != wanted.get(key)]
