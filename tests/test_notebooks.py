"""The notebooks as they are committed: with what they say and show and nothing of the run.

One module each, every one on the site, and no module without a notebook.
"""

import base64
import io
import json
import re
from pathlib import Path

import outputs as tool
import pytest
import yaml

import calibrain
import calibrain.explorers
import calibrain.viz

ROOT = Path(__file__).resolve().parent.parent
NBS = sorted(
    p.relative_to(ROOT / "nbs")
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if ".ipynb_checkpoints" not in p.parts
)
API = [p for p in NBS if p.parts[0] == "api"]
DEFAULT_EXP = re.compile(r"(?m)^#\| *default_exp +(\S+)")
ALLOWED = {"image/png", "text/plain", "text/html", "text/markdown", "text/latex"}
OF_A_MACHINE = re.compile(
    r"/(?:root|home|tmp|work|usr|Users)/|site-packages| at 0x|CALIBRAIN_DOCS"
    r"|\d (?:ms|s|seconds) (?:on|per)|(?:it|s)/(?:s|it)\]"
)


def source(cell):
    return "".join(cell["source"])


def cells(path, kind=None):
    "The cells of a notebook, of one kind or all"
    nb = json.loads((ROOT / "nbs" / path).read_text(encoding="utf-8"))
    return [c for c in nb["cells"] if kind in (None, c["cell_type"])]


def exports(path):
    sources = map(source, cells(path, "code"))
    return [name for s in sources for name in DEFAULT_EXP.findall(s)]


def outputs(path):
    return [o for c in cells(path) for o in c.get("outputs", [])]


def pictures(path):
    data = [o.get("data", {}) for o in outputs(path)]
    return [base64.b64decode(d["image/png"]) for d in data if "image/png" in d]


@pytest.mark.parametrize("path", NBS, ids=str)
def test_clean(path):
    "Nothing of the run but what it says and shows; nbdev_clean keeps the state of widgets"
    nb = json.loads((ROOT / "nbs" / path).read_text(encoding="utf-8"))
    assert "widgets" not in nb["metadata"]
    assert not any(c.get("execution_count") or c["metadata"] for c in nb["cells"])
    kinds = {kind for o in outputs(path) for kind in o.get("data", {})}
    assert kinds <= ALLOWED, "no widgets"
    assert {o.get("name", "stdout") for o in outputs(path)} <= {"stdout"}, "nothing of stderr"


@pytest.mark.parametrize("path", NBS, ids=str)
def test_outputs_tell_nothing_about_the_machine(path):
    said = "\n".join(map(tool.words, outputs(path)))
    assert OF_A_MACHINE.findall(said) == []
    assert tool.EXPLORER not in said, "the static version of an explorer is for the site"


@pytest.mark.parametrize("path", NBS, ids=str)
def test_resolution_of_pictures(path):
    from PIL import Image

    for png in pictures(path):
        dpi, _ = Image.open(io.BytesIO(png)).info["dpi"]
        assert 80 <= round(dpi) <= 100


@pytest.mark.parametrize("path", NBS, ids=str)
def test_pictures_have_words(path):
    "For who does not see them: `fig-alt`, or what an explorer says of itself"
    for c in cells(path, "code"):
        data = [o["data"] for o in c["outputs"] if "image/png" in o.get("data", {})]
        said = ["".join(shown["text/plain"]) for shown in data]
        assert "fig-alt" in source(c) or "<picture>" not in said, c["id"]


def test_a_reader_of_the_repository_sees_what_notebooks_say():
    assert sum(len(png) for p in NBS for png in pictures(p)) < 6.5e6  # what makes a clone slow
    for p in NBS:
        if p.parts[0] in ("tutorials", "explorers"):
            assert pictures(p), f"{p}: python tools/docs.py --write"


RESULT = "<tr><th>iterations</th><td>{}</td></tr><tr><th>sources</th><td>{}</td></tr>"


