"Each mend of tools/mend.py on what nbdev, smalldocs or Quarto writes: the everyday build never sees Quarto."

import os
import re
from pathlib import Path

import docs as builder
import mend
import pytest
import words

ROOT = Path(__file__).resolve().parent.parent
AXE = Path(os.environ.get("DOCS_JS", ROOT / "node_modules")) / "axe-core/axe.min.js"
NBS = ROOT / "nbs"

HERE = "api/solvers/evidence.html"
QUARTO = (Path(__file__).parent / "quarto_page.html").read_text(encoding="utf-8")
MENDED = mend.page(QUARTO, HERE)
MISTAKEN = {"peak": None, "draw": "api/viz/pictures.html#draw"}
LINKS = mend.Links({"07_bmn.ipynb": "bmn.ipynb"}, "/", has_source=False, mistaken=MISTAKEN)


# ---- words of the glossary

TERMS = """### Credible set

(credible sets) An ellipsoid.

### On

(source is on) Not zero.

### Source variance γ

(γ) A variance.
"""
GLOSSARY = words.Glossary(words.terms(dict(cells=[dict(cell_type="markdown", source=TERMS)])))
SET = "/glossary.html#credible-set"


@pytest.mark.parametrize(
    ("written", "linked"),
    [
        ("A credible set, and credible sets.", f"A [credible set]({SET}), and credible sets."),
        ("Credible sets begin.", f"[Credible sets]({SET}) begin."),
        ("incredible sets", "incredible sets"),
        ("## Credible set\n\nOne.", "## Credible set\n\nOne."),
        ("# Title\n\na credible set", f"# Title\n\na [credible set]({SET})"),
        ("`credible set`, $credible set$", "`credible set`, $credible set$"),
        ("$$\ncredible set\n$$", "$$\ncredible set\n$$"),
        ("[a credible set](x.ipynb)", "[a credible set](x.ipynb)"),
        ('<b title="credible set">', '<b title="credible set">'),
        ("<figure>\na credible set\n</figure>", "<figure>\na credible set\n</figure>"),
        ("```\ncredible set\n```\n", "```\ncredible set\n```\n"),
        ("On it, a source is on.", "On it, a [source is on](/glossary.html#on)."),
        ("a variance γ, not Γ", "a variance [γ](/glossary.html#source-variance-γ), not Γ"),
        ("x\n\n## References\n\nA credible set.", "x\n\n## References\n\nA credible set."),
    ],
)
def test_terms_of_the_glossary(written, linked):
    GLOSSARY.new_page()
    assert GLOSSARY.link(written) == linked


def test_a_term_is_linked_once_on_a_page():
    GLOSSARY.new_page()
    assert "](" in GLOSSARY.link("a credible set") and "](" not in GLOSSARY.link("a credible set")
    GLOSSARY.new_page()
    assert "](" in GLOSSARY.link("a credible set")


# ---- Markdown


@pytest.mark.parametrize(
    ("written", "mended"),
    [
        (
            "a [[`Leadfield`](/api/head/leadfield.html#leadfield)](../head/01_leadfield.ipynb) needs no `n_orient`",
            "a [`Leadfield`](../head/01_leadfield.ipynb) needs no `n_orient`",
        ),
        (
            "[what [`a`](/x.html#a) and [`b`](/x.html#b) share](y.ipynb), and [`c`](/x.html#c)",
            "[what `a` and `b` share](y.ipynb), and [`c`](/x.html#c)",
        ),
        ("`x[0]` and y[1], [`a`](/x.html#a)", "`x[0]` and y[1], [`a`](/x.html#a)"),
        ("```\n[[`a`](/x)](y)\n```\n", "```\n[[`a`](/x)](y)\n```\n"),
    ],
)
def test_linked_once(written, mended):
    assert mend.linked_once(written) == mended


