"""Pages of the site that are made: from files at the top of the repository, and from all pages.

changelog.md, contributing.md and cite.md; gallery.md, with a picture of each page that has one;
llms.txt, a list of all pages with what they are about, for programs that read.
"""

import base64
import html
import io
import json
import re
from pathlib import PurePosixPath
from typing import NamedTuple

import yaml
from outputs import text

CITE = """---
title: How to cite
subtitle: CaliBrain in your references
---

{message}

> {who} ({year}). *{title}* (version {version}) [Computer software].

As BibTeX:

```bibtex
{bibtex}
```

As it stands in the repository, in a format that reference managers read:

```yaml
{cff}
```

The methods have papers of their own: each page that uses one names it under References. \
Where a result rests on a solver or a score, please cite these as well.

## A paragraph for the methods section

`est.report("tone.html")` ends in it, and `methods_paragraph(est)` returns it as text: data, sensors, \
sources, solver with all of its parameters, noise, what the error bars are and whether they were \
calibrated, and the versions of everything ([how](api/recording/22_methods.ipynb)). A passport has \
a page of its own for a supplement ([how](api/passport/08_report.ipynb)).
"""


def author(entry):
    if "name" in entry:
        return entry["name"]
    return f"{entry['family-names']}, {entry['given-names']}"


def bibtex(record, who, year):
    "An entry for a software, as BibLaTeX knows it"
    fields = dict(
        title=f"{{{record['title']}}}",
        author=f"{{{who}}}",
        year=year,
        version=record["version"],
        license=record["license"],
    )
    fields |= {k: record[k] for k in ("doi", "url") if k in record}
    lines = [f"  {k} = {{{v}}}," for k, v in fields.items()]
    return "\n".join(["@software{calibrain,", *lines, "}"])


def cite(cff, copyright):
    "Markdown: how to cite, as CITATION.cff says it"
    record = yaml.safe_load(cff)
    year = copyright.split(",")[0]
    who = ", ".join(map(author, record["authors"]))
    return CITE.format(
        message=record["message"],
        who=who,
        year=year,
        title=record["title"],
        version=record["version"],
        bibtex=bibtex(record, who, year),
        cff=cff.strip(),
    )


def title_page(md):
    "A file as a page: its H1 becomes the title, links into nbs/ become links within the site"
    head, body = md.split("\n", 1)
    inner = body.replace("](nbs/", "](")
    return f"---\ntitle: {head.removeprefix('# ')}\n---\n{inner}"


# ---- what the pages are


class Page(NamedTuple):
    "A notebook as a page of the site"

    source: PurePosixPath  # Below nbs/
    href: str  # Below the root of the site
    title: str
    subtitle: str
    keywords: tuple[str, ...]  # What it is searched for by, besides its text
    section: str  # Of the sidebar


def href_of(source):
    "The page of a notebook: its number is left out"
    source = PurePosixPath(source)
    name = re.sub(r"^\d+[a-zA-Z0-9]*_", "", source.stem)
    return source.with_name(f"{name}.html").as_posix()


def _sections(entries, above=""):
    "Every notebook of the sidebar with its section"
    for entry in entries:
        if isinstance(entry, str):
            yield entry, above
        elif "section" in entry:
            name = f"{above}: {entry['section']}" if above else entry["section"]
            yield from _sections(entry["contents"], name)
        else:
            yield entry["href"], above


def _words(nb, field):
    "Title (`#`), subtitle (`>`) or keywords of a notebook's first text"
    first = next(text(c["source"]) for c in nb["cells"] if c["cell_type"] == "markdown")
    found = re.search(rf"(?m)^{field} (.+)$", first)
    return found[1] if found else ""


