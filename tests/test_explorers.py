"""Every explorer in a real browser: live in voila, with a kernel; static on the site, without.

Each control is moved to each of its values once, from the start; the picture, or the sentence in
its place, has to change. With a kernel a part of the explorers is moved, the others under `--all`:
what a page without one does not have is common to all of them (calibrain/explorers/base.py).
"""

import contextlib
import gc
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import MappingProxyType

import pytest
from matplotlib.figure import Figure
from routine import some

from calibrain import explorers
from calibrain.explorers import Control, Explorer, Impossible
from calibrain.explorers.rendered import png

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "nbs/explorers").glob("*.ipynb"))
PUBLIC = [getattr(explorers, name) for name in explorers.__all__]
KINDS = [e for e in PUBLIC if isinstance(e, type) and issubclass(e, Explorer)]
CLASSES = [e for e in KINDS if e is not Explorer]
every_page = pytest.mark.parametrize("notebook", PAGES, ids=lambda p: p.stem)
PATIENCE = 180  # s; the longest that is drawn are twenty runs of a sampler, beside other work
SETTLED = "() => !document.body.innerText.includes('Drawing …')"
# Read in one step, since a live picture may go between two: its source, or nothing where none is seen
SEEN = """root => {
  const image = root.querySelector('img');
  return image && image.checkVisibility() ? image.src : '';
}"""


def explorer_of(notebook):
    "The class that a page shows"
    content = notebook.read_text(encoding="utf-8")
    found = [c for c in CLASSES if re.search(rf'"{c.__name__}\([a-z]*\)"', content)]
    assert len(found) == 1, f"{notebook.name}: one cell with an explorer alone"
    return found[0]


def test_every_explorer_has_a_page():
    shown = [explorer_of(page).__name__ for page in PAGES]
    assert sorted(shown) == sorted(c.__name__ for c in CLASSES)


# ---- as an object


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
def test_controls_are_labelled(kind):
    for c in kind().controls.values():
        assert c.label and len(c.static) > 1
        assert c.is_menu or list(c.values) == sorted(c.values), "a slider goes from low to high"
    assert kind.title.endswith("."), "a sentence"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
def test_draws_are_pure(kind):
    "The same values give the same picture, whatever was drawn before"
    e = kind()
    picture = e.draw(**e.start)
    assert picture.figure.get_layout_engine() is None, "which takes as long as the picture"
    before = png(picture)
    name = list(e.controls)[-1]
    others = [v for v in e.controls[name].values if v != e.start[name]]
    with contextlib.suppress(Impossible):
        e.draw(**e.start | {name: others[0]})
    assert png(e.draw(**e.start)) == before == png(kind().draw(**e.start))


def test_garbage_is_collected_later():
    "… and as usual afterwards, also where there is no picture"
    usual = gc.get_threshold()
    during = []

    class Watching(Explorer):
        title = "Nothing."
        controls = MappingProxyType(dict(shown=Control("shown", ("yes", "no"), start="yes")))

        def draw(self, shown):
            during.append(gc.get_threshold())
            if shown == "no":
                raise Impossible("Nothing to be seen.")
            return Figure(figsize=(2, 2))

    live = Watching().widget()
    live.children[0].value = "no"
    assert len(during) == 2 and all(found[0] > 10 * usual[0] for found in during)
    assert gc.get_threshold() == usual


# ---- in a browser


class View:
    "An explorer on a page, live or static: how to move its controls and what it shows"

    def __init__(self, page, root):
        self.page = page
        self.root = root

    @property
    def shown(self):
        "The picture, where one is seen, and the sentence"
        return self.root.evaluate(SEEN), self.sentence

    @property
    def image(self):
        return self.root.locator("img").first

    @property
    def menus(self):
        return self.root.locator("select")

    def options(self, menu):
        return menu.locator("option").all_inner_texts()

    def choose(self, menu, option):
        menu.select_option(label=option)

    def changes(self, before):
        "Wait until the picture or the sentence is another"
        end = time.time() + PATIENCE
        while time.time() < end:
            self.page.wait_for_function(SETTLED, timeout=1000 * PATIENCE)
            now = self.shown
            if now != before and any(now) and now[1] != "Drawing …":
                return now
            self.page.wait_for_timeout(50)
        raise AssertionError("nothing changed")


class Live(View):
    @property
    def sentence(self):
        texts = self.root.locator(".widget-html-content:not(:has(figure))").all_inner_texts()
        return " ".join(t for t in texts if t.strip())

    @property
    def sliders(self):
        return self.root.locator(".noUi-handle")

    def drag(self, slider, end):
        track = slider.locator("xpath=ancestor::*[contains(@class, 'noUi-base')]")
        box = track.bounding_box()
        handle = slider.bounding_box()
        middle = box["y"] + box["height"] / 2
        mouse = self.page.mouse
        mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
        mouse.down()
        mouse.move(box["x"] + box["width"] * end, middle, steps=6)
        mouse.up()

    def at_end(self, slider, end):
        last = slider.get_attribute("aria-valuemax" if end else "aria-valuemin")
        return float(slider.get_attribute("aria-valuenow")) == float(last)


