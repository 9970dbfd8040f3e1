"""Whether others keep the cores busy that a measurement runs on, told from this process's own work."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import crossrank._machine.busy
from crossrank._machine.busy import Neighbours, _own_s

TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
pytestmark = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the kernel's counts are Linux's")


class Machine:
    """A kernel's counts of four cores, of which this process may use some, and clocks that a test moves."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, cores: set[int]) -> None:
        self.stat, self.now_s, self.own_s = folder / "stat", 0.0, 0.0
        self.busy_s = dict.fromkeys(range(4), 1000.0)
        clocks = SimpleNamespace(perf_counter=lambda: self.now_s, process_time=lambda: self.own_s)
        patch.setattr(crossrank._machine.busy, "time", clocks)
        patch.setattr(os, "sched_getaffinity", lambda _: cores)
        self.write()

    def write(self) -> None:
        """As the kernel does: user, nice, system, idle, waiting for disks, interrupts, and what other machines took."""
        rows = []
        for core, busy in self.busy_s.items():
            user, system, stolen = (round(busy * TICKS * share) for share in (0.7, 0.2, 0.1))
            rows.append(f"cpu{core} {user} 0 {system} 123456 789 0 0 {stolen} 55 5")
        self.stat.write_text("\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *rows, "intr 12345 0 1", ""]), encoding="ascii")

    def work(self, seconds: float, others: dict[int, float], own: float) -> None:
        """Let time go by: cores that others used on each core, and that this process used in all."""
        self.now_s += seconds
        self.own_s += own * seconds
        for core, share in others.items():
            self.busy_s[core] += share * seconds
        self.write()


@pytest.mark.parametrize(
    ("cores", "threads", "others", "own", "said"),
    [
        ({0, 1}, 2, {}, 2.0, None),
        ({0, 1}, 2, {0: 0.1}, 2.0, None),  # a machine's usual background
        ({0, 1}, 2, {0: 0.5, 1: 0.5}, 1.0, "others took 1.0 of 2 cores"),
        ({0, 1, 2, 3}, 1, {0: 0.9, 1: 0.9, 2: 0.9}, 1.0, None),  # a core is left for this process
        ({0, 1, 2, 3}, 4, {0: 0.9, 1: 0.9, 2: 0.9}, 1.3, "others took 2.7 of 4 cores"),
        ({0, 1}, 2, {2: 1.0, 3: 1.0}, 2.0, None),  # elsewhere
    ],
)
def test_others_are_told_from_this_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: set[int],
    threads: int,
    others: dict[int, float],
    own: float,
    said: str | None,
) -> None:
    machine = Machine(tmp_path, monkeypatch, cores)
    neighbours = Neighbours(machine.stat)
    ours = {core: own / len(cores) for core in cores}
    machine.work(20, {core: others.get(core, 0) + ours.get(core, 0) for core in range(4)}, own)
    warning = neighbours.warning(threads)
    if said is None:
        assert warning is None
    else:
        assert warning is not None
        assert said in warning
        assert "measure again when nothing else runs" in warning


@pytest.mark.parametrize("content", [None, "", "cpu0 a b c\n", "cpu0\n"])
def test_counts_that_cannot_be_read_say_nothing(tmp_path: Path, content: str | None) -> None:
    stat = tmp_path / "stat"
    if content is not None:
        stat.write_text(content)
    assert Neighbours(stat).warning(1) is None


def test_this_machines_counts_are_read() -> None:
    neighbours = Neighbours()
    assert neighbours._busy is not None
    assert neighbours._busy > 0


def test_processes_that_this_one_started_are_its_own_when_they_have_ended() -> None:
    before = _own_s()
    subprocess.run([sys.executable, "-c", "while __import__('time').process_time() < 0.2: pass"], check=True)
    assert _own_s() - before > 0.15, "less by what a tick rounds off"
