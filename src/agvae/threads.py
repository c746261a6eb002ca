"""Threads that do not compete: how many this process may use, and how they wait for each other.

OpenMP's threads spin while they wait, so that the next task starts at once. If another process uses one of the cores,
the thread on that core is late, and the others spin while they wait for it. Work then takes several times longer than
with one thread. Passive threads sleep instead.
"""

import math
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

from agvae.errors import ConfigError

CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def wait_passively() -> None:
    """Make OpenMP's threads sleep while they wait, unless the user has chosen otherwise.

    It affects only an OpenMP runtime that is loaded afterwards, so it must come before `import torch`."""
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def survive_forks() -> None:
    """Make the child of a fork compute on one thread, because OpenMP's other threads exist only in its parent.

    Work that is shared with them would wait for ever."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_use_one_thread)


def _use_one_thread() -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def use_threads(count: int | None, only_free: bool = False, shared_by: int = 1) -> None:
    """Make torch use `count` threads. For None, use as many as the user has set, or else at most one for each allowed
    core.

    With `only_free`, cores that other processes keep busy are left out, because even a thread that waits passively is
    late if it has to share its core. They are measured while torch is loaded, so not if it is loaded already.

    `shared_by` is the number of jobs that run at once. Without a given count, they share the cores.

    A given count also holds for processes that this one starts. Raises ConfigError unless it is positive."""
    if count is not None and (type(count) is not int or count < 1):
        raise ConfigError(f"threads must be a positive integer or null, not {count}")
    start = _Moment.now()
    import torch

    if count is not None:
        os.environ["OMP_NUM_THREADS"] = str(count)
        torch.set_num_threads(count)
    elif "OMP_NUM_THREADS" not in os.environ:
        busy = round(_Moment.now().used_by_others_since(start)) if only_free else 0
        cores = min(torch.get_num_threads(), allowed_cores(), len(_affinity()) - busy)
        torch.set_num_threads(max(1, cores // shared_by))


class _Moment(NamedTuple):
    """A point in time, and the processor time used until then by this process and by all processes on its cores, in
    seconds."""

    clock: float
    own: float
    all: float

    @classmethod
    def now(cls) -> "_Moment":
        return cls(time.perf_counter(), time.process_time(), _busy_seconds())

    def used_by_others_since(self, start: "_Moment") -> float:
        """Average number of cores that other processes have used. 0 if less than 0.2 s have passed, too little to
        measure."""
        elapsed = self.clock - start.clock
        return ((self.all - start.all) - (self.own - start.own)) / elapsed if elapsed > 0.2 else 0.0


def _busy_seconds() -> float:
    """Processor time, since the machine started, of all processes on this one's cores. 0 except on Linux."""
    names = {f"cpu{core}" for core in _affinity()}
    try:
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        ticks = sum(sum(map(int, line[1:4])) for line in lines if line[0] in names)  # user, nice, system
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return 0.0


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def allowed_cores() -> int:
    """Number of cores that this process may use: its affinity, and the processor time that its control groups allow."""
    return max(1, min([len(_affinity()), *(math.ceil(share) for share in _granted())]))


def _granted() -> list[float]:
    """The limits, in cores, of this process's control groups and of all above them, versions 1 and 2."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, limit = CGROUPS, _limit_v2
        elif "cpu" in controllers.split(","):
            root, limit = CGROUPS / "cpu", _limit_v1
        else:
            continue
        # In a container, the path may be that of the host, which is not mounted. Then only the root exists.
        group = root / path.lstrip("/")
        limits += [limit(folder) for folder in (group, *group.parents) if folder.is_relative_to(root)]
    return [value for value in limits if value is not None]


def _limit_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _limit_v1(group: Path) -> float | None:
    try:
        quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError):
        return None
