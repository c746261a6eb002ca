"""Run directories: their names, on which all processes of a run agree, and the files in each."""

import logging
import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from agvae.codec import model_file
from agvae.errors import DataError
from agvae.facts import model_facts, write_run_facts
from agvae.files import remove_asides, write_atomically
from agvae.models.trainable import is_peer

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
CONFIG = "config.yaml"
"""The resolved configuration of a run, and its `environment`."""
LAST = Path(CHECKPOINTS) / "last.ckpt"


def run_directory(ckpt_path: str | None, new: str) -> str:
    """The directory of a run: `new`, or that of the run which `ckpt_path` resumes.

    A checkpoint in RUN/checkpoints resumes RUN, and `last` resumes the newest run beside `new`. All processes of a run
    get the same directory. The configuration uses this as `${run_directory:…}`, because Hydra creates the directory
    before it calls any of our code."""
    if ckpt_path is None:
        return agreed_directory(new)
    if ckpt_path == "last":
        found = sorted(Path(new).parent.glob(f"*/{LAST}"), key=lambda path: path.stat().st_mtime)
        return str(found[-1].parents[1]) if found else agreed_directory(new)
    path = Path(ckpt_path)
    return str(path.parents[1]) if path.is_file() and path.parent.name == CHECKPOINTS else agreed_directory(new)


def agreed_directory(new: str) -> str:
    """`new`, a directory named after the time of day, under the name on which all processes of this run agree.

    Under torchrun, the first process to ask decides, and the others learn the name from torchrun's own store. Under
    SLURM, the number of the job's step replaces the time, as in outputs/train/slurm-1234.0."""
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


def register() -> None:
    """Register `${run_directory:…}` with the configuration."""
    OmegaConf.register_new_resolver("run_directory", run_directory, use_cache=True, replace=True)


def made(directory: str) -> Path:
    """The path of a run directory, relative to the working directory if it is below that. Its folders are created."""
    path = Path(directory)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    return path


def best_checkpoint(directory: Path) -> Path | None:
    """The checkpoint of a run that is evaluated and exported: best.ckpt, else last.ckpt, else None."""
    found = (directory / CHECKPOINTS / name for name in ("best.ckpt", "last.ckpt"))
    return next((path for path in found if path.is_file()), None)


def write_record(directory: Path, record: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write CONFIG and the facts of the run, and remove unfinished checkpoints that a killed process left behind.

    Raises DataError."""
    remove_asides(directory / CHECKPOINTS)
    try:
        write_atomically(directory / CONFIG, OmegaConf.to_yaml(record).encode())
        write_run_facts(directory, facts)
    except OSError as error:
        raise DataError(f"the run cannot be written: {error}; free some space, or set hydra.run.dir") from error


def write_facts_of_best(directory: Path) -> None:
    """Add the steps and the fingerprint of the run's best checkpoint to its facts. A failure is a warning."""
    checkpoint = best_checkpoint(directory)
    if checkpoint is None:
        return
    try:
        found = model_file.read_checkpoint(checkpoint)
        peer = is_peer(found.config)  # such a model has no model file, and so no fingerprint
        facts = {**found.info, "model": found.config} if peer else model_facts(model_file.from_checkpoint(checkpoint))
        write_run_facts(directory, facts)
    except (model_file.ModelError, OSError) as error:
        log.warning("the run's facts lack its steps and fingerprint: %s", error)
