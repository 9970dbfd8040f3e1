"""What a figure was taken on: the machine and the state of the code."""

import os
import platform
import subprocess
from pathlib import Path

from crossrank._machine.cpu import processor_name, read_cpuinfo

# What decides which kernels run; /proc/cpuinfo's words.
_INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp")


def describe_machine() -> dict[str, object]:
    """CPU, its cores and instruction sets, the system, and how busy it was (1-minute load average)."""
    info = read_cpuinfo()
    flags = info.get("flags", info.get("Features", "")).split()
    return {
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in flags],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def git_commit(root: Path) -> str:
    """The checkout's short commit hash, with ``-dirty`` where its files differ; "unknown" outside of a checkout.

    Results and what the report writes do not count: a run writes over those of an earlier one.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        unlike = (":!benchmarks/results", ":!*.md", ":!*.png")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *unlike)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit
