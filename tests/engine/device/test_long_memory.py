"""Memory that a long document takes is given back."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.artifacts import make_artifact

_SCORE = """
import sys
from crossrank import CrossEncoder
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
model = CrossEncoder(sys.argv[1], threads=2)
model.rank("the sea", ["a ship"])
before = resident()
for words in (3900, 3000, 3500, 3700):
    model.rank("the sea", ["the ship " * (words // 2)])
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_long_documents_leave_no_memory_behind(tmp_path: Path) -> None:
    """Each of two sessions would keep what it had for each length, 40 MB a document here."""
    artifact = make_artifact(tmp_path / "artifact", "modernbert", max_length=4096, hidden_size=256)
    done = subprocess.run([sys.executable, "-c", _SCORE, str(artifact)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60
