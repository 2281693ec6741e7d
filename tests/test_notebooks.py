"The notebooks as they are committed: with what they say and show and nothing of the run, one module each, every one on the site, and no module without a notebook."

import base64
import importlib.util
import io
import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("outputs", ROOT / "tools/outputs.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
NBS = sorted(
    p.relative_to(ROOT / "nbs")
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if ".ipynb_checkpoints" not in p.parts
)
API = [p for p in NBS if p.parts[0] == "api"]
DEFAULT_EXP = re.compile(r"(?m)^#\| *default_exp +(\S+)")


def cells(path):
    return json.loads((ROOT / "nbs" / path).read_text(encoding="utf-8"))["cells"]


def exports(path):
    return [
        m
        for c in cells(path)
        if c["cell_type"] == "code"
        for m in DEFAULT_EXP.findall("".join(c["source"]))
    ]


def outputs(path):
    return [o for c in cells(path) for o in c.get("outputs", [])]


def pictures(path):
    return [
        base64.b64decode(o["data"]["image/png"])
        for o in outputs(path)
        if "image/png" in o.get("data", {})
    ]


@pytest.mark.parametrize("path", NBS, ids=str)
def test_clean(path):
    "Nothing of the run but what it says and shows; nbdev_clean keeps the state of widgets, so this looks for it too"
    nb = json.loads((ROOT / "nbs" / path).read_text(encoding="utf-8"))
    assert "widgets" not in nb["metadata"]
    assert not any(c.get("execution_count") or c["metadata"] for c in nb["cells"])
    kinds = {kind for o in outputs(path) for kind in o.get("data", {})}
    assert kinds <= {"image/png", "text/plain", "text/html", "text/markdown", "text/latex"}, (
        "no widgets"
    )
    assert {o.get("name", "stdout") for o in outputs(path)} <= {"stdout"}, "nothing of stderr"


@pytest.mark.parametrize("path", NBS, ids=str)
def test_outputs_tell_nothing_about_the_machine(path):
    said = "\n".join(
        "".join(v)
        for o in outputs(path)
        for k, v in [("text/plain", o.get("text", "")), *o.get("data", {}).items()]
        if k.startswith("text/")
    )
    assert (
        re.findall(
            r"/(?:root|home|tmp|work|usr|Users)/|site-packages| at 0x|\d (?:ms|s|seconds) (?:on|per)|(?:it|s)/(?:s|it)\]|CALIBRAIN_DOCS",
            said,
        )
        == []
    )
    assert 'class="explorer"' not in said, "the static version of an explorer is for the site"


@pytest.mark.parametrize("path", NBS, ids=str)
def test_resolution_of_pictures(path):
    from PIL import Image

    assert all(
        80 <= round(Image.open(io.BytesIO(png)).info["dpi"][0]) <= 100 for png in pictures(path)
    )


def test_a_reader_of_the_repository_sees_what_notebooks_say():
    assert sum((ROOT / "nbs" / p).stat().st_size for p in NBS) < 12e6
    for p in NBS:
        if p.parts[0] in ("tutorials", "explorers"):
            assert pictures(p), f"{p}: python tools/docs.py --write"


@pytest.mark.parametrize(
    "a, b, same",
    [
        ("1.23 ± 0.10 nAm", "1.23 ± 0.10 nAm", True),
        ("1.23", "1.24", True),
        ("−1.2e-3", "-1.3e-3", True),
        ("1.23", "1.25", False),
        ("12", "13", False),
        ("1.2", "1.20", False),
        ("source 3: 1.5", "source 4: 1.5", False),
        ("yes", "no", False),
        ("1.2 nAm", "1.2 fT", False),
    ],
)
def test_outputs_that_say_the_same(a, b, same):
    assert tool.alike(a, b) == same


def test_stale_outputs_are_found(tmp_path):
    "Text, and a picture more or less; not what a page hides, nor widgets and stderr"
    out = lambda **data: dict(
        output_type="display_data",
        metadata={},
        data={k.replace("_", "/"): v for k, v in data.items()},
    )
    cell = lambda source, *o: dict(
        cell_type="code", id="a", source=source, outputs=list(o), metadata={}, execution_count=3
    )
    said, warned = (
        dict(output_type="stream", name="stdout", text="γ = 1.50\n"),
        dict(output_type="stream", name="stderr", text="careful"),
    )
    assert [
        o["text"]
        for o in tool.outputs(cell("", said | dict(text="a\nb"), warned, said | dict(text=" c\n")))
    ] == [["a\n", "b c\n"]], "pieces are one text"
    png = base64.b64encode(picture()).decode()
    fresh = dict(
        cells=[
            cell("print(1)", said, warned),
            cell("#| hide\n1", out(text_plain="1")),
            cell("x", out(image_png=png, text_plain="<Axes>", text_html='<div class="explorer">')),
        ]
    )
    path = tmp_path / "a.ipynb"
    path.write_text(
        json.dumps(
            dict(
                cells=[cell("print(1)"), cell("#| hide\n1"), cell("x")],
                metadata={},
                nbformat=4,
                nbformat_minor=5,
            )
        )
    )
    committed = lambda: json.loads(path.read_text())
    assert [(b, a) for _, a, b in tool.stale(committed(), fresh)] == [
        ("γ = 1.50\n", "(nothing)"),
        ("<picture>", "(nothing)"),
    ]
    tool.write(path, fresh, lambda a, b: False)
    assert list(tool.stale(committed(), fresh)) == []
    assert [len(c["outputs"]) for c in committed()["cells"]] == [1, 0, 1] and set(
        committed()["cells"][2]["outputs"][0]["data"]
    ) == {"image/png", "text/plain"}
    said["text"] = "γ = 1.70\n"
    assert [(a, b) for _, a, b in tool.stale(committed(), fresh)] == [("γ = 1.50\n", "γ = 1.70\n")]


def picture():
    from matplotlib.figure import Figure

    fig = Figure(figsize=(2, 1))
    fig.subplots().plot([1, 2, 3])
    fig.savefig(out := io.BytesIO(), format="png")
    return out.getvalue()


@pytest.mark.parametrize("path", NBS, ids=str)
def test_title(path):
    heads = [
        re.findall(r"(?m)^# .+", "".join(c["source"]))
        for c in cells(path)
        if c["cell_type"] == "markdown"
    ]
    assert len(heads[0]) == 1 and not any(heads[1:]), "one H1, in the first cell of prose"


@pytest.mark.parametrize("path", API, ids=str)
def test_one_module(path):
    assert len(exports(path)) == 1
    assert exports(path)[0].split(".")[-1] == re.sub(r"^\d+[a-z]?_", "", path.stem), (
        "the module is named as its notebook"
    )


def test_only_api_exports():
    assert [p for p in NBS if p not in API and exports(p)] == []


def test_modules_have_notebooks():
    "nbdev_export does not remove the module of a notebook that was deleted or renamed"
    made = {m.replace(".", "/") + ".py" for p in API for m in exports(p)}
    found = {
        p.relative_to(ROOT / "calibrain").as_posix()
        for p in (ROOT / "calibrain").rglob("*.py")
        if p.name not in ("__init__.py", "_modidx.py")
    }
    assert found == made


def listed(entry):
    "Every page of a part of the sidebar"
    if isinstance(entry, str):
        return [entry]
    if isinstance(entry, list):
        return [p for e in entry for p in listed(e)]
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
