"""The built documentation: every notebook has its page, links lead somewhere, formulas are drawn.

Everybody can read it, in light and dark, on a wide screen and a narrow one, and nothing comes from outside.
"""

import functools
import json
import os
import posixpath
import re
import subprocess
import sys
from configparser import ConfigParser
from html.parser import HTMLParser
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import unquote, urlsplit

import names
import pytest
import routine
import yaml

from calibrain._modidx import d

ROOT = Path(__file__).resolve().parent.parent
NBS = sorted(
    p.relative_to(ROOT / "nbs")
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if ".ipynb_checkpoints" not in p.parts
)


def page_of(notebook):
    "The page of a notebook: its number is left out"
    name = re.sub(r"^\d+[a-zA-Z0-9]*_", "", notebook.name)
    return notebook.with_name(name).with_suffix(".html").as_posix()


PAGES = [page_of(p) for p in NBS]
MADE = ["changelog.html", "cite.html", "contributing.html", "gallery.html"]  # by tools/pages.py
ALL = PAGES + MADE
OF_API = [name for name in ALL if name.startswith("api/")]  # they look alike
OTHERS = [name for name in ALL if name not in OF_API]
AXE = Path(os.environ.get("DOCS_JS", ROOT / "node_modules")) / "axe-core/axe.min.js"
MEANT = names.meant(d["syms"])
TEXT = """() => {
    const body = document.body.cloneNode(true);
    body.querySelectorAll('code, pre, script, style, .katex').forEach(e => e.remove());
    return body.textContent;
}"""
FINDINGS = """([options, without]) => axe.run(
    {include: [document], exclude: without.map(e => [e])},
    {resultTypes: ['violations'], ...options},
).then(r => r.violations
    .filter(v => ['serious', 'critical'].includes(v.impact))
    .map(v => `${v.id}: ${v.nodes.slice(0, 3).map(n => n.html.slice(0, 200)).join(' … ')}`))"""
COLOURS = ["color-contrast", "link-in-text-block"]
ONLY_COLOURS = {"runOnly": COLOURS}
BUT_COLOURS = {"rules": {name: {"enabled": False} for name in COLOURS}}
# What pages have in common is looked at on one page of each kind, and on all under `--all`
AROUND = ["nav", "#quarto-header", "#quarto-sidebar", ".katex"]
ALIKE = ["pre", *AROUND]  # of one colour
WHOLE = {
    "api/solvers/gamma_map.html",
    "contributing.html",
    "explanations/evidence.html",
    "explorers/posterior.html",
    "index.html",
    "tutorials/real_recording.html",
}
# What is done on a visit, each on fewer pages: drawn, read by all rules but colours, read again in
# both colours and on a narrow screen
VISITED = {*OTHERS, *routine.some(OF_API, every=3), *WHOLE}
READ = {*OTHERS, *routine.some(OF_API, every=12), *WHOLE}
TWICE = {*routine.some(OTHERS, every=2), *routine.some(OF_API, every=12), *WHOLE}
WIDE = """() => [...document.querySelectorAll('main *')].filter(e => {
    const r = e.getBoundingClientRect();
    if (!r.width || r.right <= innerWidth + 1) return false;
    for (let p = e.parentElement; p && p.tagName !== 'MAIN'; p = p.parentElement)
        if (getComputedStyle(p).overflowX !== 'visible') return false;
    return true;
}).slice(0, 3).map(e => e.outerHTML.slice(0, 120))"""
# Blocks of code, and what of them runs on beyond their right edge
SCROLLING = """() => [...document.querySelectorAll('main div.sourceCode, main div.sourceCode pre')]
    .filter(e => e.scrollWidth > e.clientWidth)
    .map(e => e.innerText.split('\\n').reduce((a, b) => b.length > a.length ? b : a))"""
# Buttons that copy and lie over a line of their block
COVERING = """() => [...document.querySelectorAll('.code-copy-button')].filter(button => {
    const b = button.getBoundingClientRect(), range = document.createRange();
    range.selectNodeContents(button.parentElement.querySelector('code'));
    const meets = r => r.left < b.right && b.left < r.right && r.top + 2 < b.bottom && b.top < r.bottom - 2;
    return [...range.getClientRects()].some(r => r.width && meets(r));
}).map(e => e.parentElement.innerText.slice(0, 60))"""