@pytest.mark.parametrize(
    "a, b, same",
    [
        # one unit of the last digit shown
        ("1.23 ± 0.10 nAm", "1.23 ± 0.10 nAm", True),
        ("1.23", "1.24", True),
        ("−1.2e-3", "-1.3e-3", True),
        ("1.23", "1.25", False),
        ("1.04e+03", "1.05e+03", True),
        ("1.04e+03", "1.06e+03", False),
        ("-0.00", "0.00", True),
        ("0.00", "0.01", True),
        ("0.00", "0.02", False),
        # or 1 ‰, whichever is more
        ("ℒ = 55.3330", "ℒ = 55.3328", True),
        ("ℒ = 55.3330", "ℒ = 55.3900", False),
        ("2.904481e-05", "2.904993e-05", True),
        ("2.904481e-05", "2.914993e-05", False),
        ("-5.451172", "5.451172", False),
        # with as many digits after the point
        ("1.2", "1.20", False),
        ("1.2", "1.21", False),
        ("1", "1.0", False),
        # which a number written out to its last bit has by chance
        ("-803.4467929299371", "-803.446792929936", True),
        ("0.30000000000000004", "0.3", True),
        ("0.30000000000000004", "0.31", False),
        ("-803.4467929299371", "-805.4467929299362", False),
        # whole numbers are the same
        ("12", "13", False),
        ("1284 sources", "1285 sources", False),
        ("source 3: 1.5", "source 4: 1.5", False),
        # percentages within one
        ("covers 94% of them", "covers 95% of them", True),
        ("covers 94 % of them", "covers 95 % of them", True),
        ("covers 93% of them", "covers 95% of them", False),
        ("94 % of 300", "94 % of 301", False),
        # where a search stops
        ("24 iterations", "26 iterations", True),
        ("24 iterations", "27 iterations", False),
        ("1314 iterations, 2 orders", "1370 iterations, 2 orders", True),
        ("1314 iterations", "1390 iterations", False),
        ("24 iterations\n24 sources", "25 iterations\n25 sources", False),
        (RESULT.format(24, 24), RESULT.format(25, 24), True),
        (RESULT.format(24, 24), RESULT.format(24, 25), False),
        # rounding says nothing
        ("differs by 3.1e-16", "differs by 8e-17", True),
        ("differs by 0", "differs by 3e-12", True),
        ("differs by 3e-12", "differs by 3e-6", False),
        # words, and what lines up a table
        ("yes", "no", False),
        ("1.2 nAm", "1.2 fT", False),
        ("| a     |  9.99 |\n|-------|-------|", "| a    | 10.00 |\n|------|-------|", True),
        ("[ 1.2 -0.3]", "[1.2  -0.3]", True),
        ("one\ntwo", "one two", False),
    ],
)
def test_outputs_that_say_the_same(a, b, same):
    assert tool.alike(a, b) == same
    assert tool.alike(b, a) == same


def shown(**data):
    "An output that is shown: `text_plain` stands for text/plain"
    named = {kind.replace("_", "/"): value for kind, value in data.items()}
    return dict(output_type="display_data", metadata={}, data=named)


def printed(text, name="stdout"):
    return dict(output_type="stream", name=name, text=text)


def cell(source, *outputs):
    return dict(
        cell_type="code",
        id="a",
        source=source,
        outputs=list(outputs),
        metadata={},
        execution_count=3,
    )


def test_pieces_of_what_is_printed_are_one_text():
    pieces = [printed("a\nb"), printed("careful", "stderr"), printed(" c\n")]
    assert [o["text"] for o in tool.outputs(cell("", *pieces))] == [["a\n", "b c\n"]]


def test_an_explorer_is_kept_with_its_words():
    "Not its static version; and what is kept stays as it is when it is kept again"
    explorer = shown(
        image_png="iVBO", text_plain="A title. n 3.", text_html='<div class="explorer">'
    )
    figure = shown(image_png="iVBO", text_plain="<Figure size 2x1>", text_html="<b>a</b>")
    once = tool.outputs(cell("", explorer, figure))
    assert [o["data"]["text/plain"] for o in once] == [["A title. n 3."], ["<picture>"]]
    assert ["text/html" in o["data"] for o in once] == [False, True]
    assert tool.outputs(cell("", *once)) == once


def test_what_goes_with_the_machine_is_not_compared_but_there():
    "A cell that says so may show other digits; it may not show nothing, or a picture less"
    source = "# other machines, other digits\nprint(p)"

    def changes(source, committed, now):
        old, new = (dict(cells=[cell(source, *o)]) for o in (committed, now))
        return len(list(tool.stale(old, new)))

    chain = [printed("P = 0.53, from 54 mm\n")]
    another = [printed("P = 0.51, from 50 mm\n")]
    assert changes("print(p)", chain, another) == 1
    assert changes(source, chain, another) == 0
    assert changes(source, chain, []) == 1
    drawn = [shown(image_png=base64.b64encode(picture()).decode(), text_plain="<picture>")]
    assert changes(source, chain, drawn) == 1
    assert changes("x = 1  # other machines, other digits", chain, another) == 1


