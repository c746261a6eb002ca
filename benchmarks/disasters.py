"""Disks that fill up, folders that cannot be written, files that go, a clock that jumps back: what benchmarks/soak.py
does to the command line and to training, each in a process of its own.

A disaster gets an empty folder, and returns words if anything but one line on standard error and whole files remains.
"""

import ctypes
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from common import ROOT

from agvae.data.bundled_photos import sample_photos

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1  # of linux/prctl.h and linux/capability.h
STEPS = 24
RUN = (f"trainer.max_steps={STEPS}", "ema.decay=0.9", "trainer.val_check_interval=8", "callbacks.last.every_n_steps=1")
"""A short run, beside the settings of tests/test_training.py."""

TRAINING = """
import sys, threading, time
sys.path[:0] = {paths!r}
from pathlib import Path
from test_training import configure
from agvae.engine import train
from agvae.errors import exit_on_error

run = Path({run_dir!r})

def at_first_checkpoint(function):
    def wait():
        while not (run / "checkpoints/last.ckpt").exists():
            time.sleep(0.001)
        function()
    threading.Thread(target=wait, daemon=True).start()

{before}
exit_on_error(train, configure(run, *{options!r}))
"""


def training(run_dir: Path, *options: str, before: str = "", **process) -> subprocess.Popen:
    """A run in a process of its own; `before` is code that comes before it."""
    paths = [str(ROOT / "tests"), str(ROOT / "src")]
    code = TRAINING.format(paths=paths, run_dir=str(run_dir), options=[*RUN, *options], before=before)
    process = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | process
    return subprocess.Popen([sys.executable, "-c", code], **process)


def last(run_dir: Path) -> dict:
    """The last checkpoint of a run."""
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)


def same_weights(one: dict, other: dict) -> bool:
    """Whether weights, their average and the optimiser's moments are equal, bit for bit."""
    (mine,), (theirs,) = one["optimizer_states"], other["optimizer_states"]
    moments = [(mine["state"][i][key], value) for i, s in theirs["state"].items() for key, value in s.items()]
    tensors = [(one[part][name], w) for part in ("state_dict", "ema") for name, w in other[part].items()]
    return one["global_step"] == other["global_step"] and all(torch.equal(a, b) for a, b in tensors + moments)


def obey_permissions() -> None:
    """Take from a process of root the right to write where permissions forbid it."""
    if os.getuid() == 0:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


def small_files() -> None:
    """Let no file grow over 100 bytes, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def compressing(target: str, folder: Path, prepare: Callable[[], None] | None = None) -> str | None:
    """Words unless `agvae compress` to `target` fails in one line and leaves nothing in `folder`."""
    (photo,) = sample_photos(("chelsea.png",))
    command = [sys.executable, "-m", "agvae", "compress", str(photo), target, "--model", "agvae-small-mse"]
    done = subprocess.run(command, preexec_fn=prepare, capture_output=True, text=True, check=False)
    if done.returncode != 1 or len(done.stderr.strip().splitlines()) != 1:
        return f"status {done.returncode}: {done.stderr[-500:]}"
    left = [path.name for path in folder.iterdir()]
    return f"left {left}" if left else None


def a_full_device(folder: Path) -> str | None:
    return compressing("/dev/full", folder)


def a_disk_that_is_full(folder: Path) -> str | None:
    return compressing(str(folder / "out.agv"), folder, small_files)


def a_folder_that_cannot_be_written(folder: Path) -> str | None:
    folder.chmod(0o555)
    return compressing(str(folder / "out.agv"), folder, obey_permissions)


def a_run_in_a_folder_that_cannot_be_written(folder: Path) -> str | None:
    folder.chmod(0o555)
    process = training(folder / "run", preexec_fn=obey_permissions)
    return _in_one_line(process)


def a_disk_that_fills_up_in_training(folder: Path) -> str | None:
    """The run ends in one line with its last whole checkpoint, from which it resumes to the same weights."""
    fill = "import resource\nat_first_checkpoint(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**20)))"
    cut, whole = folder / "cut", folder / "whole"
    if words := _in_one_line(training(cut, before=fill)):
        return words
    for process in (training(cut, "ckpt_path=last"), training(whole)):
        process.communicate()
    return None if same_weights(last(cut), last(whole)) else "other weights than those of a run that nothing disturbs"


def a_picture_that_vanishes_in_training(folder: Path) -> str | None:
    """The run says so in a line and ends well, with other pictures in its place."""
    photos = folder / "photos"
    photos.mkdir()
    for index, path in enumerate(sample_photos(("astronaut.png", "rocket.jpg", "coffee.png"))):
        shutil.copy(path, photos / f"{index}{path.suffix}")
    gone = f"at_first_checkpoint(lambda: Path({str(photos / '1.jpg')!r}).unlink())"
    options = ("data=folder", f"data.root={photos}", "data.cache=none", "data.val_root=null")
    process = training(folder / "run", *options, before=gone)
    output = "".join(process.communicate())
    if process.returncode or "Traceback" in output or not re.search(r"unreadable image skipped: .*1\.jpg", output):
        return f"status {process.returncode}: {output[-1500:]}"
    return None if last(folder / "run")["global_step"] == STEPS else "the run did not end"


def a_clock_that_jumps_back_in_training(folder: Path) -> str | None:
    """A day back after the first checkpoint: nothing changes."""
    back = "real = time.time\nat_first_checkpoint(lambda: setattr(time, 'time', lambda: real() - 86400))"
    cut, whole = folder / "cut", folder / "whole"
    for process in (training(cut, before=back), training(whole)):
        _, errors = process.communicate()
        if process.returncode:
            return errors[-500:]
    return None if same_weights(last(cut), last(whole)) else "other weights than those of a run that nothing disturbs"


def _in_one_line(process: subprocess.Popen) -> str | None:
    """Words unless a run ends with status 1 and with one `error:` line, without a traceback."""
    _, errors = process.communicate()
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    right = process.returncode == 1 and len(lines) == 1 and "Traceback" not in errors
    return None if right else f"status {process.returncode}: {errors[-1500:]}"


DISASTERS: tuple[Callable[[Path], str | None], ...] = (
    a_full_device,
    a_disk_that_is_full,
    a_folder_that_cannot_be_written,
    a_run_in_a_folder_that_cannot_be_written,
    a_disk_that_fills_up_in_training,
    a_picture_that_vanishes_in_training,
    a_clock_that_jumps_back_in_training,
)