class Page(HTMLParser):
    """What a page is read for: its links, its anchors, and its pictures

    `figures` has their alternative text and the caption of the figure that holds them.
    """

    def __init__(self, html):
        super().__init__()
        self.links = []
        self.ids = {"", "top"}
        self.figures = []
        self.open = []
        self.in_caption = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[k] for k in ("href", "src") if attrs.get(k)]
        self.ids |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
        if tag == "figure":
            self.open.append([])
        if tag == "img":
            self.figures.append(dict(alt=(attrs.get("alt") or "").strip(), caption=""))
            if self.open:
                self.open[-1].append(self.figures[-1])
        if tag == "figcaption":
            self.in_caption = True

    def handle_endtag(self, tag):
        if tag == "figcaption":
            self.in_caption = False
        if tag == "figure" and self.open:
            self.open.pop()

    def handle_data(self, data):
        if self.in_caption and self.open:
            for f in self.open[-1]:
                f["caption"] += data.strip()


def prose(page):
    "What the notebook of a page says, without its code blocks"
    path = ROOT / "nbs" / NBS[PAGES.index(page)]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    said = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return re.sub(r"(?ms)^```.*?^```", "", said)


@pytest.fixture(scope="session")
def parsed(docs):
    return {
        f.relative_to(docs).as_posix(): Page(f.read_text(encoding="utf-8"))
        for f in docs.rglob("*.html")
    }


@functools.cache  # pages of a folder have most links in common
def target(docs, folder, path):
    "The file that a link of a page in that folder leads to; nothing where none is there"
    file = docs / folder / unquote(path)
    if file.is_dir():
        file /= "index.html"
    if not file.exists() or not file.resolve().is_relative_to(docs):
        return None
    return file.resolve().relative_to(docs).as_posix()


def leads_somewhere(docs, parsed, page, link):
    "Whether a link of a page leads outside, or to a file and a heading that are there"
    u = urlsplit(link)
    if u.scheme or u.netloc:
        return True
    name = target(docs, posixpath.dirname(page), u.path) if u.path else page
    return name is not None and (name not in parsed or unquote(u.fragment) in parsed[name].ids)


@pytest.mark.parametrize("name", ALL)
def test_links(docs, parsed, name):
    links = parsed[name].links
    assert [link for link in links if not leads_somewhere(docs, parsed, name, link)] == []


@pytest.mark.parametrize("name", PAGES)
def test_names_in_backticks_are_links(parsed, name):
    "A name of the package in the prose leads to its documentation, where it means one thing"
    if not entry_points(group="nbdev", name="calibrain"):
        pytest.skip("the package is not installed, and nbdev finds names by its entry point")
    folder = posixpath.dirname(name)
    links = {posixpath.normpath(posixpath.join(folder, link)) for link in parsed[name].links}
    words = set(re.findall(r"`([^`\s]+?)(?:\(\))?`", prose(name)))
    pages = {word: MEANT[word] for word in words if MEANT.get(word)}
    assert {word: page for word, page in pages.items() if page not in links} == {}


NAME_LINK = re.compile(r'<a [^>]*\bhref="([^"]*)"[^>]*><code[^>]*>([^<]+?)(?:\(\))?</code></a>')


@pytest.mark.parametrize("name", ALL)
def test_names_that_may_mean_several_things_are_no_links(docs, name):
    "Nor is what the package shows in their tables; only the author of a page can link them"
    html = (docs / name).read_text(encoding="utf-8")
    written = prose(name) if name in PAGES else ""
    for link, word in NAME_LINK.findall(html):
        assert MEANT.get(word, "") is not None or f"[`{word}`](" in written, (word, link)


@pytest.mark.parametrize("name", ALL)
def test_no_invented_addresses(docs, name):
    cfg = ConfigParser(delimiters=["="])
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    if cfg["DEFAULT"]["git_url"]:
        pytest.skip("settings.ini names a public home")
    html = (docs / name).read_text(encoding="utf-8")
    assert not re.findall(r"example\.org|github\.io|/blob/|Report an issue|View source", html)


