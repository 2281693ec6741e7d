"""Run every notebook, compare what it says with what is committed, build README.md and the site.

python tools/docs.py            smalldocs renders it: no Quarto needed, and the site works offline
python tools/docs.py --quarto   Quarto renders it, from the same _quarto.yml
python tools/docs.py --draft    explorers with one control moved at a time: minutes less, for tests
python tools/docs.py --run      run and compare only: no site
python tools/docs.py --no-exec  keep the outputs of the last run
python tools/docs.py --kept     run nothing: the site of the committed outputs, in a minute or two
python tools/docs.py --serve    and show it at http://127.0.0.1:8000, until Ctrl-C
python tools/docs.py --write    give the notebooks in nbs/ the outputs of this run, to be committed

nbs/ → _exec/ (run in kernels: notebooks.py) → README.md (readme.py)
     → _proc/ (nbdev's processors: show_doc, hide, links) → _docs/ (mended by mend.py)

It runs with a home of its own (apart.py), so that nothing that a machine holds shows in a page.
"""

import argparse
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import apart
import mend
import names
import notebooks
import outputs
import pages
import readme
import words
from notebooks import loaded

ROOT = Path(__file__).resolve().parent.parent
EXEC = ROOT / "_exec"
PROC = ROOT / "_proc"
OUT = ROOT / "_docs"
JS = Path(os.environ.get("DOCS_JS", ROOT / "node_modules"))


# ---- what the notebooks say


STALE = """{name}, cell {cell}: the committed output is not that of a fresh run \
(python tools/docs.py --write)
--- committed
{before}
--- now
{now}"""


DIFFER = "committed outputs differ from a fresh run"


def compare(write=False):
    "Whether the committed outputs are those of this run; `write` makes them so"
    same = True
    for path in sorted(EXEC.rglob("*.ipynb")):
        name = path.relative_to(EXEC).as_posix()
        committed = ROOT / "nbs" / name
        fresh = loaded(path)
        if write:
            outputs.write(committed, fresh)
        for cell, before, now in outputs.stale(loaded(committed), fresh):
            same = False
            said = dict(before=before[:500], now=now[:500])
            print(STALE.format(name=f"nbs/{name}", cell=cell, **said), flush=True)
    return same


# ---- nbdev's processors


def address(cfg):
    "Where the site is served from, as nbdev writes it into links; with a slash at its end"
    return (cfg.doc_host.rstrip("/") + "/" + cfg.doc_baseurl.strip("/")).rstrip("/") + "/"


def home(cfg):
    "What _quarto.yml takes from settings.ini; links to a public home only where there is one"
    web = dict(title=cfg.title, description=cfg.description)
    if cfg.doc_host:
        web["site-url"] = address(cfg).rstrip("/")
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
    pages.write(ROOT, EXEC, cfg.copyright)
    for name in ("_quarto.yml", "style.css", "page.html"):
        shutil.copy(ROOT / "nbs" / name, EXEC)  # also with --no-exec as they are now
    settings = home(cfg) | (QUARTO if quarto else {})
    (EXEC / "nbdev.yml").write_text(yaml.safe_dump(settings, sort_keys=False))
    # a relative path, because nbdev skips one with a hidden folder in it
    proc_nbs(EXEC.name, n_workers=notebooks.WORKERS, force=True)


def page_names():
    "Quarto names a page after its `output-file`, smalldocs after its notebook: those to rename"
    renamed = {}
    for path in PROC.rglob("*.ipynb"):
        found = re.search(r"output-file: ([^\"\\]+)\.html", path.read_text(encoding="utf-8"))
        if found and found[1] != path.stem:
            renamed[path.name] = found[1] + ".ipynb"
    return renamed


def linker():
    "A function that links names in backticks to their pages, as nbdev does in notebooks"
    from nbdev.doclinks import NbdevLookup

    return NbdevLookup().linkify


def rewrite(cfg, rename):
    "Make nbdev's notebooks ready for the renderer"
    from calibrain._modidx import d

    renamed = page_names() if rename else {}
    mistaken = names.mistaken(d["syms"])
    links = mend.Links(renamed, address(cfg), bool(cfg.git_url), mistaken)
    glossary = words.Glossary(words.terms(loaded(EXEC / "glossary.ipynb")))
    for path in sorted(PROC.rglob("*.ipynb")):
        nb = loaded(path)
        glossary.new_page()
        for cell in nb["cells"]:
            if cell["cell_type"] == "markdown" and path.name != "glossary.ipynb":
                cell["source"] = glossary.link("".join(cell["source"]))
            mend.cell(cell, links, rename)
        path.unlink()
        path.with_name(renamed.get(path.name, path.name)).write_text(json.dumps(nb))
    linked = linker()
    for path in PROC.glob("*.md"):
        glossary.new_page()
        head, found, body = path.read_text().partition("\n---\n")
        path.write_text(head + found + mend.markdown(glossary.link(linked(body)), links))
    settings = PROC / "_quarto.yml"
    settings.write_text(mend.renamed(settings.read_text(), renamed))


