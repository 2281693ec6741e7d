"""Build the documentation site and README.md from the notebooks.

python tools/docs.py            smalldocs renders it: no Quarto needed, and the site works offline
python tools/docs.py --quarto   Quarto renders it, from the same _quarto.yml
python tools/docs.py --no-exec  keep the outputs of the last run
python tools/docs.py --write    give the notebooks in nbs/ the outputs of this run, to be committed
python tools/docs.py --has-recording   exit with 0 where the tutorial on a real recording can run

nbs/ -> _exec/ (run in a kernel) -> _proc/ (nbdev's processors: show_doc, hide, links) -> _docs/
"""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mend
import outputs

ROOT = Path(__file__).resolve().parent.parent
EXEC, PROC, OUT, FIGURES = ROOT / "_exec", ROOT / "_proc", ROOT / "_docs", ROOT / "nbs/images"
JS = Path(os.environ.get("DOCS_JS", ROOT / "node_modules"))
VIEW = "application/vnd.jupyter.widget-view+json"
SKIP = re.compile(r"^#\| *(slow|notest|eval: *false)|nbdev_export\(", re.M)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def text(x):
    return x if isinstance(x, str) else "".join(x)


# ---- run


def has_recording():
    "Whether there is a real recording: the test data beside the project, or the sample data of MNE-Python"
    import mne

    return (ROOT.parent / "shared/realdata").exists() or mne.datasets.has_dataset("sample")


def can_run(f):
    return not f.stem.startswith("08_real") or has_recording()


def tidy(cell):
    "Outputs for a page without a kernel: no widgets, small pictures, and nothing of the run in what was written to stderr"
    for o in cell.get("outputs", []):
        data = o.get("data", {})
        if data.pop(VIEW, None) and not data.keys() - {"text/plain"}:
            data.clear()  # a progress bar
        if "image/png" in data:
            data["image/png"] = outputs.small(data["image/png"])
        if o.get("name") == "stderr":
            o["text"] = re.sub(r"(?m)^\S*ipykernel_\d+/\d+\.py:\d+: ", "", o["text"])
            o["text"] = re.sub(re.escape(tempfile.gettempdir()) + r"/tmp\w+", "…", o["text"])
    if cell.get("outputs"):
        cell["outputs"] = [o for o in cell["outputs"] if o.get("data", True)]


def run(f):
    "Run one notebook in a kernel and keep its outputs"
    import nbformat
    from nbclient import NotebookClient

    if not can_run(f):
        return print(
            f"no real recording here: {f.relative_to(EXEC)} is shown without outputs", flush=True
        )
    start, nb = time.time(), nbformat.read(f, 4)
    cells, folder = nb.cells, ROOT / "nbs" / f.relative_to(EXEC).parent
    nb.cells = [c for c in cells if not (c.cell_type == "code" and SKIP.search(c.source))]
    client = NotebookClient(
        nb,
        timeout=900,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        client.execute()
    except Exception as e:
        raise RuntimeError(f"{f.relative_to(EXEC)}: {ANSI.sub('', str(e))}") from None
    nb.cells = cells
    for c in cells:
        tidy(c)
    nb.metadata.pop("widgets", None)
    nbformat.write(nb, f)
    print(f"ran {f.relative_to(EXEC)}: {time.time() - start:.1f} s", flush=True)


def one_line(source):
    "Cell options that go on over lines (`#|   …`, as YAML allows) on one line each, as nbdev reads them"
    return re.sub(
        r"(?m)(^#\| *fig-\w+: .*)((?:\n#\|   .*)+)",
        lambda m: m[1] + m[2].replace("\n#|  ", ""),
        source,
    )


def join_options(f):
    nb = json.loads(f.read_text(encoding="utf-8"))
    for c in nb["cells"]:
        if c["cell_type"] == "code":
            c["source"] = one_line(text(c["source"])).splitlines(keepends=True)
    f.write_text(json.dumps(nb, ensure_ascii=False), encoding="utf-8")


def execute():
    "Run every notebook, two at a time"
    os.environ["CALIBRAIN_DOCS"] = "1"  # explorers add their static version to their output
    os.environ["TQDM_DISABLE"] = "1"  # bars say how long a run took
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    shutil.rmtree(EXEC, ignore_errors=True)
    shutil.copytree(
        ROOT / "nbs", EXEC, ignore=shutil.ignore_patterns(".ipynb_checkpoints")
    )  # a symlinked _quarto.yml becomes a file
    for f in EXEC.rglob("*.ipynb"):
        join_options(f)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, sorted(EXEC.rglob("*.ipynb"))))


