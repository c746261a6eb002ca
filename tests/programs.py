"""Run a program of the repository in a fork of the test's process, where the packages are already loaded.

A new interpreter takes seconds to import torch, Lightning and Hydra. A fork takes no time. The changes that the program
makes to its process (signal handlers, logging, Hydra's state) end with the fork.
"""

import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryFile

import agvae.engine  # noqa: F401, loads the packages that all programs need


def run(program: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `python PROGRAM ARGUMENTS`. Returns its output and status, as subprocess.run does."""
    with TemporaryFile() as output, TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = _become(program, arguments, cwd, output.fileno(), errors.fileno())
            finally:  # the fork must not continue with the tests
                os._exit(status)
        _, status = os.waitpid(child, 0)
        found = []
        for file in (output, errors):
            file.seek(0)
            found.append(file.read().decode())
    return subprocess.CompletedProcess([program, *arguments], os.waitstatus_to_exitcode(status), *found)


def _become(program: Path, arguments: tuple[str, ...], cwd: Path, output: int, errors: int) -> int:
    """Run the program in this process. Returns its status."""
    os.chdir(cwd)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    sys.argv = [str(program), *arguments]
    sys.path[0] = str(program.parent)
    with open(1, "w", closefd=False) as sys.stdout, open(2, "w", closefd=False) as sys.stderr:
        try:
            runpy.run_path(str(program), run_name="__main__")
        except SystemExit as ending:
            if isinstance(ending.code, str):
                print(ending.code, file=sys.stderr)
            return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        except BaseException:
            traceback.print_exc()
            return 1
    return 0