@pytest.mark.parametrize(
    ("made", "mended"),
    [
        ("[`peak`](/api/deep/map.html#peak) says", "`peak` says"),
        ("[`peak()`](/api/deep/map.html#peak) says", "`peak()` says"),
        ("[`draw`](/api/deep/map.html#draw)", "[`draw`](/api/viz/pictures.html#draw)"),
        ("[`f`](/api/a.html#f)", "[`f`](/api/a.html#f)"),
        # what the author linked
        ("[[`peak`](/api/deep/map.html#peak)](a.ipynb)", "[`peak`](a.ipynb)"),
        ("[`peak`](../a.ipynb)", "[`peak`](../a.ipynb)"),
    ],
)
def test_names_that_are_mistaken(made, mended):
    assert mend.markdown(made, LINKS) == mended


def test_without_keywords():
    front = "---\ndescription: one\nkeywords: a, b,\n  c\ntitle: Two\n---\n"
    assert mend.without_keywords(front) == "---\ndescription: one\ntitle: Two\n---\n"


def test_code_without_links():
    "The signature that show_doc prints, with a name in a comment"
    signature = (
        "```python\ndef f(\n    L, # a matrix, or a [`Leadfield`](/api/head/leadfield.html)\n)\n```"
    )
    prose = "a [`Leadfield`](/api/head/leadfield.html)\n\n"
    assert mend.code_without_links(prose + signature) == prose + signature.replace(
        "[`Leadfield`](/api/head/leadfield.html)", "`Leadfield`"
    )


def test_heading_names():
    shown = (
        "---\n\n### Result.__repr__\n\nwhat `__repr__` shows of x_true\n\n## The two_words here\n"
    )
    mended = mend.heading_names(shown)
    assert r"### Result.\_\_repr\_\_" + "\n" in mended
    assert mended.replace("\\", "") == shown
    assert mended.count("\\") == 4
    code = "```python\n# a_b\n```\n"
    assert mend.heading_names(code) == code


def test_renamed_links():
    "Links follow the page's name; a path in a command does not"
    command = "`nbdev_test --path nbs/api/solvers/07_bmn.ipynb`"
    written = '[BMN](solvers/07_bmn.ipynb#x), <a href="07_bmn.ipynb">it</a>: ' + command
    mended = mend.renamed_links(written, LINKS.names)
    assert "(solvers/bmn.ipynb#x)" in mended
    assert 'href="bmn.ipynb"' in mended
    assert command in mended
    assert mend.renamed_links(written, {}) == written
    assert mend.renamed("- api/solvers/07_bmn.ipynb", LINKS.names) == "- api/solvers/bmn.ipynb"


def test_links_of_a_site_at_an_address():
    links = mend.Links({}, "https://x.org/docs/", has_source=True, mistaken=MISTAKEN)
    source = '[source](/blob/main/a.py#L1){target="_blank"}\n\n'
    assert mend.markdown("[`f`](https://x.org/docs/api/a.html#f)", links) == "[`f`](/api/a.html#f)"
    taken = "[`draw`](https://x.org/docs/api/a.html#draw)"
    assert mend.markdown(taken, links) == "[`draw`](/api/viz/pictures.html#draw)"
    assert mend.markdown(source, links) == source
    assert mend.markdown(source, LINKS) == ""


def test_caption():
    source = '#| fig-cap: "Evidence over $\\\\gamma$: a curve"\n#| fig-alt: A curve\nplot()'
    mended = mend.caption(source)
    assert mended.splitlines()[0] == '#| fig-cap: "Evidence over \\\\(\\\\gamma\\\\): a curve"'
    assert mended.splitlines()[1:] == source.splitlines()[1:]


