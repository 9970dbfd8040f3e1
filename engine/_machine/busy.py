"""The share of the cores that others keep busy while something is measured."""

import os
import time
from pathlib import Path

from crossrank._interrupts import not_thrown_in

_STAT = Path("/proc/stat")
_IDLE = (3, 4)  # of a core's counts: idle, and idle while a disk works
_COUNTED = 8  # the two behind them, of guests, are in the first two as well
# Less is a machine's usual background.
_LEAST_CORES, _LEAST_SHARE = 0.25, 0.1


class Neighbours:
    """What other processes take of the cores that this one may use, from now on; of a machine that tells it (Linux).

    The system's load average would not do: a benchmark makes one itself, which stays for minutes.

    Args:
        stat: The kernel's counts.
    """

    def __init__(self, stat: Path = _STAT) -> None:
        self._stat = stat
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._start, self._busy, self._own = time.perf_counter(), self._busy_s(), _own_s()

    def warning(self, threads: int) -> str | None:
        """What is to be said of measurements since then, None if nothing is.

        Args:
            threads: That this process keeps busy; what others do on cores beside these disturbs little.
        """
        others = self.others()
        spare = max(0, len(self._cores) - threads)
        if others is None or others - spare < max(_LEAST_CORES, _LEAST_SHARE * len(self._cores)):
            return None
        return (
            f"busy machine: others took {others:.1f} of {len(self._cores)} cores meanwhile, which slows this down; "
            "measure again when nothing else runs"
        )

    def others(self) -> float | None:
        """Cores that others have taken since then, on average; None where the system does not tell.

        Processes that this one started are its own when they have ended.
        """
        took, busy = time.perf_counter() - self._start, self._busy_s()
        if not took or busy is None or self._busy is None:
            return None
        return (busy - self._busy - (_own_s() - self._own)) / took

    def _busy_s(self) -> float | None:
        """Seconds that these cores have worked for anybody since the system started."""
        names = {f"cpu{core}" for core in self._cores}
        try:
            rows = [line.split() for line in self._stat.read_text(encoding="ascii").splitlines()]
            counts = [[int(count) for count in row[1 : 1 + _COUNTED]] for row in rows if row and row[0] in names]
        except not_thrown_in(OSError, ValueError):
            return None
        if not counts:
            return None
        ticks = sum(count for row in counts for i, count in enumerate(row) if i not in _IDLE)
        return ticks / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    """CPU seconds of this process, and of those that it started and that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system