@pytest.mark.parametrize("name", ALL)
def test_figures(parsed, name):
    "Every picture says in words what is seen, and has a caption; the two are not the same"
    for f in parsed[name].figures:
        assert f["alt"] and f["caption"] and f["alt"] != f["caption"], f


@pytest.mark.parametrize("name", ALL)
def test_no_error_cell(docs, name):
    assert "cell-output-error" not in (docs / name).read_text(encoding="utf-8")


def test_size(docs):
    "Less than 40 MB, scripts and fonts included"
    assert sum(f.stat().st_size for f in docs.rglob("*") if f.is_file()) < 40e6


def test_sections(docs, parsed):
    "Each section is one click from the home page, and the solvers' table two"
    web = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    assert {"Tutorials", "Explanations", "API"} <= {
        e["section"] for e in web["sidebar"]["contents"] if "section" in e
    }
    assert {"api.html", "benchmarks.html", *MADE} <= {
        posixpath.normpath(urlsplit(x).path) for x in parsed["index.html"].links
    }
    assert "gamma_lambda_map_sflex" in (docs / "api.html").read_text(encoding="utf-8")


def test_one_source_of_the_version():
    "CITATION.cff and CHANGELOG.md speak of the version in settings.ini, and by no other name"
    cfg = ConfigParser(delimiters=["="])
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cff["version"] == cfg["DEFAULT"]["version"]
    assert [a["name"] for a in cff["authors"]] == [cfg["DEFAULT"]["author"]]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"(?m)^## " + re.escape(cff["version"]), changes)


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md", "README.md"])
def test_links_on_a_forge(name):
    "Links of the files that a code forge shows lead to files of the repository"
    text = re.sub(r"(?ms)^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)]*)\)", text):
        u = urlsplit(link)
        assert u.scheme or (ROOT / u.path).exists(), link


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md", "README.md"])
def test_paths_on_a_forge(name):
    "Notebooks that these files name are where they say"
    text = (ROOT / name).read_text(encoding="utf-8")
    for path in re.findall(r"\bnbs/[\w/]+\.ipynb\b", text):
        assert (ROOT / path).exists(), path


def test_a_page_names_the_same_paths(docs):
    "A path in a command is not the name of a page"
    html = (docs / "contributing.html").read_text(encoding="utf-8")
    for path in re.findall(r"\bnbs/[\w/]+\.ipynb\b", html):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", ALL)
def test_headings(docs, name):
    "A name in a heading is written as it is, underscores included"
    html = (docs / name).read_text(encoding="utf-8")
    headings = re.findall(r"(?s)<h[1-6]\b[^>]*>.*?</h[1-6]>", html)
    assert [h for h in headings if re.search(r"<(?:strong|em)\b", h)] == []


@pytest.mark.parametrize("name", ALL)
def test_current_page(docs, name):
    "Of all links only those to the page itself say that it is current"
    html = (docs / name).read_text(encoding="utf-8")
    for tag in re.findall(r'<a\b[^>]*aria-current="page"[^>]*>', html):
        target = urlsplit(re.search(r'href="([^"]*)"', tag)[1]).path
        assert posixpath.normpath(posixpath.join(posixpath.dirname(name), target)) == name, tag


def test_sections_are_wings():
    "A section of the API is a folder of notebooks and of the package, in one piece"
    web = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    api = next(e for e in web["sidebar"]["contents"] if e.get("section") == "API")
    wings = [
        {posixpath.dirname(page) for page in part["contents"]}
        for part in api["contents"]
        if "section" in part
    ]
    assert all(len(folders) == 1 for folders in wings), wings
    folders = [folder for (folder,) in wings]
    assert sorted(folders) == sorted({p.parent.as_posix() for p in NBS if p.parts[0] == "api"})


# ---- words that lead somewhere


def glossary_links(parsed, name):
    "The terms that a page links"
    return [link for link in parsed[name].links if re.search(r"\bglossary\.html#.", link)]


