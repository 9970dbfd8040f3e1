"""How many threads: what was asked, the affinity mask, and the quota of either version of cgroups."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crossrank import InputError
from crossrank._machine.cpu import ThreadCount, available_threads, cgroup_cpu_limit, resolve_threads

V2 = "0::/system.slice/app.service\n"
V1 = "11:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/ignored\n"


def _limit(tmp_path: Path, membership: str, files: dict[str, str]) -> float | None:
    """The limit in a file system of these files; a membership file lies beside it."""
    root = tmp_path / "cgroup"
    root.mkdir()
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="ascii")
    own = tmp_path / "self"
    own.write_text(membership, encoding="utf-8")
    return cgroup_cpu_limit(root, own)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"system.slice/app.service/cpu.max": "150000 100000\n"}, 1.5),
        ({"system.slice/app.service/cpu.max": "50000 100000"}, 0.5),
        ({"system.slice/app.service/cpu.max": "max 100000\n"}, None),
        ({"system.slice/app.service/cpu.max": "800000 100000", "system.slice/cpu.max": "200000 100000"}, 2.0),
        ({"system.slice/app.service/cpu.max": "100000 100000", "system.slice/cpu.max": "max 100000"}, 1.0),
        ({"system.slice/app.service/cpu.max": "max 100000", "system.slice/cpu.max": "300000 100000"}, 3.0),
        ({"cpu.max": "400000 100000\n"}, 4.0),  # in a container only the root is there
        ({}, None),
        ({"other.slice/cpu.max": "100000 100000"}, None),  # another's limit
    ],
    ids=str,
)
def test_version_2_takes_the_tightest_ancestor(tmp_path: Path, files: dict[str, str], limit: float | None) -> None:
    assert _limit(tmp_path, V2, files) == limit


@pytest.mark.parametrize(
    ("quota", "period", "limit"),
    [("250000", "100000", 2.5), ("-1", "100000", None), ("20000", "50000", 0.4), ("100000", "0", None)],
)
@pytest.mark.parametrize("folder", ["cpu/docker/abc", "cpu/docker", "cpu"])
def test_version_1_divides_quota_by_period(
    tmp_path: Path, folder: str, quota: str, period: str, limit: float | None
) -> None:
    files = {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}
    assert _limit(tmp_path, V1, files) == limit


def test_both_versions_together_take_the_tighter(tmp_path: Path) -> None:
    files = {
        "cpu/docker/abc/cpu.cfs_quota_us": "300000",
        "cpu/docker/abc/cpu.cfs_period_us": "100000",
        "ignored/cpu.max": "200000 100000",
    }
    assert _limit(tmp_path, V1, files) == 2.0


def test_a_controller_whose_name_begins_with_cpu_is_another(tmp_path: Path) -> None:
    files = {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000"}
    assert _limit(tmp_path, "5:cpuset:/a\n6:cpuacct:/a\n", files) is None


@pytest.mark.parametrize("content", ["", "garbage", "max", "1e5 100000", "100000", "0 100000", "-5 100000", "100000 x"])
def test_a_file_that_holds_no_limit_is_no_limit(tmp_path: Path, content: str) -> None:
    assert _limit(tmp_path, V2, {"cpu.max": content}) is None


@pytest.mark.parametrize("membership", ["", "\n", "nonsense\n", "0\n", "0:\n", ":::\n"])
def test_a_membership_file_of_another_form_is_no_error(tmp_path: Path, membership: str) -> None:
    assert _limit(tmp_path, membership, {}) is None


def test_without_cgroups_there_is_no_limit(tmp_path: Path) -> None:
    assert cgroup_cpu_limit(tmp_path, tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("limit", "count"),
    [(0.1, 1), (0.5, 1), (1.0, 1), (1.5, 2), (2.0, 2), (3.2, 4), (4.0, 4)],
)
def test_a_quota_is_rounded_up_to_whole_threads(monkeypatch: pytest.MonkeyPatch, limit: float, count: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert available_threads(lambda: limit) == ThreadCount(count, f"cgroup quota of {limit:g} CPUs")


@pytest.mark.parametrize("limit", [None, 2.5, 3.0, 64.0])
def test_a_quota_above_the_affinity_does_not_count(monkeypatch: pytest.MonkeyPatch, limit: float | None) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5, 7}, raising=False)
    assert available_threads(lambda: limit) == ThreadCount(3, "CPU affinity of 3")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_pinned_process_has_the_cores_that_it_is_pinned_to() -> None:
    core = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{core}}})\n"
        "from crossrank._machine.cpu import available_threads\n"
        "print(available_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(ThreadCount(1, "CPU affinity of 1"))


def test_what_was_asked_holds() -> None:
    assert resolve_threads(3) == ThreadCount(3, "as asked")
    assert resolve_threads(None) == available_threads()


@pytest.mark.parametrize("threads", [0, -3, True, 2.0, "4"], ids=repr)
def test_what_is_no_number_of_threads_is_refused_with_its_value(threads: int) -> None:
    with pytest.raises(InputError, match="a positive integer, or None for all that this process may use") as caught:
        resolve_threads(threads)
    assert f"threads={threads!r}" in str(caught.value)
