"""Several processes on one port."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")

import httpx
from prometheus_client.parser import text_string_to_metric_families

from crossrank import InputError
from crossrank._cli.main import main
from crossrank.serve._workers import Peers, shares
from tests.support.serving import DOCUMENTS, QUERY, WAIT_S, process

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="no two cores to pin workers to"
)
BODY = {"query": QUERY, "documents": DOCUMENTS}


def requests(url: str) -> dict[str, float]:
    """How many each worker has answered."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    (family,) = (family for family in families if family.name == "crossrank_http_requests")
    found: dict[str, float] = {}
    for sample in family.samples:
        found[sample.labels["worker"]] = found.get(sample.labels["worker"], 0) + sample.value
    return found


def test_workers_share_a_port_and_a_scrape_tells_of_all() -> None:
    with process("--workers", "2") as (running, url):
        end = time.monotonic() + WAIT_S
        while len(requests(url)) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        answered = 0
        while min(requests(url).values()) == 0 and time.monotonic() < end:
            threads = [
                threading.Thread(target=lambda: httpx.post(f"{url}/v1/rerank", json=BODY).raise_for_status())
                for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            answered += 8
            time.sleep(1.1)
        assert sum(requests(url).values()) == answered
        assert all(count > 0 for count in requests(url).values())
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(children[0]), signal.SIGKILL)  # it is started again
        while time.monotonic() < end:
            now = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
            if len(now) == 2 and children[0] not in now and len(requests(url)) == 2:
                break
            time.sleep(0.1)
        assert httpx.post(f"{url}/v1/rerank", json=BODY).status_code == 200
        assert len(requests(url)) == 2
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_a_worker_that_cannot_start_ends_all(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        assert main(["serve", "--port", "0", "--workers", "2", f"{tmp_path}/absent"]) == 1
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
    assert "error: " in capfd.readouterr().err


def test_cores_are_shared_out() -> None:
    assert shares([3, 5, 7], 3) == [[3], [5], [7]]
    with pytest.raises(InputError, match="--workers 4"):
        shares([3, 5, 7], 4)


def test_metrics_of_all_are_one_page(tmp_path: Path) -> None:
    one, two = (Peers(tmp_path, i) for i in range(2))
    text = b'# HELP a_total as\n# TYPE a_total counter\na_total{b="c"} %d.0\n'
    one.tell(text % 1)
    two.tell(text % 2)
    joined = one.joined(text % 3).decode()
    assert joined.count("# TYPE") == 1
    assert 'a_total{b="c",worker="0"} 3.0' in joined
    assert 'a_total{b="c",worker="1"} 2.0' in joined


def test_a_folder_that_cannot_be_written_ends_no_worker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Peers(tmp_path / "gone", 0).tell(b"")
    assert "metrics are not told" in caplog.text


def test_workers_end_when_who_started_them_is_killed() -> None:
    with process("--workers", "2") as (running, url):
        running.kill()
        running.wait()
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                httpx.get(f"{url}/health")
            except httpx.TransportError:
                break
            time.sleep(0.1)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