def test_stale_outputs_are_found(tmp_path):
    "Text, and a picture more or less; not what a page hides, nor widgets and stderr"
    png = base64.b64encode(picture()).decode()
    said = printed("γ = 1.50\n")
    drawn = shown(image_png=png, text_plain="<Axes>", text_html='<div class="explorer">')
    fresh = dict(
        cells=[
            cell("print(1)", said, printed("careful", "stderr")),
            cell("#| hide\n1", shown(text_plain="1")),
            cell("x", drawn),
        ]
    )
    empty = [cell("print(1)"), cell("#| hide\n1"), cell("x")]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(dict(cells=empty, metadata={}, nbformat=4, nbformat_minor=5)))

    def changes():
        found = tool.stale(json.loads(path.read_text()), fresh)
        return [(before, now) for _, before, now in found]

    assert changes() == [("(nothing)", "γ = 1.50\n"), ("(nothing)", "<picture>")]
    tool.write(path, fresh, lambda a, b: False)
    assert changes() == []
    committed = [c["outputs"] for c in json.loads(path.read_text())["cells"]]
    assert [len(o) for o in committed] == [1, 0, 1]
    assert set(committed[2][0]["data"]) == {"image/png", "text/plain"}
    said["text"] = "γ = 1.70\n"
    assert changes() == [("γ = 1.50\n", "γ = 1.70\n")]


def test_committed_outputs_are_kept_but_for_explorers():
    "A page about a recording that is not here says what was committed, and its controls answer"
    explorer = shown(text_html='<div class="explorer">', image_png="new")
    fresh = dict(cells=[cell("print(1)", printed("γ = 2\n")), cell("x", explorer)])
    still = shown(text_plain="<picture>", image_png="old")
    committed = dict(cells=[cell("print(1)", printed("γ = 1\n")), cell("x", still)])
    kept = [c["outputs"] for c in tool.as_committed(fresh, committed)["cells"]]
    assert kept == [[printed("γ = 1\n")], [explorer]]


def picture():
    from matplotlib.figure import Figure

    fig = Figure(figsize=(2, 1))
    fig.subplots().plot([1, 2, 3])
    fig.savefig(out := io.BytesIO(), format="png")
    return out.getvalue()


@pytest.mark.parametrize("path", NBS, ids=str)
def test_title(path):
    heads = [re.findall(r"(?m)^# .+", source(c)) for c in cells(path, "markdown")]
    assert len(heads[0]) == 1 and not any(heads[1:]), "one H1, in the first cell of prose"


@pytest.mark.parametrize("path", API, ids=str)
def test_one_module(path):
    "It is named as its notebook"
    (module,) = exports(path)
    assert module.split(".")[-1] == re.sub(r"^\d+_", "", path.stem)


def test_only_api_exports():
    for path in NBS:
        assert path in API or not exports(path), path


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
    made = ["changelog.md", "cite.md", "contributing.md", "gallery.md"]  # by tools/docs.py
    assert sorted(pages) == sorted([*made, *(p.as_posix() for p in NBS)])
    assert set(listed(web["navbar"]["left"])) <= set(pages)


@pytest.mark.parametrize("path", NBS, ids=str)
def test_nothing_beside_title_and_subtitle(path):
    "nbdev makes the page's title of the first cell, keeps words to search by, and drops all else"
    first = source(cells(path, "markdown")[0])
    assert re.fullmatch(r"# .+(\n+> .+)*(\n+- keywords: .+)?\s*", first), (
        "begin the text in a cell of its own"
    )


HIDDEN = re.compile(r"(?m)^#\| *(export|hide|include: *false|echo: *false)")
IMPORT = re.compile(r"(?m)^(from|import) .*$")


# The old names have one table for all their methods, and explorers are moved by hand
APART = ("calibrain.published", "calibrain.explorers")


def is_plain(member):
    "Whether a member of a class is the default of a field"
    return isinstance(member, (bool, int, float, str, tuple, type(None)))


def public_names():
    "Dotted names of what is called from outside, and of the methods of its classes"
    for package in (calibrain, calibrain.explorers, calibrain.viz):
        for name in package.__all__:
            value = getattr(package, name)
            yield name, rf"\b{name}\b"
            if isinstance(value, type) and not value.__module__.startswith(APART):
                for method, member in vars(value).items():
                    if not method.startswith("_") and not is_plain(member):
                        yield f"{name}.{method}", rf"\.{method}\b"


def test_every_public_name_has_an_example():
    shown = [source(c) for path in NBS for c in cells(path, "code")]
    shown = "\n".join(IMPORT.sub("", code) for code in shown if not HIDDEN.search(code))
    missing = [name for name, pattern in public_names() if not re.search(pattern, shown)]
    assert not missing
