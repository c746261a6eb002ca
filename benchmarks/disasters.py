"""The disasters of benchmarks/soak.py: full disks, read-only folders, files that vanish, a clock that jumps back.

Each disaster happens to the command line or to training, in a process of its own. It gets an empty folder, and returns
None if all is well. Otherwise it returns a description of the fault.
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
"""The settings of a short run, in addition to those of tests/test_training.py."""

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
    """Start a run in a process of its own, which first executes the code `before`."""
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
    """Take from a process of root the right to ignore the permissions of files."""
    if os.getuid() == 0:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


def small_files() -> None:
    """Limit files to 100 bytes, as if the disk were full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def compressing(target: str, folder: Path, prepare: Callable[[], None] | None = None) -> str | None:
    """None if `agvae compress` to `target` fails with one line and leaves nothing in `folder`, else a description."""
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
    """The run must end with one line and keep a whole checkpoint. Resumed from it, it must reach the same weights."""
    fill = "import resource\nat_first_checkpoint(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**20)))"
    cut, whole = folder / "cut", folder / "whole"
    if words := _in_one_line(training(cut, before=fill)):
        return words
    for process in (training(cut, "ckpt_path=last"), training(whole)):
        process.communicate()
    return None if same_weights(last(cut), last(whole)) else "the weights differ from those of an undisturbed run"


def a_picture_that_vanishes_in_training(folder: Path) -> str | None:
    """The run must report the picture in one line, use others instead of it, and end well."""
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
    return None if last(folder / "run")["global_step"] == STEPS else "the run ended before its last step"


def a_clock_that_jumps_back_in_training(folder: Path) -> str | None:
    """The clock goes back by a day after the first checkpoint. The weights must not change."""
    back = "real = time.time\nat_first_checkpoint(lambda: setattr(time, 'time', lambda: real() - 86400))"
    cut, whole = folder / "cut", folder / "whole"
    for process in (training(cut, before=back), training(whole)):
        _, errors = process.communicate()
        if process.returncode:
            return errors[-500:]
    return None if same_weights(last(cut), last(whole)) else "the weights differ from those of an undisturbed run"


def _in_one_line(process: subprocess.Popen) -> str | None:
    """None if a run ends with status 1 and one `error:` line, without a traceback. Otherwise a description."""
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