@pytest.mark.parametrize("name", ALL)
def test_glossary_links(parsed, name):
    "A term is linked once on a page, at its first use, and leads to its heading (test_links)"
    links = [link for link in glossary_links(parsed, name) if name != "glossary.html"]
    assert len(links) == len(set(links))


def test_terms_are_linked(docs, parsed):
    "Each page that teaches has terms, and each term is met somewhere; not in code or headings"
    teaching = [name for name in PAGES if name.startswith(("tutorials/", "explanations/"))]
    assert [name for name in teaching if not glossary_links(parsed, name)] == []
    met = {urlsplit(link).fragment for name in PAGES for link in glossary_links(parsed, name)}
    page = (docs / "glossary.html").read_text(encoding="utf-8")
    ids = re.findall(r'<h3\b[^>]*\bid="([^"]+)"', page)
    ids = ids or re.findall(r'<section id="([^"]+)" class="level3"', page)
    assert len(ids) >= 40 and [i for i in ids if i not in {unquote(f) for f in met}] == []
    for name in teaching:
        html = (docs / name).read_text(encoding="utf-8")
        for part in re.findall(r"(?s)<(?:h[1-6]|pre|code)\b.*?</(?:h[1-6]|pre|code)>", html):
            assert "glossary.html#" not in part, name


def test_keywords_are_searched(docs):
    "The index of the search has an entry for each keyword, in words and place of its page"
    entries = json.loads((docs / "search.json").read_text(encoding="utf-8"))
    found = {(entry["href"], entry["section"]) for entry in entries}
    n_words = 0
    for name, path in zip(PAGES, NBS):
        words = re.search(r"(?m)^- keywords: (.+)$", prose(name))
        for word in words[1].split(", ") if words else ():
            n_words += 1
            assert (name, word) in found, path
    assert n_words > 50


def test_llms(docs):
    "llms.txt names every page of a notebook, by a link that leads to it"
    text = (docs / "llms.txt").read_text(encoding="utf-8")
    links = re.findall(r"(?m)^- \[[^\]]+\]\(([^)]+)\)", text)
    assert sorted(links) == sorted(PAGES)
    assert text.startswith("# CaliBrain\n\n> ")


def test_gallery(docs, parsed):
    "A picture for each tutorial that draws, with words for who does not see it, and a way there"
    html = (docs / "gallery.html").read_text(encoding="utf-8")
    cards = re.findall(
        r'<figure class="card-of-page">\s*<a href="([^"]+)"[^>]*><img src="([^"]+)"', html
    )
    shown = {page for page, _ in cards}
    assert shown <= set(PAGES)
    assert {name for name in PAGES if name.startswith("explorers/")} <= shown
    assert sum(name.startswith("tutorials/") for name in shown) > 10
    assert sum(name.startswith("api/viz/") for name in shown) > 15
    for _, picture in cards:
        assert (docs / picture).stat().st_size < 60_000, picture


# ---- in a browser


def visit(page, url):
    page.goto(url, wait_until="load")
    page.wait_for_function("document.readyState === 'complete'")
    return page


IS_DARK = """() => {
    const [red, green, blue] = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
    return red + green + blue < 384;
}"""
SETTLED = """async () => {
    const frame = () => new Promise(requestAnimationFrame);
    const ends = a => a.effect.getComputedTiming().endTime < Infinity;
    await frame(), await frame();
    const begun = document.getAnimations().filter(ends);
    await Promise.all(begun.map(a => a.finished.catch(() => {})));
    await frame(), await frame();
}"""
MARKED_DARK = "was => [document.documentElement, document.body].some(e => e.classList.contains('quarto-dark')) !== was"


def dark(page):
    return page.evaluate(IS_DARK)


def settle(page):
    "Wait until what was begun is drawn: its frames were shown, its transitions have ended"
    page.evaluate(SETTLED)


def switch(page):
    "To the other of light and dark"
    was = dark(page)
    page.locator(".quarto-color-scheme-toggle").first.evaluate("e => e.click()")
    page.wait_for_function(MARKED_DARK, arg=was)
    settle(page)
    assert dark(page) != was