def test_cell():
    "Prose, front matter, captions and what a cell shows: each gets its mends, and code stays"
    prose = dict(cell_type="markdown", source=["[[`f`](/a.html#f)](07_bmn.ipynb)"])
    mend.cell(prose, LINKS, rename=True)
    assert prose["source"] == ["[`f`](bmn.ipynb)"]
    raw = dict(cell_type="raw", source=["---\n", "output-file: bmn.html\n", "title: BMN\n", "---"])
    mend.cell(raw, LINKS, rename=True)
    assert "output-file" not in "".join(raw["source"])
    shown = {"output_type": "display_data", "data": {"text/markdown": ["### A.__len__\n"]}}
    code = dict(cell_type="code", source=["show_doc(A.__len__)"], outputs=[shown])
    mend.cell(code, LINKS, rename=False)
    assert code["source"] == ["show_doc(A.__len__)"]
    assert shown["data"]["text/markdown"] == "### A.\\_\\_len\\_\\_\n"


SAID = "What is seen, of 5 % of all. number 3, mode on."
OPTIONS = f'#| fig-cap: "What is seen, of 5 % of all."\n#| fig-alt: "{SAID}"\n'


@pytest.mark.parametrize(
    ("written", "data", "mended"),
    [
        ("E()", {"text/plain": [SAID]}, OPTIONS + "E()"),
        ("E()", {"text/plain": [SAID], "text/html": '<div class="explorer">'}, "E()"),
        ("plot()", {"text/plain": ["<picture>"]}, "plot()"),
        ("plot()", {}, "plot()"),
        ('#| fig-alt: "Mine"\nE()', {"text/plain": [SAID]}, '#| fig-alt: "Mine"\nE()'),
    ],
)
def test_words_of_a_picture(written, data, mended):
    "An explorer that was not run has a caption and words; one that was run has its own"
    shown = dict(output_type="display_data", data={"image/png": "iVBO"} | data)
    code = dict(cell_type="code", source=[written], outputs=[shown])
    mend.cell(code, LINKS, rename=True)
    assert "".join(code["source"]) == mended


# ---- pages


def tags(page, pattern):
    return re.findall(pattern, page)


def test_nothing_from_the_web():
    "Quarto's loader goes, and with it the line that needs it"
    outside = r'<(?:script|link|img)\b[^>]*(?:src|href)="https?://[^"]*"'
    assert len(tags(QUARTO, outside)) == 2
    assert tags(MENDED, outside) == []
    assert "define(" in QUARTO
    assert "define(" not in MENDED
    assert '<script type="application/json">' in MENDED


def test_newer_loader():
    "The same scripts from another host; a script of the site stays"
    own = '<script src="../site_libs/quarto-html/quarto.js"></script>'
    page = (
        '<script src="https://cdn.jsdelivr.net/npm/requirejs@2.3.6/require.min.js"></script>\n'
        '<script src="https://cdn.jsdelivr.net/npm/jquery@3.5.1/dist/jquery.min.js" async></script>\n'
    )
    assert mend.without_loader(page + own) == own


SMALLDOCS_SWITCH = (
    '<a class="quarto-color-scheme-toggle nav-link" href="" title="Toggle dark mode"'
    ' onclick="window.smalldocsToggleScheme(); return false;"><i class="bi"></i></a>'
)
QUARTO_SWITCH = re.search(r'<a href="" class="quarto-color-scheme-toggle.*?</a>', QUARTO)[0]


@pytest.mark.parametrize("switch", [SMALLDOCS_SWITCH, QUARTO_SWITCH])
def test_theme_switch(switch):
    "With `href` before or after `class`"
    mended = mend.theme_switch(switch)
    known = mend.attributes(mended.split(">")[0] + ">")
    assert mended.endswith('<i class="bi"></i></a>')
    assert known["href"] == "#"
    assert known["role"] == "button"
    assert known["aria-label"] == "Switch between light and dark"
    assert re.search(r"Toggle\w*Scheme\(\)", known["onclick"])
    assert "quarto-color-scheme-toggle" in known["class"]


