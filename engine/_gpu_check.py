"""Why a GPU does not run: what is installed beside what the GPU needs, as one sentence with one command.

Asked for only when a session on a GPU fails to start or to run. `diagnose` is a pure function of `GpuFacts`, which
`_gpu_facts` reads.
"""

import re
from dataclasses import dataclass

from ._gpu_facts import Gpu, GpuFacts, read_gpu_facts
from ._runtime import INSTALL_HINT

Version = tuple[int, ...]

_CPU = "device='cpu' runs here: pip uninstall -y onnxruntime-gpu && pip install 'crossrank[cpu]'"


@dataclass(frozen=True, slots=True)
class _Build:
    """What the onnxruntime-gpu of an extra needs."""

    extra: str
    cuda: int
    # Of NVIDIA's driver for Linux: minor version compatibility,
    # https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
    driver: Version


_CUDA12, _CUDA13 = _Build("cuda12", 12, (525,)), _Build("cuda13", 13, (580,))


def gpu_advice(index: int) -> str:
    """What to do about a GPU that does not start, from what this machine has."""
    return diagnose(read_gpu_facts(), index)


def diagnose(facts: GpuFacts, index: int) -> str:
    """What keeps onnxruntime from a GPU, and the one command that helps.

    Args:
        facts: What the machine has.
        index: Of the GPU that was asked for.

    >>> diagnose(GpuFacts("1.31.1", 13, (Gpu("Tesla V100", (7, 0)),), (580, 65), (9, 12)), 0).partition(": pip")[0]
    'GPU Tesla V100 (sm_70) is not in onnxruntime-gpu 1.31.1 for CUDA 13: it runs on versions below 1.27'
    """
    if facts.driver is None:
        return f"no NVIDIA driver answers (nvidia-smi must list the GPU): install or load it; {_CPU}"
    if index >= len(facts.gpus):
        names = ", ".join(gpu.name for gpu in facts.gpus) or "none"
        return f"there is no GPU {index}; the driver lists {names} (CUDA_VISIBLE_DEVICES may hide some)"
    gpu = facts.gpus[index]
    what = f"GPU {gpu.name} (sm_{gpu.capability[0]}{gpu.capability[1]})"
    have = f"onnxruntime-gpu {facts.onnxruntime} for CUDA {facts.cuda}"
    driver = ".".join(map(str, facts.driver))
    if gpu.capability < (7, 0):
        return f"{what} is older than all that {have} runs on, sm_70: {_CPU}"
    best = _CUDA12 if facts.driver < _CUDA13.driver else _CUDA13
    if gpu.capability < (7, 5):
        best = _CUDA12
    elif gpu.capability >= (12, 0):
        best = _CUDA13
    if facts.driver < best.driver:
        return f"{what} has driver {driver}, and CUDA {best.cuda} needs {best.driver[0]} or newer: update the driver"
    return _wrong_build(facts, gpu, what, have, best, driver) or _missing_libraries(facts, gpu, what, have)


def _wrong_build(facts: GpuFacts, gpu: Gpu, what: str, have: str, best: _Build, driver: str) -> str | None:
    release = version(facts.onnxruntime)
    if gpu.capability < (7, 5) and (facts.cuda != 12 or release >= (1, 27)):
        return f"{what} is not in {have}: it runs on versions below 1.27: pip install 'crossrank[volta]'"
    if gpu.capability >= (12, 0) and (facts.cuda != 13 or release < (1, 28)):
        return f"{what} is not in {have}: it needs 1.28 or newer for CUDA 13: pip install 'crossrank[cuda13]'"
    if (10, 0) <= gpu.capability < (11, 0) and release >= (1, 29):
        return f"{what} is not in {have}, from 1.29 on: pip install 'onnxruntime-gpu>=1.28,<1.29'"
    if facts.cuda == 13 and best is _CUDA12:
        return f"{what} has driver {driver}, and {have} needs 580 or newer: pip install 'crossrank[cuda12]'"
    return None


def _missing_libraries(facts: GpuFacts, gpu: Gpu, what: str, have: str) -> str:
    problems, packages = [], []
    if facts.missing:
        problems.append(f"does not find {', '.join(facts.missing)}")
        packages.append(f"'onnxruntime-gpu[cuda,cudnn]=={facts.onnxruntime}'")
    volta = gpu.capability < (7, 5)
    fitting = (9, 1) <= (facts.cudnn or ()) < ((9, 11) if volta else (10,))
    if not fitting:
        found = "none" if facts.cudnn is None else ".".join(map(str, facts.cudnn))
        problems.append(f"needs cuDNN 9{' below 9.11' if volta else ''}, found is {found}")
        packages.append(f"'nvidia-cudnn-cu{facts.cuda}>=9.1,{'<9.11' if volta else '<10'}'")
    if problems:
        return f"{what}: {have} {' and '.join(problems)}: pip install {' '.join(packages)}"
    return f"{what} and {have} fit each other: check that nvidia-smi lists the GPU as free, or {INSTALL_HINT}"


def version(text: str) -> Version:
    """The numbers that a version begins with.

    >>> version("1.28.0rc1")
    (1, 28, 0)
    """
    return tuple(int(part) for part in re.match(r"[\d.]*", text)[0].split(".") if part)  # type: ignore[index]