def formulas_are_drawn(page, name):
    assert page.locator(".katex-error").count() == 0
    words = page.evaluate(TEXT)
    formulas = re.findall(r".{0,20}(?:\$[^$\n]+\$|\\[a-zA-Z(\[]).{0,20}", words)
    assert formulas == [], "formulas left as source"
    links = re.findall(r".{0,40}\]\(.{0,40}", words)
    assert links == [], "Markdown left as source"
    if name in PAGES and re.search(r"\$[^$]+\$", prose(name)):
        assert page.locator(".katex").count()


def unread(name, alike):
    "Parts of a page that the rules pass over, as they are read on another"
    return [] if routine.ALL or name in WHOLE else alike


def structure(page, name):
    "What breaks the rules but those of colours"
    return page.evaluate(FINDINGS, [BUT_COLOURS, unread(name, AROUND)])


def colours(page, name):
    return page.evaluate(FINDINGS, [ONLY_COLOURS, unread(name, ALIKE)])


def everybody_can_read_it(page, name):
    "The rules of structure; those of colours in light and in dark, where pages differ"
    page.evaluate(AXE.read_text(encoding="utf-8"))
    assert structure(page, name) == []
    if name in TWICE:
        assert colours(page, name) == [], "light"
        switch(page)
        assert colours(page, name) == [], "dark"


def fits_a_narrow_screen(page):
    page.set_viewport_size(dict(width=390, height=844))
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page scrolls sideways"
    assert page.evaluate(WIDE) == [], "cut off at the right"
    assert page.evaluate(COVERING) == [], "a button covers code"


@pytest.mark.parametrize("name", [name for name in ALL if name in VISITED])
def test_in_a_browser(docs, page, site, name):
    "One visit: formulas, requests, errors, widths, accessibility in light, dark, on a narrow screen"
    if not (docs / "katex").exists():
        pytest.skip("the site has no copy of KaTeX: npm was missing when it was built")
    visit(page, f"{site}/{name}")
    formulas_are_drawn(page, name)
    if name.startswith(("tutorials/", "explanations/")):
        assert page.evaluate(SCROLLING) == [], "code that scrolls sideways at 1280 px"
    assert page.evaluate(COVERING) == [], "a button covers code"
    if AXE.exists() and name in READ:
        everybody_can_read_it(page, name)
    fits_a_narrow_screen(page)
    if AXE.exists() and name in TWICE:
        assert structure(page, name) == [], "390 px"
    assert page.outside == [], "the site needs nothing from the web"
    assert page.errors == [], "errors in the console"
    if not AXE.exists():
        pytest.skip("no axe-core in node_modules: npm was missing; accessibility was not checked")


def test_search(page, site):
    "Typing a solver's name finds its page"
    visit(page, f"{site}/index.html")
    page.get_by_role("searchbox").first.fill("gamma_map_sflex")
    results = page.locator("a.search-result, .aa-Item a")
    results.first.wait_for()
    links = results.evaluate_all("all => all.map(a => a.href)")
    assert any(x.endswith("/api/solvers/gamma_map.html#gamma_map_sflex") for x in links[:5]), links
    results.locator(
        "xpath=self::*[contains(@href, 'api/solvers/gamma_map.html#gamma_map_sflex')]"
    ).first.click()
    page.wait_for_url("**/api/solvers/gamma_map.html#gamma_map_sflex")
    assert page.outside == []


QUESTIONS = {  # What is asked, and where the answer is
    "which solver": "explanations/choosing.html",
    "difference of conditions": "explanations/two_conditions.html",
    "which error bar": "explanations/which_error_bar.html",
    "units": "explanations/units.html",
    "export csv": ("tutorials/real_recording.html", "recording/regions.html", "cheat_sheet.html"),
    "csv export": ("tutorials/real_recording.html", "recording/regions.html", "cheat_sheet.html"),
    "significant difference": "explanations/two_conditions.html",
    "conditions difference": "explanations/two_conditions.html",
    "p value": "explanations/two_conditions.html",
    "convert units": "explanations/units.html",
    "volts": "explanations/units.html",
    "anatomical labels": ("recording/labels.html", "tutorials/regions_and_contrasts.html"),
    "which solver should I use": "explanations/choosing.html",
    "compare cost": "explanations/choosing.html",
    "interactive": ("explorers/brain.html", "explorers/region.html"),
}


