"Running the notebooks: what fails a run, what is left out, and that kernels are as they should be."

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import docs as builder
import kernels
import notebooks
import pytest

ROOT = Path(__file__).resolve().parent.parent
nbformat = pytest.importorskip("nbformat")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "A folder for notebooks, and the environment that a run changes"
    for name, value in notebooks.environment().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "nbs").mkdir()
    return tmp_path / "nbs"


def write(path, *sources):
    cells = [nbformat.v4.new_code_cell(s) for s in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def executed(folder):
    "Run a folder; what each notebook says, by name"
    target = folder.parent / "_exec"
    notebooks.execute(folder, target)
    found = {}
    for path in target.rglob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        found[path.name] = [o for c in cells for o in c.get("outputs", [])]
    return found


# Both ways to run a notebook: for the documentation, and `nbdev_test` for one that is worked on
def runs_here(path):
    try:
        executed(path.parent)
    except RuntimeError:
        return False
    return True


def runs_in_nbdev(path):
    command = [Path(sys.executable).parent / "nbdev_test", "--path", path]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=100)
    return done.returncode == 0


LEFT_OUT = [
    "#| notest\n1 / 0",
    "#|slow\n1 / 0",
    "#| eval: false\n1 / 0",
    "#|eval:false\n1 / 0",
    "#| hide\n#| notest\n1 / 0",
    "if False: nbdev_export()\n1 / 0",
]
FAILING = ["1 / 0", "#| hide\nassert 1 == 2", "#| echo: false\n1 / 0", "# slow, notest\n1 / 0"]


@pytest.mark.parametrize("runs", [runs_here, runs_in_nbdev])
def test_what_is_left_out(folder, runs):
    assert runs(write(folder / "a.ipynb", "a = 1", *LEFT_OUT, "assert a"))


@pytest.mark.parametrize("runs", [runs_here, runs_in_nbdev])
@pytest.mark.parametrize("failing", FAILING)
def test_what_fails(folder, runs, failing):
    assert not runs(write(folder / "a.ipynb", *LEFT_OUT, failing))


def test_every_failure_is_told(folder):
    "All notebooks run, and each that fails is named, with its error"
    write(folder / "first.ipynb", "1 / 0")
    write(folder / "second.ipynb", "#| hide\nassert 'a' == 'b'")
    write(folder / "third.ipynb", "1")
    with pytest.raises(RuntimeError) as error:
        notebooks.execute(folder, folder.parent / "_exec")
    said = str(error.value)
    assert "first.ipynb: " in said and "ZeroDivisionError" in said
    assert "second.ipynb: " in said and "AssertionError" in said
    assert "third.ipynb" not in said


def test_without_the_recording_its_notebook_runs_and_keeps_its_outputs(folder, monkeypatch):
    path = write(folder / "08_real_recording.ipynb", "print('simulated')  # shared/realdata")
    nb = nbformat.read(path, 4)
    nb.cells[0].outputs = [nbformat.v4.new_output("stream", text="real")]
    nbformat.write(nb, path)
    for there, said in ((False, "real"), (True, "simulated\n")):
        monkeypatch.setattr(notebooks, "RECORDING", folder if there else folder / "nowhere")
        assert executed(folder)[path.name][0]["text"] in (said, [said])
    monkeypatch.setattr(notebooks, "RECORDING", folder / "nowhere")
    write(path, "1 / 0")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        executed(folder)


def test_a_notebook_that_asks_not_to_be_run(folder):
    path = write(folder / "a.ipynb", "1 / 0")
    nb = nbformat.read(path, 4)
    nb.cells.insert(0, nbformat.v4.new_raw_cell("---\nskip_exec: true\n---"))
    nbformat.write(nb, path)
    assert executed(folder) == {"a.ipynb": []}


LOOK = """
import json, multiprocessing, os, sys
look = [os.getcwd(), sys.path[0], __name__, sys.modules["__main__"].__name__]
print(json.dumps([*look, multiprocessing.get_start_method()]))
"""
DRAW = "import matplotlib.pyplot as plt; plt.plot([1, 2]);"


@pytest.mark.parametrize("platform", ["linux", "another"])
def test_a_kernel(folder, monkeypatch, platform):
    "Copied or from nothing: in the notebook's folder, apart from others, with pictures inline"
    monkeypatch.setattr(kernels.sys, "platform", platform)
    write(folder / "a.ipynb", "x = 1", LOOK, DRAW)
    write(folder / "b.ipynb", "assert 'x' not in globals()", "print('apart')")
    found = executed(folder)
    place, _, name, main, method = json.loads("".join(found["a.ipynb"][0]["text"]))
    assert Path(place) == folder and name == main == "__main__"
    assert method == multiprocessing.get_all_start_methods()[0], "the usual one"
    assert "image/png" in found["a.ipynb"][1]["data"]
    assert "".join(found["b.ipynb"][0]["text"]) == "apart\n"


def test_the_longest_begin(tmp_path):
    "As the last run found them, or the ones that are known to take long"
    slow = Path(notebooks.FIRST[0]).with_suffix(".ipynb")
    paths = [Path("b.ipynb"), slow, Path("a.ipynb")]
    assert notebooks.longest_first(paths, tmp_path) == [slow, Path("a.ipynb"), Path("b.ipynb")]
    times = f"  12.5 s  b.ipynb\n   3.0 s  {slow.as_posix()}\n"
    (tmp_path / notebooks.TIMES).write_text(times)
    assert notebooks.longest_first(paths, tmp_path) == [Path("b.ipynb"), slow, Path("a.ipynb")]


def test_those_that_take_long_exist():
    for page in notebooks.FIRST:
        assert (ROOT / f"nbs/{page}.ipynb").exists(), page


def test_what_a_run_notes(folder):
    write(folder / "a.ipynb", "1")
    executed(folder)
    seconds, _, name = (folder.parent / "_exec" / notebooks.TIMES).read_text().partition(" s  ")
    assert 0 < float(seconds) < 100 and name == "a.ipynb\n"


def test_no_settings_in_the_site(folder):
    "Of ruff, for notebooks that a newcomer reads"
    (folder / "ruff.toml").write_text("line-length = 88")
    executed(folder)
    assert not (folder.parent / "_exec/ruff.toml").exists()


def test_options_over_lines():
    source = "#| fig-cap: One\n#|   two, three.\n#| echo: false\nx = 1"
    assert notebooks.one_line(source) == "#| fig-cap: One two, three.\n#| echo: false\nx = 1"


def test_without_npm(tmp_path, capsys):
    "The build goes on, and says what is missing"
    builder.offline(tmp_path / "nowhere")
    assert "npm" in capsys.readouterr().err
