"""One output for each input: the files that a command reads and writes, and its jobs, one by one or several at once."""

import argparse
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from agvae.cli.progress import Progress, Share
from agvae.cli.streams import STANDARD, fail, note, say, write
from agvae.errors import ConfigError, DataError, is_out_of_memory


class Job(NamedTuple):
    """A file to read, and the file to make from it."""

    input: str
    output: str

    @property
    def source(self) -> str:
        """The input, for messages."""
        return "standard input" if self.input == STANDARD else self.input

    @property
    def target(self) -> str:
        """The output, for messages."""
        return "standard output" if self.output == STANDARD else self.output


class Result(NamedTuple):
    """A finished file, its line of text, and notes about what could not be kept. `details` are for --verbose."""

    data: bytes
    words: str
    notes: list[str]
    details: str = ""


Work = Callable[[Job, Share], Result]


def jobs_of(paths: list[str], suffix: str, output_form: str, accept: Callable[[str], bool]) -> list[Job]:
    """The jobs that the positional arguments define. `suffix` is the suffix of files in a folder.

    A folder among the inputs stands for all files in it, at any depth, that `accept` accepts. They keep their relative
    paths below the output folder. A file keeps its name without the suffix, or with it if another file of the same
    folder would get the same name. Raises ConfigError if an output equals an input or another output."""
    if len(paths) < 2:
        raise ConfigError(f"{paths[0]}: the output is missing; give {output_form} after the input")
    *inputs, output = paths
    folders = [path for path in inputs if os.path.isdir(path)]
    into_folder = output.endswith(os.sep) or os.path.isdir(output) or bool(folders and not Path(output).suffix)
    if not into_folder:
        if len(inputs) > 1 or folders:
            raise ConfigError(
                f"{output}: several inputs need a folder as the output: one that exists, or a name that ends in "
                f"{os.sep}"
            )
        jobs = [Job(inputs[0], output)]
    elif STANDARD in inputs:
        raise ConfigError(f"{output}: for standard input the output must be a file, not a folder")
    else:
        jobs = _in_folder(inputs, output, suffix, accept)
    _check(jobs)
    if into_folder:
        for folder in dict.fromkeys(os.path.dirname(job.output) for job in jobs) if folders else [output]:
            if output.endswith(os.sep) or folders:
                os.makedirs(folder, exist_ok=True)
    return jobs


def _in_folder(inputs: list[str], output: str, suffix: str, accept: Callable[[str], bool]) -> list[Job]:
    """Jobs whose outputs are in a folder, at the relative paths of their inputs."""
    found: list[tuple[str, Path]] = []
    for path in inputs:
        if not os.path.isdir(path):
            found.append((path, Path(Path(path).name)))
            continue
        below = _files_below(path, output, accept)
        if not below:
            raise ConfigError(f"{path}: this folder has no file that the command can read")
        found += [(file, Path(os.path.relpath(file, path))) for file in below]
    stems = Counter(place.with_suffix("") for _, place in found)

    def name_of(place: Path) -> Path:
        return place if stems[place.with_suffix("")] > 1 else place.with_suffix("")

    return [Job(path, os.path.join(output, f"{name_of(place)}{suffix}")) for path, place in found]


def _files_below(folder: str, output: str, accept: Callable[[str], bool]) -> list[str]:
    """Files at any depth of a folder, sorted, without hidden files and those in the output folder."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != "." and not _same(os.path.join(place, name), output))
        found += [os.path.join(place, name) for name in sorted(files) if name[0] != "." and accept(name)]
    return found


def _same(path: str, other: str) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def _check(jobs: list[Job]) -> None:
    """Raise ConfigError if an output equals an input or another output."""
    made: dict[str, str] = {}
    for job in jobs:
        if other := made.get(job.output):
            raise ConfigError(f"{other} and {job.input} would both become {job.output}; rename one of them")
        made[job.output] = job.input
    inodes = {_inode(job.input) for job in jobs} - {None}
    for job in jobs:
        if _inode(job.output) in inodes:
            raise ConfigError(f"{job.output}: is an input and would be overwritten; choose another output")


def run(jobs: list[Job], work: Work, options: argparse.Namespace) -> int:
    """Do all jobs. The exit status is 1 if one failed. Each failure is one line.

    `options` are those of `add_job_options`. A fault of the command or of the model, ConfigError or DataError, ends all
    jobs."""
    if options.no_clobber:
        jobs = [job for job in jobs if not _is_kept(job, options.quiet)]
    runner = _Runner(work, Progress(len(jobs)), options)
    try:
        if options.jobs == 1 or len(jobs) < 2:
            for job in jobs:
                runner.do(job)
        else:
            _at_once(jobs, runner.do, options.jobs)
    finally:
        runner.progress.close()
    return runner.status


def _at_once(jobs: list[Job], do: Callable[[Job], None], count: int) -> None:
    """Several jobs at once, in threads. After an interrupt, the running jobs finish."""
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(do, job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _is_kept(job: Job, quiet: bool) -> bool:
    """Whether the output exists already. If so, a note says so."""
    exists = job.output != STANDARD and os.path.exists(job.output)
    if exists and not quiet:
        note(f"{job.output}: already exists and is kept")
    return exists


class _Runner:
    """Does one job after another, and records whether one has failed."""

    def __init__(self, work: Work, progress: Progress, options: argparse.Namespace):
        self.progress, self.status = progress, 0
        self._work, self._options, self._lock = work, options, threading.Lock()

    def do(self, job: Job) -> None:
        """Do a job. A failure becomes one line."""
        start = time.perf_counter()
        share = self.progress.begin(Path(job.source).name)
        try:
            check_folders(job)
            result = self._work(job, share)
            write(job.output, result.data)
        except (ConfigError, DataError):
            raise
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            reason = _reason(error, job)
            with self._lock, self.progress.interrupted():
                self.status = fail(reason, 1)
        else:
            words = result.words
            if self._options.verbose:
                words += f", {result.details}, {time.perf_counter() - start:.2f} s"
            with self._lock, self.progress.interrupted():
                if not self._options.quiet:
                    report(job, words, result.notes)
        share.end()


def check_folders(job: Job) -> None:
    """Raise ValueError if the input is a folder, or the folder of the output does not exist."""
    if os.path.isdir(job.input):
        raise ValueError(f"is a folder; name the files in it, as in {os.path.join(job.input, '*')}")
    folder = os.path.dirname(job.output)
    if folder and not os.path.isdir(folder):
        raise ValueError(f"the output folder {folder} does not exist; create it first")


def report(job: Job, words: str, notes: list[str]) -> None:
    """Print the result of a job, on standard output unless the file itself went there."""
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