def test_folding_parts():
    "What folds has an address, and is a button; a real button stays as it is"
    folds = tags(MENDED, r'<a\b[^>]*data-bs-toggle="collapse"[^>]*>')
    assert [mend.attributes(t)["href"] for t in folds] == [
        "#quarto-sidebar",
        "#quarto-sidebar-section-1",
        "#quarto-sidebar-section-1",
    ]
    assert {mend.attributes(t)["role"] for t in folds} == {"button"}
    button = tags(QUARTO, r'<button type="button".*?>')
    assert tags(MENDED, r'<button type="button".*?>') == button


def test_icons():
    assert mend.icons('<i class="bi bi-search" role="img"></i>') == (
        '<i class="bi bi-search" aria-hidden="true"></i>'
    )
    assert '<i class="bi"></i>' not in MENDED
    named = '<i class="bi bi-github" role="img" aria-label="GitHub"></i>'
    assert mend.icons(named) == named


def test_landmarks_and_skip_link():
    assert '<nav id="quarto-sidebar" aria-label="Pages"' in MENDED
    assert tags(MENDED, "<nav [^>]*doc-toc[^>]*>") == [
        '<nav id="TOC" role="doc-toc" aria-label="On this page" class="toc-active">'
    ]
    assert '<nav id="TOC" role="doc-toc" aria-label=' in mend.landmarks('<nav role="doc-toc">')
    assert re.search(r'<body [^>]*><a class="skip" href="#quarto-document-content">', MENDED)
    assert 'id="quarto-document-content"' in MENDED


def test_boxed_tables():
    "A table gets a box with a name, once; text that holds a table gets none"
    box = '<div class="table-box" tabindex="0" role="region" aria-label="'
    label = "Table 1: name, key, meaning, unit of measurement, where it is computed"
    assert tags(MENDED, re.escape(box) + '[^"]*') == [box + label]
    assert mend.boxed_tables(MENDED) == MENDED
    own = '<div class="sd-table">\n<table class="table"><tr><th>a</th></tr></table>\n</div>'
    assert mend.boxed_tables(own) == own
    two = "<table><tr><td>1</td></tr></table>" * 2
    assert tags(mend.boxed_tables(two), r'aria-label="(.*?)"') == ["Table 1", "Table 2"]
    formula = '<table><tr><th>a &amp; <span class="math inline">\\(x\\)</span></th><th>b</th></tr></table>'
    assert 'aria-label="Table 1: a &amp;, b"' in mend.boxed_tables(formula)


@pytest.mark.parametrize(
    ("href", "page"),
    [
        ("", HERE),
        ("#the-sums", HERE),
        ("evidence.html#x", HERE),
        ("../../index.html", "index.html"),
        ("../../", "index.html"),
        ("search.html", "api/solvers/search.html"),
    ],
)
def test_leads_to(href, page):
    assert mend.leads_to(href, HERE) == page


def test_current_page():
    "Home is current at home only, and the page of the sidebar says that it is"
    assert tags(QUARTO, '<a [^>]*aria-current="page"[^>]*>')
    current = tags(MENDED, '<a [^>]*aria-current="page"[^>]*>')
    assert [mend.attributes(t)["href"] for t in current] == ["../../api/solvers/evidence.html"]
    home = '<a class="nav-link active" href="./index.html" aria-current="page">'
    assert mend.current_page(home, "index.html") == home
    assert mend.current_page(home, "api.html") == '<a class="nav-link" href="./index.html">'


def test_what_quarto_is_told():
    "What smalldocs does by itself: local KaTeX, the system's choice of light or dark, a wide column"
    told = builder.QUARTO["format"]["html"]
    assert told["html-math-method"] == "katex"
    assert told["respect-user-color-scheme"] is True
    assert told["grid"]["body-width"] == "900px"


# ---- Quarto's page in a browser, under a few of Quarto's own rules, the themes of _quarto.yml and nbs/style.css

