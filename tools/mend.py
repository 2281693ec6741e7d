"""Mend what nbdev and the renderers leave wrong: Markdown before it is rendered, pages afterwards.

Each mend is a small function from text to text. `tools/docs.py` applies them all;
`tests/test_mend.py` holds each to a snippet of what nbdev, smalldocs or Quarto writes, for the
everyday build never sees Quarto.
"""

import html
import json
import posixpath
import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import yaml

# ---- Markdown, before it is rendered


class Links(NamedTuple):
    "What the links of the site depend on"

    names: dict[str, str]  # notebooks whose page has another name: {"07_bmn.ipynb": "bmn.ipynb"}
    base: str  # the address that nbdev writes before the pages of the package, with its last slash
    has_source: bool  # whether the sources have a public address
    mistaken: dict[
        str, str | None
    ]  # names that nbdev links to another page than is meant (names.py)


FENCED = re.compile(r"(?ms)(^```.*?^```)")
NAME_LINK = re.compile(r"\[(`[^`\n]+`)\]\([^)\n]*\)")
LINK_TEXT = re.compile(r"\[((?:[^\[\]]|\[`[^`\n]+`\]\([^)\n]*\))*)\](?=\()")


def in_prose(md, change):
    "Apply `change` to a Markdown text, but not to its blocks of code"
    parts = FENCED.split(md)
    for i in range(0, len(parts), 2):  # blocks of code are the odd ones
        parts[i] = change(parts[i])
    return "".join(parts)


def in_code(md, change):
    "Apply `change` to the blocks of code of a Markdown text only"
    return FENCED.sub(lambda m: change(m[0]), md)


def without_name_links(md):
    "Names in backticks as they were before nbdev linked them"
    return NAME_LINK.sub(r"\1", md)


def name_links(md, links):
    """A name leads to the page that is meant, and nowhere where it may mean several things.

    A link that the author wrote leads where it did: it is relative, nbdev's are not.
    """
    made = re.compile(r"\[(`([^`\n]+?)(?:\(\))?`)\]\(" + re.escape(links.base) + r"[^)\n]*\)")

    def meant(m):
        if m[2] not in links.mistaken:
            return m[0]
        page = links.mistaken[m[2]]
        return f"[{m[1]}]({links.base}{page})" if page else m[1]

    return in_prose(md, lambda part: made.sub(meant, part))


def code_without_links(md):
    "nbdev links names in the comments of a signature, where a link shows its source"
    return in_code(md, without_name_links)


def linked_once(md):
    """The link that the author wrote stays.

    nbdev links a name in backticks also where it is the text of a link.
    """
    return in_prose(md, lambda part: LINK_TEXT.sub(lambda m: f"[{without_name_links(m[1])}]", part))


def heading_names(md):
    """A heading that is a name keeps its underscores.

    Markdown reads `### Result.__repr__` as bold, and links miss it.
    """

    def escaped(m):
        return m[1] + m[2].replace("_", r"\_")

    return in_prose(md, lambda part: re.sub(r"(?m)^(#{1,6} +)([\w.]+)(?= *$)", escaped, part))


def renamed(text, names):
    "A text with the names that notebooks have as pages"
    if not names:
        return text
    either = "|".join(map(re.escape, names))
    return re.sub(rf"(?<![\w.-])({either})\b", lambda m: names[m[1]], text)


def renamed_links(md, names):
    "Links lead to notebooks by the names of their pages; a path only spoken of stays what it is"
    target = re.compile(r'(?:\]\(|\bhref=")[^)"\s]+')
    return target.sub(lambda m: renamed(m[0], names), md)


def without_source_links(md):
    "The links to the sources that nbdev makes lead nowhere while there is no public address"
    return re.sub(r"\[source\]\(/blob/[^)]*\)\{[^}]*\}\n*", "", md)


def markdown(md, links):
    "Prose, or what a cell shows as Markdown, ready for the renderer"
    md = code_without_links(md)
    md = name_links(md, links)
    md = linked_once(md)
    md = heading_names(md)
    md = renamed_links(md, links.names)
    if not links.has_source:
        md = without_source_links(md)
    return md.replace(links.base, "/")


