"""Run directories: their names, which all processes of a run agree on, and the files that each has."""

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


def register() -> None:
    """Make `${run_directory:…}` known to the configuration."""
    OmegaConf.register_new_resolver("run_directory", run_directory, use_cache=True, replace=True)


def made(directory: str) -> Path:
    """The path of a run directory, relative to the working directory where it is below that; its folders are made."""
    path = Path(directory)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    return path


def best_checkpoint(directory: Path) -> Path | None:
    """The checkpoint of a run that its evaluation and export take: best.ckpt, else last.ckpt, else None."""
    found = (directory / CHECKPOINTS / name for name in ("best.ckpt", "last.ckpt"))
    return next((path for path in found if path.is_file()), None)


def write_record(directory: Path, record: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write CONFIG and the run's facts, and remove the rests of checkpoints that a killed process was writing.

    Raises DataError."""
    remove_asides(directory / CHECKPOINTS)
    try:
        write_atomically(directory / CONFIG, OmegaConf.to_yaml(record).encode())
        write_run_facts(directory, facts)
    except OSError as error:
        raise DataError(f"the run cannot be written: {error}; free some space, or set hydra.run.dir") from error


def write_facts_of_best(directory: Path) -> None:
    """Add the steps and the fingerprint of the run's best checkpoint to its facts; a failure is a warning."""
    checkpoint = best_checkpoint(directory)
    if checkpoint is None:
        return
    try:
        found = model_file.read_checkpoint(checkpoint)
        peer = is_peer(found.config)  # which has no model file, and so no fingerprint
        facts = {**found.info, "model": found.config} if peer else model_facts(model_file.from_checkpoint(checkpoint))
        write_run_facts(directory, facts)
    except (model_file.ModelError, OSError) as error:
        log.warning("the run's facts lack its steps and fingerprint: %s", error)