COMMON = """
html { font-size: 17px }
.d-none { display: none !important }
@media (min-width: 992px) { .d-lg-block { display: block !important } }
#quarto-header { position: static }
.page-columns { display: grid; gap: 0; grid-template-columns: 1.5em minmax(0, 1fr) 1.5em }
#quarto-content > main { grid-column: 2 } #quarto-sidebar, #quarto-margin-sidebar { grid-column: 2 }
@media (min-width: 992px) {
  #quarto-content.page-columns { grid-template-columns: 250px 1.5em minmax(0, 750px) 1.5em 190px }
  #quarto-content > main { grid-column: 3 } #quarto-sidebar { grid-column: 1; display: block }
  #quarto-margin-sidebar { grid-column: 5; grid-row: 1 } .quarto-secondary-nav { display: none }
}
#title-block-header { margin-block-end: 0 } .description p { margin: 0 }
code { font-size: .875em } pre { padding: initial; background: initial; overflow: auto }
pre.sourceCode { font-size: .875em; overflow: visible !important; padding: .4em }
div.sourceCode { margin: 1em 0; overflow: auto hidden }
td code:not(.sourceCode) { white-space: pre-wrap } .code-copy-outer-scaffold { position: relative }
.code-copy-button { position: absolute; top: 0; right: 0; margin: 5px 5px 0 0; border: 0; background: transparent }
.code-copy-button > .bi::before { content: ""; display: inline-block; width: 1rem; height: 1rem }
code span.at { color: #657422 } .breadcrumb-item a, details > summary, .breadcrumb-item::before { color: #868e96 }
"""
LIGHT = """
code { color: #7d12ba }
p code:not(.sourceCode), li code:not(.sourceCode), td code:not(.sourceCode) { background-color: #f8f9fa }
.blockquote, .figure-caption, figcaption, caption { color: #747a7e } div.sourceCode { background-color: #e9ecef }
"""
DARK = """
code { color: #262626 }
p code:not(.sourceCode), li code:not(.sourceCode), td code:not(.sourceCode) { background-color: #f8f9fa }
.blockquote, .figure-caption, figcaption, caption { color: #868686 } div.sourceCode { background-color: #3a3a3a }
.explorer select { color: #fff; background-color: #dee2e6 }
"""
RATIO = """selector => {
    const parse = c => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
    const over = (top, below) => { const a = top[3] ?? 1; return [0, 1, 2].map(i => a * top[i] + (1 - a) * below[i]); };
    const ground = e => {
        const own = parse(getComputedStyle(e).backgroundColor);
        if ((own[3] ?? 1) === 1) return own;
        return over(own, e.parentElement ? ground(e.parentElement) : [255, 255, 255]);
    };
    const light = c => {
        const [r, g, b] = c.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b + .05;
    };
    return [...document.querySelectorAll(selector)].map(e => {
        const back = ground(e), fore = over(parse(getComputedStyle(e).color), back);
        return Math.max(light(fore), light(back)) / Math.min(light(fore), light(back));
    });
}"""
READ = {
    "code in the description": ".description code",
    "code in a paragraph": "p.first > code",
    "code that is a link": "p.first a > code",
    "code in a list": "main li > code",
    "code in raw HTML": ".raw code",
    "code in a table's head": "th code",
    "code in a table": "td code",
    "caption of a figure": "figcaption",
    "caption of a table": "caption",
    "block quote": "blockquote p",
    "breadcrumb": "#title-block-header .breadcrumb a",
    "breadcrumb of a small screen": ".quarto-secondary-nav .breadcrumb a",
    "summary": "summary",
    "option in a shell": "code span.at",
    "menu of an explorer": "select",
    "this page in the sidebar": ".sidebar-link.active",
    "other page in the sidebar": ".sidebar-link:not(.active)",
}


def theme(name):
    "A Bootswatch theme, as smalldocs ships it, without its fonts"
    assets = Path(pytest.importorskip("smalldocs").__file__).parent / "assets/vendor/bootswatch"
    css = (assets / f"{name}.min.css").read_text(encoding="utf-8")
    return re.sub(r"@import\s*(?:url\([^)]*\)|\"[^\"]*\"|'[^']*')\s*;", "", css)