def compare(write=False):
    "Whether the committed outputs are those of this run; `write` makes them so"
    same = True
    for f in filter(can_run, sorted(EXEC.rglob("*.ipynb"))):
        path, fresh = ROOT / "nbs" / f.relative_to(EXEC), json.loads(f.read_text())
        if write:
            outputs.write(path, fresh, looks_alike)
        for cell, before, now in outputs.stale(json.loads(path.read_text()), fresh):
            same = False
            print(
                f"{path.relative_to(ROOT)}, cell {cell}: the committed output is not that of a fresh run (python tools/docs.py --write)\n--- committed\n{before[:500]}\n--- now\n{now[:500]}",
                flush=True,
            )
    return same


# ---- README.md


def looks_alike(a, b):
    "Whether two pictures differ by no more than versions of fonts and renderers do: both blurred to half a per cent of their width"
    import numpy as np
    from PIL import Image, ImageFilter

    first, second = (Image.open(io.BytesIO(x)).convert("L") for x in (a, b))
    blurred = [
        np.asarray(i.resize(first.size).filter(ImageFilter.GaussianBlur(first.width / 200)), float)
        for i in (first, second)
    ]
    return np.abs(blurred[0] - blurred[1]).max() < 16


def readme_figure(png, n):
    "Markdown for a figure of the index; its file is rewritten only where the picture changed"
    f = FIGURES / f"index-{n}.png"
    FIGURES.mkdir(exist_ok=True)
    if not (f.exists() and looks_alike(f.read_bytes(), png)):
        f.write_bytes(png)
    return f.relative_to(ROOT).as_posix()


def readme_output(cell, figures):
    "Markdown for what a code cell printed or drew"
    import yaml

    found = {
        k: yaml.safe_load(v)
        for k, v in re.findall(r"(?m)^#\| *fig-(alt|cap): *(.*)", text(cell["source"]))
    }
    alt, cap = found.get("alt", ""), found.get("cap")
    for o in cell["outputs"]:
        data = o.get("data", {})
        if "image/png" in data:
            figures.append(
                readme_figure(base64.b64decode(text(data["image/png"])), len(figures) + 1)
            )
            yield f"![{alt}]({figures[-1]})"
            if cap:
                yield f"*{cap}*"
        elif t := text(o.get("text") or data.get("text/plain", "")):
            yield f"```text\n{t.rstrip()}\n```"


def readme():
    "README.md from the executed index: prose, code, what it prints and its figures"
    out, figures = ["<!-- made from nbs/index.ipynb by tools/docs.py -->"], []
    for c in json.loads((EXEC / "index.ipynb").read_text())["cells"]:
        s = text(c["source"])
        if c["cell_type"] == "markdown":
            out.append(re.sub(r"\]\((?!https?:|#|/)([^)]*)\)", r"](nbs/\1)", s))
        if c["cell_type"] != "code" or re.match(r"#\| *hide", s):
            continue
        if not re.search(r"(?m)^#\| *echo: *false", s):
            out.append("```python\n" + re.sub(r"(?m)^#\|.*\n", "", s) + "\n```")
        out += readme_output(c, figures)
    for f in {*FIGURES.glob("index-*.png")} - {ROOT / f for f in figures}:
        f.unlink()
    (ROOT / "README.md").write_text("\n\n".join(out) + "\n")


