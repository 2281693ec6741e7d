"The built documentation: every notebook has its page, links lead somewhere, formulas are drawn, nothing comes from outside."
import json
import posixpath
import re
from configparser import ConfigParser
from html.parser import HTMLParser
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from calibrain._modidx import d

ROOT = Path(__file__).resolve().parent.parent
NBS = sorted(p.relative_to(ROOT / "nbs") for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
PAGES = [p.with_name(re.sub(r"^\d+[a-zA-Z0-9]*_", "", p.name)).with_suffix(".html").as_posix() for p in NBS]
SYMBOLS = {}
for module, names in d["syms"].items():
    for full, (target, _) in names.items(): SYMBOLS.setdefault(full.removeprefix(module + "."), []).append(target)
TEXT = """() => {
    const body = document.body.cloneNode(true);
    body.querySelectorAll('code, pre, script, style, .katex').forEach(e => e.remove());
    return body.textContent;
}"""


class Links(HTMLParser):
    "The links and the anchors of a page"
    def __init__(self, html):
        super().__init__()
        self.links, self.ids = [], {"", "top"}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[k] for k in ("href", "src") if attrs.get(k)]
        self.ids |= {attrs[k] for k in ("id", "name") if attrs.get(k)}


def prose(page):
    "What the notebook of a page says, without its code blocks"
    cells = json.loads((ROOT / "nbs" / NBS[PAGES.index(page)]).read_text(encoding="utf-8"))["cells"]
    return re.sub(r"(?ms)^```.*?^```", "", "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown"))


@pytest.fixture(scope="session")
def parsed(docs): return {f.relative_to(docs).as_posix(): Links(f.read_text(encoding="utf-8")) for f in docs.rglob("*.html")}


def broken(docs, parsed, page):
    "The links of a page to files or headings that are not there"
    for link in parsed[page].links:
        u = urlsplit(link)
        if u.scheme or u.netloc: continue
        f = (docs / page).parent / unquote(u.path) if u.path else docs / page
        if f.is_dir(): f /= "index.html"
        name = f.resolve().relative_to(docs).as_posix() if f.resolve().is_relative_to(docs) else None
        if name is None or not f.exists() or (name in parsed and unquote(u.fragment) not in parsed[name].ids): yield link


@pytest.mark.parametrize("name", PAGES)
def test_links(docs, parsed, name): assert list(broken(docs, parsed, name)) == []


@pytest.mark.parametrize("name", PAGES)
def test_names_in_backticks_are_links(parsed, name):
    "A public name of the package in the prose leads to its documentation"
    if not entry_points(group="nbdev", name="calibrain"): pytest.skip("the package is not installed, and nbdev finds names by its entry point")
    for word in {w for w in re.findall(r"`([^`\s]+?)(?:\(\))?`", prose(name)) if w in SYMBOLS}:
        assert any(posixpath.normpath(posixpath.join(posixpath.dirname(name), link)) in SYMBOLS[word] for link in parsed[name].links), word


@pytest.mark.parametrize("name", PAGES)
def test_no_invented_addresses(docs, name):
    cfg = ConfigParser(delimiters=["="])
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    if cfg["DEFAULT"]["git_url"]: pytest.skip("settings.ini names a public home")
    html = (docs / name).read_text(encoding="utf-8")
    assert not re.findall(r"example\.org|github\.io|/blob/|Report an issue|View source", html)


@pytest.mark.parametrize("name", PAGES)
def test_in_a_browser(docs, page, site, name):
    if not (docs / "katex").exists(): pytest.skip("the site has no copy of KaTeX: npm was missing when it was built")
    page.goto(f"{site}/{name}", wait_until="networkidle")
    assert page.outside == [], "the site needs nothing from the web"
    assert page.locator(".katex-error").count() == 0
    raw = re.findall(r".{0,20}(?:\$[^$\n]+\$|\\[a-zA-Z(\[]).{0,20}", page.evaluate(TEXT))
    assert raw == [], "formulas left as source"
    if re.search(r"\$[^$]+\$", prose(name)): assert page.locator(".katex").count()