def show(page, scheme, styled=True):
    "Quarto's page in one of its two themes, with or without style.css"
    name, rules = ("cosmo", LIGHT) if scheme == "light" else ("darkly", DARK)
    own = (NBS / "style.css").read_text(encoding="utf-8") if styled else ""
    styles = f"<style>{theme(name)}</style><style>{COMMON}{rules}</style><style>{own}</style>"
    text = MENDED.replace("<!-- styles -->", styles).replace("quarto-light", f"quarto-{scheme}")
    script = (NBS / "page.html").read_text(encoding="utf-8")
    page.set_content(text.replace("</body>", script + "</body>"), wait_until="load")
    page.wait_for_timeout(400)


def ratios(page):
    return {what: min(page.evaluate(RATIO, selector)) for what, selector in READ.items()}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page, scheme):
    "All that was hard to read under Quarto has a contrast of 4.5 and more, and is why style.css is there"
    show(page, scheme)
    found = ratios(page)
    print(scheme, {what: round(r, 2) for what, r in found.items()})
    assert {what: r for what, r in found.items() if r < 4.5} == {}
    assert page.outside == []
    assert page.errors == []
    show(page, scheme, styled=False)
    bare = ratios(page)
    print("without style.css", {what: round(r, 2) for what, r in bare.items()})
    assert bare["breadcrumb"] < 4.5 and bare["block quote"] < 4.5


HARD_TO_READ = """() => axe.run('#quarto-content, .quarto-secondary-nav', {runOnly: ['color-contrast']})
    .then(r => r.violations.flatMap(v => v.nodes.map(n => n.html.slice(0, 120))))"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_reads_it(page, scheme, width):
    "So says a second judge, which sees all text of the page"
    if not AXE.exists():
        pytest.skip("no axe-core in node_modules: npm was missing")
    page.set_viewport_size(dict(width=width, height=844))
    show(page, scheme)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    assert page.evaluate(HARD_TO_READ) == []


def test_small_screen(page):
    "At 390 px nothing sticks out, the table scrolls in its box, and the description keeps its distance"
    page.set_viewport_size(dict(width=390, height=844))
    show(page, "light", styled=False)
    assert page.evaluate("document.documentElement.scrollWidth") > 390
    show(page, "light")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator(".table-box")
    assert box.evaluate("e => e.scrollWidth > e.clientWidth")
    below = page.evaluate(
        "document.querySelector('p.first').getBoundingClientRect().top"
        " - document.querySelector('.description').getBoundingClientRect().bottom"
    )
    assert below >= 16


COVERED = """() => [...document.querySelectorAll('.code-copy-button')].filter(button => {
    const b = button.getBoundingClientRect(), range = document.createRange();
    range.selectNodeContents(button.parentElement.querySelector('code'));
    const meets = r => r.left < b.right && b.left < r.right && r.top + 2 < b.bottom && b.top < r.bottom - 2;
    return [...range.getClientRects()].some(r => r.width && meets(r));
}).length"""


@pytest.mark.parametrize("width", [1280, 390])
def test_copy_buttons(page, width):
    "They lie over no code"
    page.set_viewport_size(dict(width=width, height=844))
    show(page, "light", styled=False)
    assert page.evaluate(COVERED) > 0
    show(page, "light")
    assert page.evaluate(COVERED) == 0


def test_code_fits(page):
    "A line of 88 columns does not scroll at 1280 px in a column as wide as Quarto's"
    show(page, "light")
    code = page.locator("#cb1 code").inner_text()
    assert len(code.rstrip("\n")) == 88
    sizes = "e => [e.scrollWidth, e.clientWidth]"
    wide, room = page.locator("#cb1").evaluate(sizes)
    assert wide <= room, (wide, room)
