"""The page at ``/`` in a real browser: by keyboard, with a file, two models, a key, light and dark.

CROSSRANK_TEST_SCREENSHOT names a file to keep a picture of it in, which is how docs/serve-page.png was made.
"""

import base64
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")

import httpx

from crossrank import CrossEncoder
from crossrank.serve import create_app
from tests.support.serving import ANSWER, DOCUMENTS, QUERY, WAIT_S, serving

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not (DRIVER and BROWSER), reason="chromium and chromedriver are not installed")
TAB, ENTER = "\ue004", "\ue007"


class Browser:
    """A session of chromedriver, by its protocol."""

    def __init__(self, client: httpx.Client, session: str) -> None:
        self._client, self._session = client, session

    def do(self, method: str, path: str, **body: Any) -> Any:
        answer = self._client.request(
            method, f"/session/{self._session}/{path}", json=body if method == "POST" else None
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]

    def run(self, script: str, *arguments: Any) -> Any:
        return self.do("POST", "execute/sync", script=script, args=list(arguments))

    def element(self, selector: str) -> str:
        found = self.do("POST", "element", **{"using": "css selector", "value": selector})
        return str(next(iter(found.values())))

    def type(self, selector: str, text: str) -> None:
        self.do("POST", f"element/{self.element(selector)}/value", text=text)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def wait(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < end, self.text("body")
            time.sleep(0.02)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert DRIVER is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S, trust_env=False) as client:
            end = time.monotonic() + WAIT_S
            while time.monotonic() < end:
                try:
                    client.get("/status")
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            flags = [
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--window-size=1100,900",
            ]
            flags.append(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
            options = {"binary": BROWSER, "args": flags}
            wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
            session = client.post("/session", json=wanted).json()["value"]["sessionId"]
            yield Browser(client, session)
            client.delete(f"/session/{session}")
    finally:
        driver.terminate()
        driver.wait(30)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    model = CrossEncoder(threads=1)
    with serving(create_app({"first": model, "second": model})) as client:
        yield str(client.base_url)


def open_page(browser: Browser, url: str) -> None:
    browser.do("POST", "url", url=url)
    browser.wait(lambda: browser.run("return document.querySelectorAll('[name=model]').length") == 2)


def test_a_ranking_by_keyboard_of_two_models_side_by_side(browser: Browser, url: str) -> None:
    open_page(browser, url)
    browser.type("#query", QUERY)
    browser.type("#passages", "\n".join([*DOCUMENTS, "word " * 600]))
    browser.type("#query", ENTER)
    browser.wait(lambda: browser.text("#status") == "Ranked 4 passages")
    tables = browser.run(
        "return [...document.querySelectorAll('table')].map(t => [t.caption.textContent, t.rows[1].textContent])"
    )
    assert [caption.partition(":")[0] for caption, _ in tables] == ["first", "second"]
    assert all(ANSWER in row and row.startswith("1") and " ms" in caption for caption, row in tables)
    assert "(truncated)" in browser.text("#rankings")
    lefts = browser.run("return [...document.querySelectorAll('table')].map(t => t.getBoundingClientRect().left)")
    assert lefts[0] < lefts[1]
    if picture := os.environ.get("CROSSRANK_TEST_SCREENSHOT"):
        browser.run("document.getElementById('passages').value = arguments[0]", "\n".join(DOCUMENTS))
        browser.type("#query", ENTER)
        browser.wait(lambda: browser.text("#status") == "Ranked 3 passages")
        size = {"width": 1100, "height": 850, "deviceScaleFactor": 1, "mobile": False}
        browser.do("POST", "goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=size)
        Path(picture).write_bytes(base64.b64decode(browser.do("GET", "screenshot")))


def test_every_control_has_a_name_and_is_reached_by_tab(browser: Browser, url: str) -> None:
    open_page(browser, url)
    unnamed = browser.run(
        "return [...document.querySelectorAll('input,textarea')].filter(e => !e.labels.length).map(e => e.id)"
    )
    assert unnamed == []
    seen = []
    browser.run("document.activeElement.blur()")
    for _ in range(9):
        browser.do("POST", "actions", actions=[_key(TAB)])
        seen.append(browser.run("return document.activeElement.id || document.activeElement.tagName"))
    assert seen[2:5] == ["query", "passages", "file"]
    assert {"SUMMARY", "BUTTON", "A"} <= set(seen)
    assert browser.run("return document.documentElement.lang") == "en"
    assert browser.run("return document.getElementById('status').getAttribute('role')") == "status"


def _key(key: str) -> dict[str, Any]:
    return {
        "type": "key",
        "id": "keyboard",
        "actions": [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}],
    }


def test_a_file_of_jsonl_becomes_passages(browser: Browser, url: str, tmp_path: Path) -> None:
    file = tmp_path / "passages.jsonl"
    file.write_text('"one\\ntwo"\n{"text": "three"}\n')
    open_page(browser, url)
    browser.type("#file", str(file))
    browser.wait(lambda: browser.text("#status") == "Read passages.jsonl")
    assert browser.run("return document.getElementById('passages').value") == "one two\nthree"


def test_texts_are_shown_as_texts(browser: Browser, url: str) -> None:
    open_page(browser, url)
    browser.type("#query", "q")
    browser.type("#passages", "<img src=x onerror=document.title='run'>")
    browser.type("#query", ENTER)
    browser.wait(lambda: browser.text("#status") == "Ranked 1 passages")
    assert browser.run("return document.title") == "crossrank"
    assert browser.run("return document.querySelectorAll('img').length") == 0


def test_light_and_dark_have_enough_contrast(browser: Browser, url: str) -> None:
    found = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.do("POST", "goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"features": features})
        open_page(browser, url)
        script = "return matchMedia('(prefers-color-scheme: dark)').matches + getComputedStyle(document.body).color"
        found.append(browser.run(script))
    assert found == ["falsergb(0, 0, 0)", "truergb(255, 255, 255)"]


def test_a_key_is_asked_for(browser: Browser) -> None:
    with serving(create_app({"mini": CrossEncoder(threads=1)}, api_keys=["a-key"])) as client:
        browser.do("POST", "url", url=str(client.base_url))
        browser.wait(lambda: browser.text("#status") == "A key is needed: see Options")
        browser.run("document.querySelector('details').open = true")
        for selector, text in (("#key", "a-key"), ("#query", "q"), ("#passages", "one"), ("#query", ENTER)):
            browser.type(selector, text)
        browser.wait(lambda: browser.text("#status") == "Ranked 1 passages")


def test_the_api_s_page_shows_every_path(browser: Browser, url: str) -> None:
    browser.do("POST", "url", url=f"{url}/docs")
    browser.wait(lambda: "/v2/rerank" in browser.text("#paths"))
    assert "relevant_spans" in browser.text("#paths")
