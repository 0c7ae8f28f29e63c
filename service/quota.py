"""How many CPUs this process may use: what the machine has, its affinity, and what a cgroup leaves of it."""

import math
import os
from pathlib import Path


def cpu_quota(root: Path = Path("/")) -> int:
    """Return the whole CPUs that this process may use: its affinity, or less where a cgroup limits it.

    A part of a CPU is rounded down: a thread beyond the quota gets the whole process throttled.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(affinity, _cgroup_cpus(root))))


def _cgroup_cpus(root: Path) -> float:
    """Return the least quota of this process's cgroup and those above it; infinite where there is none."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:  # no Linux
        return math.inf
    quotas = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        folder = mount / path.strip("/")
        # Inside a container the path may be the host's and lead nowhere; the mount itself is then ours.
        quotas += [_quota_of(at) for at in (folder, *folder.parents) if at.is_relative_to(mount)]
    return min(quotas)


def _quota_of(folder: Path) -> float:
    """Return the CPUs of one cgroup, which version 2 keeps in one file and version 1 in two."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
    except OSError:
        return math.inf
    return math.inf if quota == "max" or int(quota) < 0 else int(quota) / int(period)
