"The notebooks as they are committed: clean, one module each, every one on the site, and no module without a notebook."
import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
NBS = sorted(p.relative_to(ROOT / "nbs") for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
API = [p for p in NBS if p.parts[0] == "api"]
DEFAULT_EXP = re.compile(r"(?m)^#\| *default_exp +(\S+)")


def cells(path): return json.loads((ROOT / "nbs" / path).read_text(encoding="utf-8"))["cells"]


def exports(path): return [m for c in cells(path) if c["cell_type"] == "code" for m in DEFAULT_EXP.findall("".join(c["source"]))]


@pytest.mark.parametrize("path", NBS, ids=str)
def test_clean(path):
    "nbdev_clean keeps the state of widgets, so this looks for it too"
    nb = json.loads((ROOT / "nbs" / path).read_text(encoding="utf-8"))
    assert "widgets" not in nb["metadata"]
    assert not any(c.get("outputs") or c.get("execution_count") or c["metadata"] for c in nb["cells"])


@pytest.mark.parametrize("path", NBS, ids=str)
def test_title(path):
    heads = [re.findall(r"(?m)^# .+", "".join(c["source"])) for c in cells(path) if c["cell_type"] == "markdown"]
    assert len(heads[0]) == 1 and not any(heads[1:]), "one H1, in the first cell of prose"


@pytest.mark.parametrize("path", API, ids=str)
def test_one_module(path):
    assert len(exports(path)) == 1
    assert exports(path)[0].split(".")[-1] == re.sub(r"^\d+[a-z]?_", "", path.stem), "the module is named as its notebook"


def test_only_api_exports(): assert [p for p in NBS if p not in API and exports(p)] == []


def test_modules_have_notebooks():
    "nbdev_export does not remove the module of a notebook that was deleted or renamed"
    made = {m.replace(".", "/") + ".py" for p in API for m in exports(p)}
    found = {p.relative_to(ROOT / "calibrain").as_posix() for p in (ROOT / "calibrain").rglob("*.py") if p.name not in ("__init__.py", "_modidx.py")}
    assert found == made


def listed(entry):
    "Every page of a part of the sidebar"
    if isinstance(entry, str): return [entry]
    if isinstance(entry, list): return [p for e in entry for p in listed(e)]
    return ([entry["href"]] if "href" in entry else []) + listed(entry.get("contents", []))


def test_sidebar():
    web = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    pages = listed(web["sidebar"]["contents"])
    made = ["changelog.md", "cite.md", "contributing.md"]  # by tools/docs.py
    assert sorted(pages) == sorted([*made, *(p.as_posix() for p in NBS)])
    assert set(listed(web["navbar"]["left"])) <= set(pages)


@pytest.mark.parametrize("path", NBS, ids=str)
def test_nothing_beside_title_and_subtitle(path):
    "nbdev makes the page's title of the first cell and drops whatever else is in it"
    first = next("".join(c["source"]) for c in cells(path) if c["cell_type"] == "markdown")
    assert re.fullmatch(r"# .+(\n+> .+)*\s*", first), "begin the text in a cell of its own"
