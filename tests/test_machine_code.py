"""Compiled functions work in containers and services, where neither home nor the package folder may be writable."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY, lively_model

import agvae
from agvae import machine_code
from agvae.codec import model_file

PACKAGE = Path(agvae.__file__).parent
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1  # of linux/prctl.h and linux/capability.h


def obey_permissions() -> None:
    """Take from a process of root the right to ignore the permissions of files."""
    if os.getuid() == 0:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="takes rights from root as Linux does")
def test_the_command_works_where_neither_home_nor_package_can_be_written(tmp_path, photo):
    site, home, work = tmp_path / "site", tmp_path / "home", tmp_path / "work"
    shutil.copytree(PACKAGE, site / "agvae", ignore=shutil.ignore_patterns("__pycache__", "weights"))
    home.mkdir()
    work.mkdir()
    (work / "tmp").mkdir()
    photo.crop((0, 0, 80, 60)).save(work / "a.png")
    model_file.from_model(lively_model(TINY)).save(work / "tiny.safetensors")
    read_only = [home, site, *(path for path in site.rglob("*") if path.is_dir())]
    for folder in read_only:
        folder.chmod(0o555)
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    environment |= {"PYTHONPATH": str(site), "TMPDIR": str(work / "tmp"), "OMP_NUM_THREADS": "1"}
    try:
        for homeless in (str(home), "/nonexistent/home"):
            for task in (("compress", "a.png", "a.agv"), ("decompress", "a.agv", "b.png")):
                done = subprocess.run(
                    [sys.executable, "-m", "agvae", *task, "--model", "tiny.safetensors"],
                    cwd=work,
                    env=environment | {"HOME": homeless},
                    capture_output=True,
                    text=True,
                    check=False,
                    preexec_fn=obey_permissions,
                )
                assert (done.returncode, done.stderr) == (0, "")
        assert not list(site.rglob("__pycache__"))
        private = work / "tmp" / f"agvae-{os.getuid()}"
        assert private.stat().st_mode & 0o777 == 0o700
        assert list(private.rglob("*.nbi"))  # the cache of compiled functions
    finally:
        for folder in read_only:
            folder.chmod(0o755)


def test_without_any_folder_functions_are_compiled_anew(monkeypatch):
    def nowhere(**options):
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: (function, options)

    monkeypatch.setattr(machine_code, "njit", nowhere)
    monkeypatch.setattr(machine_code, "_private_folder", lambda: None)
    assert machine_code.compiled(nogil=True)(abs) == (abs, {"nogil": True})


def test_a_temporary_folder_that_others_can_change_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = machine_code._private_folder()
    assert folder == tmp_path / f"agvae-{os.getuid()}"
    folder.chmod(0o777)
    assert machine_code._private_folder() is None
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    assert machine_code._private_folder() is None