# ---- pages from files that stand at the top of the repository


def cite(cff, copyright):
    "Markdown: how to cite, as CITATION.cff says it"
    import yaml

    c, year = yaml.safe_load(cff), copyright.split(",")[0]
    who = ", ".join(
        a.get("name") or f"{a['family-names']}, {a['given-names']}" for a in c["authors"]
    )
    bib = dict(
        title=f"{{{c['title']}}}",
        author=f"{{{who}}}",
        year=year,
        version=c["version"],
        license=c["license"],
    ) | {k: c[k] for k in ("doi", "url") if k in c}
    entry = "\n".join(["@software{calibrain,", *[f"  {k} = {{{v}}}," for k, v in bib.items()], "}"])
    return f"""---
title: How to cite
subtitle: CaliBrain in your references
---

{c["message"]}

> {who} ({year}). *{c["title"]}* (version {c["version"]}) [Computer software].

As BibTeX:

```bibtex
{entry}
```

As it stands in the repository, in a format that reference managers read:

```yaml
{cff.strip()}
```

The methods have papers of their own: each page that uses one names it under References. Where a result rests on a solver or a score, please cite these as well.
"""


def title_page(md):
    "A file of the repository as a page: its H1 becomes the title, links into nbs/ become links within the site"
    head, body = md.split("\n", 1)
    return f"---\ntitle: {head.removeprefix('# ')}\n---\n{re.sub(r']' + r'[(]nbs/', '](', body)}"


def project_pages(cfg):
    "changelog.md, contributing.md and cite.md beside the notebooks, from the files that a code forge shows"
    for name in ("CHANGELOG", "CONTRIBUTING"):
        (EXEC / f"{name.lower()}.md").write_text(title_page((ROOT / f"{name}.md").read_text()))
    (EXEC / "cite.md").write_text(cite((ROOT / "CITATION.cff").read_text(), cfg.copyright))


# ---- nbdev's processors


def home(cfg):
    "What _quarto.yml takes from settings.ini; links to a public home only where there is one"
    web = dict(title=cfg.title, description=cfg.description)
    if cfg.doc_host:
        web["site-url"] = cfg.doc_host.rstrip("/") + "/" + cfg.doc_baseurl.strip("/")
    if cfg.git_url:
        web |= {"repo-url": cfg.git_url, "repo-branch": cfg.branch, "repo-actions": ["issue"]}
    return {"project": {"output-dir": cfg.doc_path.name}, "website": web}


# What Quarto is told besides _quarto.yml, and smalldocs does by itself or by nbs/style.css
QUARTO = {
    "format": {
        "html": {
            "html-math-method": "katex",  # of KaTeX there is a local copy
            "respect-user-color-scheme": True,  # light or dark as the reader's system has it
            "grid": {  # 88 columns of code fit between the other two at 1280 pixels
                "sidebar-width": "230px",
                "body-width": "900px",
                "margin-width": "210px",
                "gutter-width": "1.25rem",
            },
        }
    }
}


def process(cfg, quarto=False):
    "What `nbdev_proc_nbs` does, without its attempt to install Quarto"
    import yaml
    from nbdev.serve import proc_nbs

    shutil.rmtree(PROC, ignore_errors=True)
    project_pages(cfg)
    for f in ("_quarto.yml", "style.css", "page.html"):
        shutil.copy(ROOT / "nbs" / f, EXEC)  # also with --no-exec as they are now
    (EXEC / "nbdev.yml").write_text(
        yaml.safe_dump(home(cfg) | (QUARTO if quarto else {}), sort_keys=False)
    )
    proc_nbs(
        EXEC.name, n_workers=2, force=True
    )  # relative: nbdev skips a path with a hidden folder in it


def page_names():
    "Quarto names a page after its `output-file`, smalldocs after its notebook: the notebooks to rename"
    found = {
        f: re.search(r"output-file: ([^\"\\]+)\.html", f.read_text()) for f in PROC.rglob("*.ipynb")
    }
    return {f.name: m[1] + ".ipynb" for f, m in found.items() if m and m[1] != f.stem}


