"""One output for each input: which files a command reads and writes, and one job after another."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agvae.cli.progress import Progress
from agvae.cli.streams import STANDARD, fail, note, say, write
from agvae.errors import ConfigError, DataError, is_out_of_memory


class Job(NamedTuple):
    """One file to read and the one to make of it."""

    input: str
    output: str

    @property
    def source(self) -> str:
        """The input in words."""
        return "standard input" if self.input == STANDARD else self.input

    @property
    def target(self) -> str:
        """The output in words."""
        return "standard output" if self.output == STANDARD else self.output


class Result(NamedTuple):
    """A file made, its line of text, and notes about anything that could not be kept."""

    data: bytes
    words: str
    notes: list[str]


def jobs_of(paths: list[str], suffix: str, output_form: str) -> list[Job]:
    """The jobs that the positional arguments ask for; `suffix` is that of files in a folder.

    Raises ConfigError if an output would meet an input or another output."""
    if len(paths) < 2:
        raise ConfigError(f"{paths[0]}: nothing says where to write; give {output_form} after the input")
    *inputs, output = paths
    if not output.endswith(os.sep) and not os.path.isdir(output):
        if len(inputs) > 1:
            raise ConfigError(f"{output}: several inputs need a folder, one that is there or ends in {os.sep}")
        jobs = [Job(inputs[0], output)]
    elif STANDARD in inputs:
        raise ConfigError(f"{output}: standard input has no name to go by in a folder; name the file")
    else:
        jobs = [Job(name, os.path.join(output, Path(name).stem + suffix)) for name in inputs]
    made: dict[str, str] = {}
    for job in jobs:
        if other := made.get(job.output):
            raise ConfigError(f"{other} and {job.input} would both become {job.output}")
        made[job.output] = job.input
    inodes = {_inode(job.input) for job in jobs} - {None}
    for job in jobs:
        if _inode(job.output) in inodes:
            raise ConfigError(f"{job.output}: is an input and would be overwritten")
    if output.endswith(os.sep):
        os.makedirs(output, exist_ok=True)
    return jobs


def run(jobs: list[Job], work: Callable[[Job, Progress], Result]) -> int:
    """Do all jobs. The exit status is 1 if one failed; each failure is one line.

    A fault of the command or the model, ConfigError or DataError, ends them all."""
    status = 0
    progress = Progress(len(jobs))
    try:
        for job in jobs:
            progress.begin(Path(job.source).name)
            try:
                check_folders(job)
                result = work(job, progress)
                write(job.output, result.data)
            except (ConfigError, DataError):
                raise
            except (ValueError, OSError, MemoryError, RuntimeError) as error:
                with progress.interrupted():
                    status = fail(_reason(error, job), 1)
            else:
                with progress.interrupted():
                    report(job, result.words, result.notes)
            progress.end()
    finally:
        progress.close()
    return status


def check_folders(job: Job) -> None:
    """Raise ValueError if the input is a folder, or the folder of the output does not exist."""
    if os.path.isdir(job.input):
        raise ValueError(f"is a folder; name the files in it, as in {os.path.join(job.input, '*')}")
    folder = os.path.dirname(job.output)
    if folder and not os.path.isdir(folder):
        raise ValueError(f"there is no folder {folder} to write to")


def report(job: Job, words: str, notes: list[str]) -> None:
    """Print what a job has made: on standard output, unless the file itself went there."""
    for text in notes:
        note(text)
    line = f"{job.target}: {words}"
    if job.output == STANDARD:
        print(line, file=sys.stderr)
    else:
        say(line)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _reason(error: Exception, job: Job) -> object:
    if isinstance(error, OSError) and error.filename:
        return error
    if isinstance(error, RuntimeError):
        if not is_out_of_memory(error):
            raise error
        return f"{job.source}: not enough memory"
    return f"{job.source}: {str(error) or 'not enough memory'}"