def read(root, folder):
    "The notebooks of a folder as pages, in the order of the sidebar"
    web = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    found = []
    for name, section in _sections(web["sidebar"]["contents"]):
        if not name.endswith(".ipynb"):
            continue
        nb = json.loads((folder / name).read_text(encoding="utf-8"))
        keywords = _words(nb, "- keywords:").split(", ")
        found.append(
            Page(
                PurePosixPath(name),
                href_of(name),
                _words(nb, "#"),
                _words(nb, ">"),
                tuple(filter(None, keywords)),
                section,
            )
        )
    return found


# ---- for programs that read


def llms(title, description, found):
    "llms.txt: every page with its address and what it is about"
    lines = [f"# {title}", "", f"> {description}"]
    section = None
    for page in found:
        if page.section != section:
            section = page.section
            lines += ["", f"## {section or 'Start here'}", ""]
        about = f": {page.subtitle}" if page.subtitle else ""
        lines.append(f"- [{page.title}]({page.href}){about}")
    return "\n".join(lines) + "\n"


# ---- the gallery

WIDE = 360  # pixels of a thumbnail
OF_GALLERY = ("Tutorials", "Explanations", "Explorers", "API: Pictures")
ALT = re.compile(r"(?m)^#\| *fig-alt: *(.*)")
GALLERY = """---
title: Gallery
subtitle: A picture of each page that has one; each leads to the page that made it
---

{cards}
"""
CARD = """<figure class="card-of-page">
<a href="{href}"><img src="{picture}" alt="{alt}" loading="lazy" width="{width}" height="{height}">
<figcaption>{title}</figcaption></a>
</figure>"""


def pictures(nb, otherwise):
    "Pictures of a notebook: PNG, and words for who does not see them, which explorers make anew"
    for cell in nb["cells"]:
        words = ALT.search(text(cell["source"]))
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            if png:
                yield base64.b64decode(text(png)), yaml.safe_load(words[1]) if words else otherwise


def thumbnail(png):
    "A small copy of a picture, and its size"
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
    image.thumbnail((WIDE, WIDE))
    kept = io.BytesIO()
    image.quantize(64).save(kept, "png", optimize=True)
    return kept.getvalue(), image.size


def largest(nb, otherwise):
    "The picture that stands for a page: the one with the most to see"
    return max(pictures(nb, otherwise), key=lambda picture: len(picture[0]), default=None)


def gallery(found, folder):
    "gallery.md, its thumbnails in images/gallery"
    kept = folder / "images/gallery"
    kept.mkdir(parents=True, exist_ok=True)
    parts = []
    for section in OF_GALLERY:
        cards = []
        for page in found:
            if page.section != section:
                continue
            nb = json.loads((folder / page.source).read_text(encoding="utf-8"))
            shown = largest(nb, page.subtitle)
            if shown is None:
                continue
            small, (width, height) = thumbnail(shown[0])
            name = page.href.removesuffix(".html").replace("/", "-") + ".png"
            (kept / name).write_bytes(small)
            words = dict(href=page.href, picture=f"images/gallery/{name}", alt=shown[1])
            escaped = {k: html.escape(v) for k, v in (words | dict(title=page.title)).items()}
            cards.append(CARD.format(width=width, height=height, **escaped))
        heading = section.removeprefix("API: ")
        parts.append(f'## {heading}\n\n<div class="gallery">\n' + "\n".join(cards) + "\n</div>")
    return GALLERY.format(cards="\n\n".join(parts))


# ---- all of them


def write(root, folder, copyright):
    "What the folder of notebooks lacks, and is made"
    for name in ("CHANGELOG", "CONTRIBUTING"):
        md = (root / f"{name}.md").read_text(encoding="utf-8")
        (folder / f"{name.lower()}.md").write_text(title_page(md), encoding="utf-8")
    cff = (root / "CITATION.cff").read_text(encoding="utf-8")
    (folder / "cite.md").write_text(cite(cff, copyright), encoding="utf-8")
    made = gallery(read(root, folder), folder)
    (folder / "gallery.md").write_text(made, encoding="utf-8")