def linker():
    "A function that links names in backticks to their pages, as nbdev does in notebooks"
    from nbdev.doclinks import NbdevLookup

    return NbdevLookup().linkify


def rewrite(cfg, rename):
    "Make nbdev's notebooks ready for the renderer"
    names = page_names() if rename else {}
    base = (cfg.doc_host.rstrip("/") + "/" + cfg.doc_baseurl.strip("/")).rstrip("/") + "/"
    links = mend.Links(names, base, has_source=bool(cfg.git_url))
    for f in sorted(PROC.rglob("*.ipynb")):
        nb = json.loads(f.read_text())
        for c in nb["cells"]:
            mend.cell(c, links, rename)
        f.unlink()
        f.with_name(names.get(f.name, f.name)).write_text(json.dumps(nb))
    link = linker()
    for f in PROC.glob("*.md"):
        f.write_text(mend.markdown(link(f.read_text()), links))
    y = PROC / "_quarto.yml"
    y.write_text(mend.renamed(y.read_text(), names))


# ---- render


def render(quarto):
    "The site in _docs/; returns its broken links"
    if quarto:
        subprocess.run(["quarto", "render", "--no-cache"], cwd=PROC, check=True)
        made, broken = PROC / "_docs", []
    else:
        from smalldocs.site import build

        site = build(PROC)
        made, broken = site.out, site.broken
    shutil.rmtree(OUT, ignore_errors=True)
    shutil.move(made, OUT)
    return broken


def edit(pattern, change):
    "Apply `change(text, path)` to the site's files"
    for f in OUT.rglob(pattern):
        old = f.read_text()
        if (new := change(old, f)) != old:
            f.write_text(new)


def offline():
    "Local copies of the scripts and fonts that the pages otherwise take from the web"
    katex = JS / "katex/dist"
    if not katex.exists():
        print(
            f"no {katex}: pages take KaTeX from the web; tools/test.sh fetches it with npm",
            file=sys.stderr,
        )
        return
    keep = lambda d, fs: [
        x for x in fs if "." in x and not x.endswith((".min.js", ".min.css", ".woff2"))
    ]
    shutil.copytree(katex, OUT / "katex", ignore=keep)
    edit(
        "*.html",
        lambda t, f: re.sub(
            r'https://[^"\s]*/katex@[^"/\s]*/dist',
            "../" * len(f.relative_to(OUT).parent.parts) + "katex",
            t,
        ),
    )
    fonts = r"""@import\s*(url\(\s*)?("https?:[^"]*"|'https?:[^']*'|https?:[^)"']*)\s*\)?\s*;"""
    edit("site_libs/**/*.css", lambda t, f: re.sub(fonts, "", t))


def mended(html, f):
    "A page as everybody can read it"
    return mend.page(html, f.relative_to(OUT).as_posix())


def main(quarto=False, run_notebooks=True, write=False):
    from nbdev.config import get_config

    os.chdir(ROOT)
    cfg, start = get_config(), time.time()
    if run_notebooks:
        execute()
    same = compare(write)
    readme()
    process(cfg, quarto)
    rewrite(cfg, rename=not quarto)
    broken = render(quarto)
    edit("*.html", mended)
    offline()
    size = sum(f.stat().st_size for f in OUT.rglob("*") if f.is_file()) / 1e6
    print(
        f"documentation built in {time.time() - start:.1f} s: {len([*OUT.rglob('*.html')])} pages, {size:.1f} MB"
    )
    if broken:
        return f"broken links: {broken}"
    return 0 if same else "committed outputs differ from a fresh run"


if __name__ == "__main__":
    if "--has-recording" in sys.argv:
        sys.exit(not has_recording())
    sys.exit(main("--quarto" in sys.argv, "--no-exec" not in sys.argv, "--write" in sys.argv))
