"""Pages of the site that are made from files at the top of the repository."""

import yaml

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


def write(root, folder, copyright):
    "changelog.md, contributing.md and cite.md, from the files that a code forge shows"
    for name in ("CHANGELOG", "CONTRIBUTING"):
        md = (root / f"{name}.md").read_text(encoding="utf-8")
        (folder / f"{name.lower()}.md").write_text(title_page(md), encoding="utf-8")
    cff = (root / "CITATION.cff").read_text(encoding="utf-8")
    (folder / "cite.md").write_text(cite(cff, copyright), encoding="utf-8")