# ---- render


def render(quarto):
    "The site in _docs/; returns its broken links"
    if quarto:
        subprocess.run(["quarto", "render", "--no-cache"], cwd=PROC, check=True)
        made = PROC / "_docs"
        broken = []
    else:
        from smalldocs.site import build

        site = build(PROC)
        made = site.out
        broken = site.broken
    shutil.rmtree(OUT, ignore_errors=True)
    shutil.move(made, OUT)
    return broken


def edit(pattern, change):
    "Apply `change(text, path)` to the site's files"
    for path in OUT.rglob(pattern):
        old = path.read_text(encoding="utf-8")
        new = change(old, path)
        if new != old:
            path.write_text(new, encoding="utf-8")


NO_KATEX = "no {}: pages take KaTeX from the web; tools/test.sh fetches it with npm"
KATEX = re.compile(r'https://[^"\s]*/katex@[^"/\s]*/dist')
FONTS = re.compile(
    r"""@import\s*(url\(\s*)?("https?:[^"]*"|'https?:[^']*'|https?:[^)"']*)\s*\)?\s*;"""
)


def not_needed(folder, names):
    "What a page does not ask for, of the files of KaTeX"
    needed = (".min.js", ".min.css", ".woff2")
    return [name for name in names if "." in name and not name.endswith(needed)]


def local_katex(html, path):
    "A page that takes KaTeX from the site itself"
    above = "../" * len(path.relative_to(OUT).parent.parts)
    return KATEX.sub(f"{above}katex", html)


def without_fonts(css, path):
    return FONTS.sub("", css)


def offline(js):
    "Local copies of the scripts and fonts that the pages otherwise take from the web"
    katex = js / "katex/dist"
    if not katex.exists():
        print(NO_KATEX.format(katex), file=sys.stderr)
        return
    shutil.copytree(katex, OUT / "katex", ignore=not_needed)
    edit("*.html", local_katex)
    edit("site_libs/**/*.css", without_fonts)


def mended(html, path):
    "A page as everybody can read it"
    return mend.page(html, path.relative_to(OUT).as_posix())


def findable(cfg):
    "Search finds pages by their keywords, and llms.txt names all of them"
    found = pages.read(ROOT, EXEC)
    index = OUT / "search.json"
    entries = loaded(index) + words.search_entries(found)
    index.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    listed = pages.llms(cfg.title, cfg.description, found)
    (OUT / "llms.txt").write_text(listed, encoding="utf-8")


def build(cfg, quarto):
    "The site in _docs/ from what has been run; returns its broken links"
    process(cfg, quarto)
    rewrite(cfg, rename=not quarto)
    broken = render(quarto)
    thumbnails = "images/gallery"  # named in HTML, where a renderer does not look for files
    shutil.copytree(EXEC / thumbnails, OUT / thumbnails, dirs_exist_ok=True)
    edit("*.html", mended)
    findable(cfg)
    offline(JS)
    return broken


def serve(port=8000):
    "Show the site to a browser of this machine, until Ctrl-C"
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=OUT)
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"the site is at http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def report(start):
    files = [f for f in OUT.rglob("*") if f.is_file()]
    size = sum(f.stat().st_size for f in files) / 1e6
    html = sum(f.suffix == ".html" for f in files)
    seconds = time.time() - start
    print(f"documentation built in {seconds:.1f} s: {html} pages, {size:.1f} MB", flush=True)


def options(arguments):
    "What was asked for; anything that is not known is refused before any work"
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    for name in ("quarto", "draft", "run", "no-exec", "kept", "serve", "write"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser.parse_args(arguments)


def main(arguments):
    said = options(arguments)
    apart.enter()
    from nbdev.config import get_config

    os.chdir(ROOT)
    cfg = get_config()
    start = time.time()
    if said.kept:
        notebooks.keep(ROOT / "nbs", EXEC)
    elif not said.no_exec:
        try:
            notebooks.execute(ROOT / "nbs", EXEC, draft=said.draft)
        except RuntimeError as error:
            return str(error)
    same = compare(said.write)
    (ROOT / "README.md").write_text(readme.markdown(loaded(EXEC / "index.ipynb"), ROOT))
    if said.run:
        return 0 if same else DIFFER
    broken = build(cfg, said.quarto)
    report(start)
    if broken:
        return f"broken links: {broken}"
    if said.serve:
        serve()
    return 0 if same else DIFFER


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
