"""Several runs by one command, each in a process of its own."""

import signal
import subprocess
import sys
from typing import Any

from hydra.conf import HydraConf

from agvae.errors import JobError


def run_job(script: str, hydra: HydraConf) -> None:
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
