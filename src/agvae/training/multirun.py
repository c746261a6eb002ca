"""Several runs by one command, each in a separate process."""

import signal
import subprocess
import sys
from typing import Any

from hydra.conf import HydraConf

from agvae.errors import JobError


def run_job(script: str, hydra: HydraConf) -> None:
    """Run one job of a Hydra multirun as `script` in a separate process, as if it had been started alone.

    Lightning's launcher for several devices copies a process that was started for one run. A separate process also
    leaves nothing of a run to the next, from memory on a GPU to its W&B run. Ctrl-C and SIGTERM reach the run, which
    saves itself, and then end the multirun. Raises JobError if the run fails, so that Hydra continues with the next and
    reports the failure at the end."""
    directory = hydra.runtime.output_dir.replace("'", r"\'")
    overrides = [*hydra.overrides.hydra, *hydra.overrides.task]
    alone = ["hydra.mode=RUN", "hydra.output_subdir=null", f"hydra.run.dir='{directory}'"]
    process = subprocess.Popen([sys.executable, script, *overrides, *alone])
    stopped: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if number == signal.SIGTERM:  # the terminal sends Ctrl-C to both
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
