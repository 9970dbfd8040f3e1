"""What is read of the processor: its name, and whether int8 products saturate on it."""

import platform
from pathlib import Path

import pytest

from crossrank._machine.cpu import int8_products_saturate, processor_name


def cpuinfo(folder: Path, flags: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\n")
    return path


def test_name_is_the_first_processors(tmp_path: Path) -> None:
    assert processor_name(cpuinfo(tmp_path, "avx2")) == "Some CPU @ 2 GHz"


def test_name_falls_back_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert processor_name(tmp_path / "absent") in (platform.processor(), platform.machine())


@pytest.mark.parametrize(
    ("flags", "saturate"), [("avx2 avx512f", True), ("avx2 avx_vnni", False), ("avx512_vnni", False)]
)
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="a question of x86-64 alone")
def test_products_saturate_without_vnni(tmp_path: Path, flags: str, saturate: bool) -> None:
    assert int8_products_saturate(cpuinfo(tmp_path, flags)) is saturate