def caption(source):
    "Formulas in the captions of a cell as KaTeX finds them: smalldocs reads `$` in prose only"

    def change(m):
        words = re.sub(r"\$([^$]+)\$", r"\\(\1\\)", yaml.safe_load(m[1]))
        return "#| fig-cap: " + json.dumps(words, ensure_ascii=False)

    return re.sub(r"(?m)^#\| *fig-cap: *(.+)$", change, source)


def words_of_picture(c):
    """Caption and alternative text of the picture of an explorer, as options of its cell

    An explorer that was run shows a figure of its own, which has both. Of one whose outputs are
    kept there is the picture, and what it shows in words: its title, a sentence, and its settings.
    """
    for output in c.get("outputs", []):
        data = output.get("data", {})
        words = "".join(data.get("text/plain", "<"))
        if "image/png" in data and "text/html" not in data and not words.startswith("<"):
            title, _, _ = words.partition(". ")
            options = {"fig-cap": f"{title}.", "fig-alt": words}
            lines = [f"#| {k}: {json.dumps(v, ensure_ascii=False)}\n" for k, v in options.items()]
            return "".join(lines)
    return ""


def without_keywords(front):
    "Words to search by are for the search (words.py): a renderer would print them on the page"
    return re.sub(r"(?m)^keywords: .*\n(?:  .*\n)*", "", front)


def cell(c, links, rename):
    "Mend a notebook's cell in place; `rename` where the renderer names a page after its notebook"
    source = "".join(c["source"])
    if c["cell_type"] != "code":
        source = markdown(source, links)
    elif "fig-alt" not in source:
        source = words_of_picture(c) + source
    if c["cell_type"] == "code" and rename:
        source = caption(source)
    if c["cell_type"] == "raw" and rename:
        source = re.sub(r"(?m)^output-file: .*\n", "", source)
    if c["cell_type"] == "raw":
        source = without_keywords(source)
    c["source"] = source.splitlines(keepends=True)
    for output in c.get("outputs", []):
        data = output.get("data", {})
        if "text/markdown" in data:
            data["text/markdown"] = markdown("".join(data["text/markdown"]), links)


# ---- pages, after they were rendered

ATTRIBUTE = re.compile(r'\s([\w:-]+)(?:="([^"]*)")?')


def attributes(tag):
    "The attributes of an opening tag"
    return dict(ATTRIBUTE.findall(tag))


def changed(tag, **new):
    "An opening tag with attributes set, wherever they stood before; None takes one away"
    values = attributes(tag) | {name.replace("_", "-"): value for name, value in new.items()}
    kept = "".join(f' {name}="{value}"' for name, value in values.items() if value is not None)
    return re.match(r"<[\w-]+", tag)[0] + kept + ">"


def change_tags(page, pattern, change):
    "Apply `change(tag)` to the opening tags that `pattern` finds"
    return re.sub(pattern, lambda m: change(m[0]), page)


def without_loader(page):
    """No require.js and jQuery from the web, which nothing here needs.

    Quarto puts them on each page with an HTML output.
    """
    scripts = (
        r'<script\b[^>]*\bsrc="https?://[^"]*/(?:require|jquery)(?:\.min)?\.js"[^>]*></script>\s*'
    )
    define = r"<script\b[^>]*>\s*define\('jquery',.*?</script>\s*"
    return re.sub(f"{scripts}|{define}", "", page)


def theme_switch(page):
    """The switch between light and dark becomes a named button.

    In both renderers it is a link without address or name.
    """

    def button(tag):
        name = "Switch between light and dark"
        return changed(tag, href="#", role="button", title="Light or dark", aria_label=name)

    return change_tags(page, r"<a\b[^>]*\bquarto-color-scheme-toggle\b[^>]*>", button)


def folding_parts(page):
    "What folds a part of the sidebar is an <a> without address: no key reaches it"

    def button(tag):
        known = attributes(tag)
        if "href" in known:
            return tag
        target = known.get("data-bs-target", "")
        is_class = not target.startswith("#")  # where several parts fold
        if is_class:
            target = "#" + known.get("aria-controls", "")  # what it says it controls
        return changed(tag, href=target, role="button")

    return change_tags(page, r'<a\b[^>]*\bdata-bs-toggle="collapse"[^>]*>', button)


