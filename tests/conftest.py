"Chromium, and the built documentation served to it; a test that needs what this machine lacks is skipped, and says so."

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest
import routine

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH")
    with sync_api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield b
        b.close()


@pytest.fixture
def page(browser):
    "A page that notes in `page.outside` every request to another machine, and in `page.errors` what goes wrong in it"
    pg = browser.new_page(
        viewport=dict(width=1280, height=900), color_scheme="light", reduced_motion="reduce"
    )
    pg.outside, pg.errors = [], []
    pg.on("pageerror", lambda e: pg.errors.append(str(e)))
    pg.on(
        "console",
        lambda m: (
            pg.errors.append(m.text)
            if m.type == "error" and "favicon" not in str(m.location)
            else None
        ),
    )
    pg.on(
        "request",
        lambda r: (
            None
            if r.url.startswith(("http://127.0.0.1:", "data:", "blob:"))
            else pg.outside.append(r.url)
        ),
    )
    yield pg
    pg.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def docs():
    "The folder of the built documentation"
    if not (ROOT / "_docs/index.html").exists():
        pytest.skip("documentation not built: python tools/docs.py")
    return ROOT / "_docs"


@pytest.fixture(scope="session")
def site(docs):
    "The address of the built documentation"
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=docs)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# ---- what a run left out


def pytest_sessionfinish(session):
    "A worker of pytest-xdist tells its controller what it left out"
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left"] = routine.LEFT


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    routine.LEFT.update(getattr(node, "workeroutput", {}).get("left", {}))


def pytest_terminal_summary(terminalreporter):
    if line := routine.left_out(routine.LEFT):
        terminalreporter.write_line(line, yellow=True)
