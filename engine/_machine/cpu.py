"""The processor: facts that results depend on, and how many threads this process may really use.

`os.cpu_count()` counts the machine. A container or a pinned process has less: the affinity mask and
the cgroup's CPU quota say how much, and threads beyond it only wait for each other.
"""

import math
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crossrank._interrupts import not_thrown_in
from crossrank._numbers import whole_number

_CPUINFO = Path("/proc/cpuinfo")


def read_cpuinfo(path: Path = _CPUINFO) -> dict[str, str]:
    """The first processor's fields, empty where the system does not tell."""
    try:
        first, _, _ = path.read_text(encoding="utf-8").partition("\n\n")
    except not_thrown_in(OSError):
        return {}
    lines = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def processor_name(path: Path = _CPUINFO) -> str:
    """The processor's name, as well as the system tells it."""
    return read_cpuinfo(path).get("model name") or platform.processor() or platform.machine()


def int8_products_saturate(path: Path = _CPUINFO) -> bool:
    """Whether products of unsigned and signed int8 may saturate: on x86-64 without VNNI, or where that is unknown.

    Such a processor adds two products in 16 bits, which 255 * 127 * 2 leaves
    (https://github.com/microsoft/onnxruntime/issues/14642).
    """
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and not {"avx512_vnni", "avx_vnni"} & set(read_cpuinfo(path).get("flags", "").split())


_CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class ThreadCount:
    """A number of threads and the reason for it, as `info()` prints it."""

    count: int
    reason: str


def cgroup_cpu_limit(root: Path = _CGROUP_ROOT, membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs that the cgroup of this process may use, or None without a limit.

    Reads version 2 (``cpu.max``, every ancestor, since the tightest one holds) and version 1
    (``cpu.cfs_quota_us`` over ``cpu.cfs_period_us``).

    Args:
        root: Where the cgroup file system is mounted.
        membership: The file that names this process's groups.

    Returns:
        A fraction of CPUs such as 1.5, or None.
    """
    limits = []
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except not_thrown_in(OSError):
        return None
    for line in lines:
        hierarchy, controllers, path = [*line.split(":", 2), "", ""][:3]
        if hierarchy == "0":
            base, files = root, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            base, files = root / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        group = base / path.lstrip("/")
        # Inside a container the path is the host's, the mount is ours: then only the root exists.
        for folder in {base, group, *group.parents}:
            if not folder.is_relative_to(base):
                continue
            try:
                fields = " ".join((folder / name).read_text(encoding="ascii") for name in files).split()
                limits.append(int(fields[0]) / int(fields[1]))
            except not_thrown_in(OSError, ValueError, IndexError, ZeroDivisionError):
                continue  # no file at this level, or "max": no limit here
    return min((limit for limit in limits if limit > 0), default=None)


def available_threads(quota: Callable[[], float | None] = cgroup_cpu_limit) -> ThreadCount:
    """Threads this process can keep busy: its affinity mask, cut by its cgroup's quota.

    Args:
        quota: Says how many CPUs the latter allows, None for all.
    """
    if hasattr(os, "sched_getaffinity"):
        cores, reason = len(os.sched_getaffinity(0)), "CPU affinity"
    else:
        cores, reason = os.cpu_count() or 1, "CPU count"
    limit = quota()
    if limit is not None and math.ceil(limit) < cores:
        return ThreadCount(max(1, math.ceil(limit)), f"cgroup quota of {limit:g} CPUs")
    return ThreadCount(cores, f"{reason} of {cores}")


def resolve_threads(threads: int | None) -> ThreadCount:
    """The caller's number of threads, or `available_threads` when it is None.

    Raises:
        InputError: If ``threads`` is not a positive integer.
    """
    if threads is None:
        return available_threads()
    allowed = "a positive integer, or None for all that this process may use"
    return ThreadCount(whole_number("threads", threads, 1, allowed), "as asked")