@pytest.fixture(scope="module")
def home(browser, site):
    "The home page, whose search reads its index once for all questions"
    page = browser.new_page()
    yield visit(page, f"{site}/index.html")
    page.close()


@pytest.mark.parametrize("words", QUESTIONS)
def test_search_answers(home, words):
    "Who asks a question finds the page that answers it among the first three"
    results = home.locator("a.search-result, .aa-Item a")
    asked = home.get_by_role("searchbox").first
    asked.fill("")
    results.first.wait_for(state="hidden")
    asked.fill(words)
    results.first.wait_for()
    links = results.evaluate_all("all => all.map(a => a.href)")
    pages = [urlsplit(link).path for link in links]
    assert len(pages) == len(set(pages)), "a page is shown once"
    answers = (QUESTIONS[words],) if isinstance(QUESTIONS[words], str) else QUESTIONS[words]
    assert any(path.endswith(answers) for path in pages[:3]), links


def test_search_from_a_file(browser, docs):
    "Opened from disk, where a page may not read the index, the search says what it needs"
    page = browser.new_page()
    page.goto((docs / "index.html").as_uri(), wait_until="load")
    page.locator(".smalldocs-search input, input[type=search]").first.fill("which solver")
    page.get_by_text("python tools/docs.py --kept --serve").last.wait_for()
    assert page.locator(".no-search").first.is_visible()
    page.close()


def test_light_and_dark(page, site):
    "The switch is reached with the keyboard, and remembered on the next page; figures keep their white ground"
    visit(page, f"{site}/index.html")
    assert not dark(page)
    page.locator(".quarto-color-scheme-toggle").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(IS_DARK)
    visit(page, f"{site}/tutorials/source_estimation.html")
    assert dark(page)
    ground = "getComputedStyle(document.querySelector('main figure img')).backgroundColor"
    assert page.evaluate(ground) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_system_chooses(page, site, scheme):
    "Who has set the system to dark reads in the dark, until the switch says otherwise"
    page.emulate_media(color_scheme=scheme)
    visit(page, f"{site}/index.html")
    assert dark(page) == (scheme == "dark")
    switch(page)
    visit(page, f"{site}/api.html")
    assert dark(page) == (scheme == "light")


def test_menus_on_a_narrow_screen(page, site):
    "At 390 px the pages, the bar and the search are one press away"
    page.set_viewport_size(dict(width=390, height=844))
    visit(page, f"{site}/index.html")
    bar = page.locator("#navbarCollapse")
    sidebar = page.locator("#quarto-sidebar")
    page.locator(".navbar-toggler").click()
    bar.get_by_text("Benchmarks").wait_for()
    assert page.get_by_role("searchbox").first.is_visible()
    page.wait_for_timeout(500)
    page.locator(".navbar-toggler").click()
    bar.get_by_text("Benchmarks").wait_for(state="hidden")
    page.locator(".quarto-btn-toggle").first.click()
    page.wait_for_function("""() => {
        const box = document.querySelector('#quarto-sidebar').getBoundingClientRect();
        return box.left >= 0 && box.right <= 390;
    }""")
    sidebar.get_by_role("link", name="Uncertainty").click()
    page.wait_for_url("**/tutorials/uncertainty.html")


def test_sidebar_with_the_keyboard(page, site):
    "A folded section is reached with Tab and opens with Enter"
    visit(page, f"{site}/index.html")
    sidebar = page.locator("#quarto-sidebar")
    link = sidebar.locator("a[href='api/calibration/coverage.html']")
    assert not link.is_visible()
    sidebar.get_by_role("button", name="Calibration").focus()
    page.keyboard.press("Enter")
    link.wait_for()


# ---- without a browser


def test_without_chromium(docs):
    "Tests that need it are skipped, and say why"
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/test_site.py", "-k", "test_search"],
        cwd=ROOT,
        env=os.environ | {"PATH": str(Path(sys.executable).parent)},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0 and "no Chromium on PATH" in done.stdout, done.stdout