def icons(page):
    "Icons stand beside words, or in a button with a name: they need no name of their own"
    icon = r'<i class="(bi[^"]*)"(?: role="img")?></i>'
    return re.sub(icon, r'<i class="\1" aria-hidden="true"></i>', page)


def lean_sidebar(page):
    """A link to a page is all that its line in the sidebar holds.

    Every page has the whole sidebar: what is around each link, and a class of the link that no
    style and no script asks for, are an eighth of the site.
    """
    around = (
        r'<li class="sidebar-item"><div class="sidebar-item-container">'
        r'(<a [^>]*\bclass=")(?:sidebar-item-text )?([^>]*>)'
        r'<span class="menu-text">([^<]*)</span></a></div></li>'
    )
    return re.sub(around, r'<li class="sidebar-item">\1\2\3</a></li>', page)


def landmarks(page):
    "The navigations say which they are"
    page = page.replace('<nav id="quarto-sidebar"', '<nav id="quarto-sidebar" aria-label="Pages"')
    contents = '<nav id="TOC" role="doc-toc" aria-label="On this page"'
    return re.sub(r'<nav (?:id="TOC" )?role="doc-toc"', contents, page)


def skip_link(page):
    "Who reads with the keyboard need not pass the sidebar on each page"
    link = '<a class="skip" href="#quarto-document-content">Skip to the text</a>'
    return re.sub(r"<body\b[^>]*>", lambda m: m[0] + link, page, count=1)


def table_label(table, number):
    "A name for the box of a table: its columns"
    first_row = table.split("</tr>")[0]
    heads = re.findall(r"(?s)<th\b[^>]*>(.*?)</th>", first_row)
    formula = re.compile(r'(?s)<span class="math[^"]*">.*?</span>|<[^>]*>')
    words = [html.unescape(formula.sub("", head)).strip() for head in heads]
    columns = ", ".join(word for word in words if word)
    return html.escape(f"Table {number}: {columns}" if columns else f"Table {number}")


def boxed_tables(page):
    """A table wider than a small screen scrolls in a box that keys reach.

    smalldocs makes one for Markdown's tables only.
    """
    number = 0

    def boxed(m):
        nonlocal number
        if m["other"] or m["box"]:
            return m[0]
        number += 1
        label = table_label(m[0], number)
        box = f'<div class="table-box" tabindex="0" role="region" aria-label="{label}">'
        return f"{box}{m[0]}</div>"

    other = r"(?P<other><script\b.*?</script>)"
    table = r'(?P<box><div class="(?:sd-table|table-box)"[^>]*>\s*)?<table\b.*?</table>'
    return re.sub(f"(?s){other}|{table}", boxed, page)


def leads_to(href, path):
    "The page of the site that a link on the page `path` leads to"
    to = unquote(urlsplit(href).path)
    if not to:
        return path
    if not to.endswith(".html"):
        to = posixpath.join(to, "index.html")
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), to))


def current_page(page, path):
    """Only a link to the page itself is current.

    Quarto calls Home so on every page, and no page of the sidebar.
    """

    def current(tag):
        known = attributes(tag)
        if leads_to(known.get("href", ""), path) == path:
            return changed(tag, aria_current="page")
        words = [word for word in known.get("class", "").split() if word != "active"]
        return changed(tag, aria_current=None, **{"class": " ".join(words)})

    pattern = r'<a\b[^>]*(?:\baria-current="page"|\bsidebar-link active\b)[^>]*>'
    return change_tags(page, pattern, current)


MENDS = (
    without_loader,
    theme_switch,
    folding_parts,
    icons,
    lean_sidebar,
    landmarks,
    skip_link,
    boxed_tables,
)


def page(text, path):
    """A page of the site that everybody can read and that asks nothing of the web.

    `path` is where it lies below the root of the site.
    """
    for change in MENDS:
        text = change(text)
    return current_page(text, path)
