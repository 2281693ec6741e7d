"""Cells that a page shows can be pasted, from top to bottom, into a notebook of one's own.

Found without running them: a name that only a hidden cell defines, or a cell further down, and an
import from a folder of the repository, which is not installed.
"""

import ast
import builtins
import re
import symtable

import pytest
from test_notebooks import NBS, cells, source

TEACHING = [p for p in NBS if p.parts[0] in ("tutorials", "explanations")]
UNSEEN = re.compile(r"(?m)^#\| *(?:hide|hide_input|include: *false|echo: *false|export)\b")
OF_JUPYTER = {"get_ipython", "display", "__name__"}
MAGIC = re.compile(r"(?m)^(\s*)[%!].*$")


COMPREHENSIONS = {"listcomp", "setcomp", "dictcomp", "genexpr"}


def scopes(table, is_called=False):
    "A scope and all within it, and whether its code waits for a call"
    yield table, is_called
    for inner in table.get_children():
        waits = inner.get_type() == "function" and inner.get_name() not in COMPREHENSIONS
        yield from scopes(inner, is_called or waits)


def names_of(code):
    "What a cell defines, what it needs at once, and what its functions need when they are called"
    top = symtable.symtable(MAGIC.sub(r"\1pass", code), "cell", "exec")
    defined = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    at_once = set()
    later = set()
    for table, is_called in scopes(top):
        needed = later if is_called else at_once
        for s in table.get_symbols():
            if s.is_referenced() and (table is top or s.is_global()):
                needed.add(s.get_name())
    return defined, at_once - defined, later


def not_there(sources):
    "Names that the visible ones of these cells need and that no visible one defines before them"
    visible = [code for code in sources if not UNSEEN.search(code)]
    known = {*dir(builtins), *OF_JUPYTER}
    missing = set()
    called = set()
    for code in visible:
        defined, at_once, later = names_of(code)
        missing |= at_once - known
        known |= defined
        called |= later
    return missing | called - known


@pytest.mark.parametrize(
    ("sources", "missing"),
    [
        (["import numpy as np", "np.ones(3)"], set()),
        (["#| hide\nimport numpy as np", "np.ones(3)"], {"np"}),
        (["#| echo: false\ndef f(x):\n    return x", "f(1)"], {"f"}),
        (["#| include: false\nn = 3", "def f(x):\n    return x * n"], {"n"}),
        (["#| code-fold: true\nn = 3", "print(n)"], set()),
        (["def f(x):\n    y = x\n    return [y for z in x]", "n = 1"], set()),
        (["def f():\n    return n", "n = 1"], set()),
        (["print(n)", "n = 1"], {"n"}),
        (["[n for _ in range(3)]", "n = 1"], {"n"}),
        (["class A:\n    b: int = 3\n    c = [b]"], set()),
        (["%matplotlib inline\nfrom a.b import c as e", "e.x()\nfor i in range(3):\n    i"], set()),
        (["with open('x') as f:\n    [g for g in f]\ng"], {"g"}),
    ],
)
def test_names_that_are_not_there(sources, missing):
    assert not_there(sources) == missing


@pytest.mark.parametrize("path", TEACHING, ids=str)
def test_visible_cells_need_no_hidden_ones(path):
    assert not_there([source(c) for c in cells(path, "code")]) == set()


NOT_INSTALLED = {"benchmarks", "studies", "tests", "tools"}


def packages(code):
    "What a cell imports from"
    for node in ast.walk(ast.parse(MAGIC.sub(r"\1pass", code))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_what_a_cell_imports_from():
    code = "%matplotlib inline\nimport benchmarks.limits as b\nfrom numpy.linalg import inv"
    assert [*packages(code)] == ["benchmarks", "numpy"]


@pytest.mark.parametrize("path", TEACHING, ids=str)
def test_visible_cells_import_what_is_installed(path):
    visible = [source(c) for c in cells(path, "code") if not UNSEEN.search(source(c))]
    assert NOT_INSTALLED & {package for code in visible for package in packages(code)} == set()
