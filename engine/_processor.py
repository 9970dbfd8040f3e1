"""Facts about the processor that results depend on."""

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def read_cpuinfo(path: Path = _CPUINFO) -> dict[str, str]:
    """The first processor's fields, empty where the system does not tell."""
    try:
        first, _, _ = path.read_text(encoding="utf-8").partition("\n\n")
    except OSError:
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
