"""A home of its own for every run; Chromium, and the built documentation served to it.

A test that needs what this machine lacks is skipped, and says so.
"""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import apart
import pytest
import routine

apart.enter()  # before a test imports what reads settings and caches

ROOT = Path(__file__).resolve().parent.parent
# The shell has no window to draw, and needs half as long
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def published_package():
    "An interpreter with calibrain 1.0.3, where there is one"
    from benchmarks.peers import Absent, python, versions

    where = Path(os.environ.get("CALIBRAIN_PEER", ROOT / "benchmarks/.peer"))
    try:
        versions(where)
    except Absent as e:
        pytest.skip(f"no published package at {where} (set CALIBRAIN_PEER): {e}")
    return python(where)


# ---- in a browser: one browser and one server for all pages


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH")
    with sync_api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield b
        b.close()


LOCAL = ("http://127.0.0.1:", "data:", "blob:")


@pytest.fixture
def page(browser):
    "A page that notes requests to another machine in `outside`, and in `errors` what goes wrong"
    pg = browser.new_page(
        viewport=dict(width=1280, height=900), color_scheme="light", reduced_motion="reduce"
    )
    pg.outside = []
    pg.errors = []

    def on_console(message):
        if message.type == "error" and "favicon" not in str(message.location):
            pg.errors.append(message.text)

    def on_request(request):
        if not request.url.startswith(LOCAL):
            pg.outside.append(request.url)

    pg.on("pageerror", lambda error: pg.errors.append(str(error)))
    pg.on("console", on_console)
    pg.on("request", on_request)
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
    handler = functools.partial(Quiet, directory=docs)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# ---- two workers: what takes longest begins first


# Files that take minutes, the longest first. `--dist loadfile` gives each file to one worker, which
# prepares once what its tests share: a browser, a server, heads, runs of a sampler
FIRST = [
    "test_site.py",
    "test_explorers.py",
    "test_explorer_pictures.py",
    "test_benchmarks.py",
    "test_spike_slab.py",
    "test_volumes.py",
    "test_demo.py",
    "test_estimate_subjects.py",
    "test_templates.py",
    "test_solvers.py",
    "test_coverage.py",
    "test_package.py",
    "test_evoked.py",
    "test_cortex.py",
    "test_noise_only.py",
    "test_leaderboard.py",
    "test_help.py",
]


def pytest_configure(config):
    "pytest-xdist would begin with the files of most tests, and end with a few that take minutes"
    config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(FIRST)))


# ---- an MNE-Python that has no MEG sensors: before 1.12


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(call):
    "A test that needs them is skipped, in the words in which the package refuses"
    import mne  # not before `apart.enter`

    error = call.excinfo
    if error is None or hasattr(mne.channels, "read_meg_canonical_info"):
        return
    words = str(error.value)
    if error.errisinstance(ImportError) and words.startswith("template MEG heads need MNE-Python"):
        skipped = pytest.skip.Exception(words).with_traceback(error.tb)
        call.excinfo = pytest.ExceptionInfo.from_exception(skipped)


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
