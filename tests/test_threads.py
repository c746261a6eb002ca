"""Threads that do not compete: they wait passively, and there are no more of them than allowed and free cores."""

import os
import subprocess
import sys

import pytest
import torch

from agvae import threads
from agvae.errors import ConfigError

SET_BY_USER = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def python(code: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in SET_BY_USER}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_torch_waits_passively_unless_the_user_decided_otherwise():
    policy = "import agvae, os; print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in __import__('sys').modules)"
    assert python(policy) == "PASSIVE False"
    assert python(policy, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE False"
    assert python(policy, GOMP_SPINCOUNT="100") == "None False"


@pytest.fixture
def torch_threads(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield
    torch.set_num_threads(before)


def test_a_number_of_threads_given_is_taken_and_has_to_be_one(torch_threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads.use_threads(3)
    assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (3, "3")
    threads.use_threads(None)  # keeps the user's setting
    assert torch.get_num_threads() == 3
    for wrong in (0, -1, 1.5, "two", True):
        with pytest.raises(ConfigError, match="threads must be a positive integer"):
            threads.use_threads(wrong)


def test_threads_are_at_most_the_allowed_cores_and_the_free_ones(torch_threads, monkeypatch):
    torch.set_num_threads(8)
    monkeypatch.setattr(threads, "_affinity", lambda: set(range(8)))
    monkeypatch.setattr(threads, "allowed_cores", lambda: 6)
    threads.use_threads(None)
    assert torch.get_num_threads() == 6
    for busy, left in ((0.3, 6), (3.8, 4), (20, 1)):
        torch.set_num_threads(8)
        monkeypatch.setattr(threads._Moment, "used_by_others_since", lambda *_, busy=busy: busy)
        threads.use_threads(None, only_free=True)
        assert torch.get_num_threads() == left


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/a/b\n", {}, 8),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, 8),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "250000 100000\n"}, 3),
        ("0::/of/the/host\n", {"cpu.max": "50000 100000\n"}, 1),
        ("4:cpu,cpuacct:/a\n0::/\n", {"cpu/a/cpu.cfs_quota_us": "400000", "cpu/a/cpu.cfs_period_us": "100000"}, 4),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 8),
        ("4:memory:/a\n", {"a/cpu.max": "100000 100000"}, 8),
    ],
)
def test_limits_of_control_groups_are_those_of_all_levels(tmp_path, monkeypatch, own, files, cores):
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(threads, "_affinity", lambda: set(range(8)))
    monkeypatch.setattr(threads, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(threads, "CGROUPS", tmp_path / "cgroup")
    assert threads.allowed_cores() == cores


def test_the_processor_time_of_others_is_without_ones_own():
    start = threads._Moment(clock=10.0, own=1.0, all=50.0)
    assert threads._Moment(clock=12.0, own=2.5, all=53.5).used_by_others_since(start) == 1.0
    assert threads._Moment(clock=10.1, own=1.0, all=60.0).used_by_others_since(start) == 0.0