class Static(View):
    @property
    def sentence(self):
        return self.root.locator("[role=status]").inner_text().strip()

    @property
    def sliders(self):
        return self.root.locator("input[type=range]")

    def drag(self, slider, end):
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        middle = box["y"] + box["height"] / 2
        mouse = self.page.mouse
        mouse.move(box["x"] + box["width"] / 2, middle)
        mouse.down()
        mouse.move(box["x"] + (box["width"] - 2) * end + 1, middle, steps=6)
        mouse.up()

    def at_end(self, slider, end):
        return slider.input_value() == slider.get_attribute("max" if end else "min")


def drive(view):
    "Move every control to each of its ends and options, with Reset between; how many there are"
    start = view.shown
    reset = view.root.get_by_role("button", name="Reset")
    assert start[0] and not start[1], "a picture to begin with"
    for slider, end in itertools.product(view.sliders.all(), (0, 1)):
        if not view.at_end(slider, end):
            view.drag(slider, end)
            view.changes(start)
            assert view.at_end(slider, end)
            back(view, reset, start)
    for menu in view.menus.all():
        first = menu.evaluate("m => m.options[m.selectedIndex].text")
        others = [option for option in view.options(menu) if option != first]
        for option in others:
            view.choose(menu, option)
            view.changes(start)
            back(view, reset, start)
    return view.sliders.count() + view.menus.count()


def back(view, reset, start):
    "Reset shows the first picture again"
    reset.click()
    end = time.time() + 60
    while view.shown != start and time.time() < end:
        view.page.wait_for_timeout(50)
    assert view.shown == start


def keyboard(view):
    "An arrow key moves the slider that has the focus"
    start = view.shown
    slider = view.sliders.first
    slider.focus()
    view.page.keyboard.press("ArrowLeft" if view.at_end(slider, 1) else "ArrowRight")
    view.changes(start)


@pytest.fixture
def messages(page):
    "What the page complains of in the browser's console"
    found = []
    page.on("console", lambda m: found.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: found.append(str(e)))
    return found


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(url):
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(url, timeout=5))


def as_looked_at(notebook):
    "A page without its hidden cells: they check what it says, where the site is built"
    page = json.loads(notebook.read_text(encoding="utf-8"))
    hidden = re.compile(r"#\|\s*hide\s*$", re.MULTILINE)
    page["cells"] = [c for c in page["cells"] if not hidden.match("".join(c["source"]))]
    return page


@pytest.fixture(scope="session")
def voila(browser, tmp_path_factory):
    "The address of one voila, which serves all explorers"
    folder = tmp_path_factory.mktemp("explorers")
    for notebook in PAGES:
        page = json.dumps(as_looked_at(notebook))
        (folder / notebook.name).write_text(page, encoding="utf-8")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = [f"--port={port}", "--Voila.ip=127.0.0.1", "--ServerApp.log_level=ERROR"]
    server = subprocess.Popen(
        [sys.executable, "-m", "voila", folder, "--no-browser", *options],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"),
    )
    end = time.time() + 60
    while not answers(url) and time.time() < end:
        assert server.poll() is None, "voila did not start"
        time.sleep(0.25)
    yield url
    server.terminate()
    server.wait(20)


ICONS = "**/fontawesome-free*/**"  # a font that voila's own page takes from the web


@pytest.mark.parametrize("notebook", some(PAGES, every=3), ids=lambda p: p.stem)
def test_live(page, messages, voila, notebook):
    page.route(ICONS, lambda route: route.fulfill(body="", content_type="text/css"))
    page.set_default_timeout(120_000)  # a kernel beside other work may take its time
    page.goto(f"{voila}/voila/render/{notebook.name}", timeout=180_000)
    page.locator("img").first.wait_for(timeout=120_000)
    page.wait_for_function(SETTLED)
    root = page.locator(".widget-vbox").first
    view = Live(page, root)
    assert drive(view) == len(explorer_of(notebook).controls)
    keyboard(view)
    assert "Traceback" not in page.inner_text("body") and "Error" not in root.inner_text()
    assert messages == []


def site_name(notebook):
    return re.sub(r"^\d+_", "", notebook.stem) + ".html"


@every_page
def test_static(page, messages, site, notebook):
    page.goto(f"{site}/explorers/{site_name(notebook)}")
    page.locator(".explorer[data-ready]").wait_for()
    root = page.locator(".explorer").first
    view = Static(page, root)
    assert drive(view) == len(explorer_of(notebook).controls)
    keyboard(view)
    assert messages == [] and page.outside == []


@every_page
def test_static_pictures_have_words(page, site, notebook):
    "The alternative text says what is seen and for which values, and follows the controls"
    page.goto(f"{site}/explorers/{site_name(notebook)}")
    view = Static(page, page.locator(".explorer").first)
    e = explorer_of(notebook)
    before = view.image.get_attribute("alt")
    assert before.startswith(e.title)
    assert all(c.text(c.start) in before for c in e.controls.values())
    keyboard(view)
    assert view.image.get_attribute("alt") != before
    assert page.locator(".explorer figcaption").first.inner_text().strip() == e.title
