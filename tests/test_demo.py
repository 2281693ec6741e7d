"`calibrain demo` as a real process: its numbers, its files, and what it says about mistakes."

import functools
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from problems import FILTERED
from routine import heeding_ctrl_c

from calibrain.cli import text_table
from calibrain.demo import BESIDE, PAIRS, run_demo, tutorial_problem

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT.parent / "shared/reference/tutorial_problem.npz"
PICTURES = {
    "waveforms.png",
    "today.png",
    "variances.png",
    "vector-norms.png",
    "source-norms.png",
}
FILES = PICTURES | {"index.html"}
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
ENV = {
    **{name: value for name, value in os.environ.items() if name not in DISPLAYS},
    "PYTHONPATH": str(ROOT),
    "PYTHONIOENCODING": "utf-8",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "tkagg",  # a backend that needs a display, which must not be asked for
}
COMMAND = [sys.executable, "-m", "calibrain.cli"]


def calibrain(*words, **options):
    "The command, run to its end"
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        encoding="utf-8",
        env=ENV | options.pop("env", {}),
        timeout=120,
        **options,
    )


def all_rows(text):
    "The tables' rows as lists of words; the words '→ 0, undetermined' become 'none'"
    text = text.replace("→ 0, undetermined", "none")
    solvers = r"(gamma_|BMN|spike_slab)"
    cells = [line.split() for line in text.splitlines() if re.match(solvers, line)]
    assert [len(row) for row in cells] == [9] * 12, text
    return cells


def rows(text):
    "Those of the tutorial"
    return all_rows(text)[:9]


def beside(text):
    "Those that one would do today"
    return all_rows(text)[9:]


def without_times(table):
    return [row[:-1] for row in table]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    "One run with the tutorial's seed, into a folder whose parent is missing too"
    out = tmp_path_factory.mktemp("demo") / "new" / "page"
    done = calibrain("demo", "--out", out)
    assert done.returncode == 0, done.stderr
    return done, out


@pytest.fixture(scope="module")
def demo():
    "The same nine runs, here"
    return run_demo()


def test_streams(first):
    done, out = first
    assert done.stderr == "", "no bar where stderr is no terminal, and no warnings"
    *table, last = done.stdout.splitlines()
    assert last.endswith(str(out / "index.html"))
    assert max(map(len, table)) <= 120


def test_columns_line_up(first):
    lines = [line for line in first[0].stdout.splitlines() if re.match(r"(gamma_|BMN)", line)]
    assert len({len(line) for line in lines}) == 1
    for edge in (22, 23, 47, 48):
        assert all(line[edge] == " " for line in lines)


def test_pairs(first):
    pairs = [(solver, mode) for solver, mode, *_ in rows(first[0].stdout)]
    assert pairs == [*PAIRS["fixed"], *PAIRS["free"]]


FIXED = "0.139745"  # 0.1397447217185092
FREE = "0.177956"  # 0.1779559447265109
NOISE = [  # as printed in the tutorial; the optimum for BMN_joint
    FIXED,
    "0.111945",
    "0.111865",
    FIXED,
    "0.111945",
    "0.141661",
    FREE,
    "0.125675",
    "none",
]


def test_noise_variances(first):
    table = rows(first[0].stdout)
    assert [row[2] for row in table] == NOISE
    assert [row[3] for row in table] == [FIXED] * 6 + [FREE] * 3


def test_printed_in_full(demo):
    "The tutorial prints more digits than the table"
    oracle, baseline, learned = 0.1397447217185092, 0.11194502692152937, 0.11186522283608982
    used = [run.result.noise_var for run in demo.runs]
    given = [oracle, baseline, learned, oracle, baseline]
    np.testing.assert_allclose(used[:5], given, rtol=1e-9)
    later = [0.14166, 0.1779559447265109, 0.1256751978489976]
    np.testing.assert_allclose(used[5:8], later, rtol=1e-5)
    assert [run.result.noise_at_boundary for run in demo.runs] == [False] * 8 + [True]


def test_costs(first):
    cost = [float(row[4]) for row in rows(first[0].stdout)]
    assert (cost[3], cost[5], cost[8]) == (10.7672, 10.7671, 16.9807)
    assert cost[6] <= 8.1275


def dense(problem, result):
    "ℒ and the posterior mean, with every matrix in full"
    y = problem.y
    n_sensors, n_times = y.shape
    L = problem.leadfield.reshape(n_sensors, -1)
    S = result.posterior.S.toarray()
    prior = S @ np.diag(result.posterior.gamma) @ S.T
    noise_var = result.get("lambdas", result.noise_var)
    noise = np.diag(np.broadcast_to(noise_var, n_sensors))
    Sigma_y = noise + L @ prior @ L.T
    misfit = np.trace(np.linalg.solve(Sigma_y, y @ y.T)) / n_times
    cost = np.linalg.slogdet(Sigma_y)[1] + misfit
    return cost, prior @ L.T @ np.linalg.solve(Sigma_y, y)


def test_costs_and_errors_by_another_route(first, demo):
    for run, row in zip(demo.runs[:8], rows(first[0].stdout)):
        cost, mean = dense(run.problem, run.result)
        x = run.problem.x.reshape(mean.shape)
        error = np.linalg.norm(mean - x) / np.linalg.norm(x)
        assert abs(cost - float(row[4])) < 6e-5
        assert abs(error - float(row[7])) < 6e-5


def test_iterations_and_convergence(first):
    for row in rows(first[0].stdout):
        solver, n_iter, converged = row[0], int(row[5]), row[6]
        if solver.endswith("_sflex"):
            assert (n_iter, converged) == (150, "no")
        else:
            assert n_iter < 300 and converged == "yes"
    assert "Not converged:" in first[0].stdout
    assert "→ 0:" in first[0].stdout


def test_beside(first, demo):
    "What one would do today: converged, at a cost no higher, and with the best of errors"
    table = beside(first[0].stdout)
    assert [(solver, mode) for solver, mode, *_ in table] == [*BESIDE]
    assert [row[6] for row in table] == ["yes"] * 3
    cost = {run.label: run.result.cost for run in demo.runs[:3]}
    for run in demo.beside[:2]:
        assert run.result.cost <= cost[run.label] and run.notes == ()
    others = min(run.error for run in demo.of("fixed"))
    assert demo.beside[-1].error < others


def test_words_and_next(first):
    "The page explains its words, and ends in what to do next"
    page = Page(first[1] / "index.html")
    said = " ".join(page.text)
    for word in {solver for solver, *_ in all_rows(first[0].stdout)} | {"oracle", "cost ℒ", "nAm"}:
        assert word in said
    assert said.index("The words") < said.rindex("Next")
    assert "calibrain choose" in said and "calibrain estimate" in said
    for path in re.findall(r"nbs/[\w/]+\.ipynb", said):
        assert (ROOT / path).exists()


def test_the_problem_is_the_tutorials():
    if not REFERENCE.exists():
        pytest.skip(f"no {REFERENCE.name} in ../shared/reference")
    want = np.load(REFERENCE)
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=FILTERED)
    for kind in ("fixed", "free"):
        problem = tutorial_problem(kind)
        for name in ("x", "y", "noise", "active", "eta", "leadfield"):
            close(getattr(problem, name), want[f"{name}_{kind}"])
        close(problem.src_coords, want["src_coords"])


def test_pictures(first):
    from matplotlib.image import imread

    out = first[1]
    assert {path.name for path in out.iterdir()} == FILES
    for name in PICTURES:
        rgb = imread(out / name)[..., :3]
        height, width, _ = rgb.shape
        assert 900 <= width <= 2000 and 400 <= height <= 1200, name
        ink = (rgb < 0.98).any(2)
        assert 0.02 < ink.mean() < 0.5, name
        edges = [ink[0], ink[-1], ink[:, 0], ink[:, -1]]
        assert not any(edge.any() for edge in edges), f"{name}: something is cut off at the edge"
        colours = np.round(255 * rgb).astype(int) @ [1, 256, 65536]
        assert len(np.unique(colours)) > 50, name


class Page(HTMLParser):
    "The tags of a page with their attributes, and its text"

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def shows(self, cells):
        "Whether all cells of a row are on the page"
        return all(cell == "none" or cell in self.text for cell in cells)


def test_page(first):
    done, out = first
    page = Page(out / "index.html")
    assert page.all("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    images = page.all("img")
    assert {image["src"] for image in images} == PICTURES
    assert all(len(image["alt"]) > 40 for image in images)
    assert not page.all("script") and not page.all("link")
    addresses = [attrs.get("src", "") + attrs.get("href", "") for _, attrs in page.tags]
    assert not any("//" in address for address in addresses), "nothing from outside"
    for cells in all_rows(done.stdout):
        assert page.shows(cells), cells
    assert "→ 0, undetermined" in page.text


@pytest.mark.parametrize("width", [1280, 390])
def test_page_in_a_browser(first, browser, width):
    page = browser.new_page(viewport=dict(width=width, height=800))
    page.goto((first[1] / "index.html").as_uri())
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 600)")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width, "the page itself must not scroll sideways"
    page.close()


def refused(done):
    "The one line about a mistake"
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("calibrain")
    return done.stderr


@pytest.mark.parametrize(
    "words, says",
    [
        (["demo", "--sed", "7"], "unrecognized arguments: --sed 7"),
        (["demo", "--see", "7"], "unrecognized"),
        (["demo", "--seed", "-1"], "whole number from 0 to 4294967294, got '-1'"),
        (["demo", "--seed", "4294967295"], "whole number"),
        (["demo", "--seed", "1.5"], "got '1.5'"),
        (["demo", "--seed", "a\nb"], "whole number"),
        (["demo", "--seed"], "expected one argument"),
        (["demo", "--out", " "], "must name a folder"),
        (["demo", "page"], "unrecognized arguments: page"),
        (["dmeo"], "invalid choice: 'dmeo'"),
        ([], "COMMAND"),
        (["--frobnicate"], "COMMAND"),
    ],
)
def test_mistakes(words, says, tmp_path):
    assert says in refused(calibrain(*words, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "page/index.html").mkdir(parents=True)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for out, says in [
        ("file", "file is not a folder"),
        ("file/x/y", "file is not a folder"),
        ("page", "index.html is a folder"),
        ("gone", "gone is not a folder"),
        ("x" * 300, "name too long"),
    ]:
        line = refused(calibrain("demo", "--out", out, cwd=tmp_path))
        assert says in line
        assert f"cannot write to {out}" in line
        assert "--out" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "gone", "page"]
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["index.html"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_folder_of_the_kernel():
    refused(calibrain("demo", "--out", "/proc/page"))


def test_mistakes_are_found_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    code = """
import sys
from calibrain.cli import main
print(main(["demo", "--out", "file"]), main(["demo", "--seed", "x"]))
print("numpy" in sys.modules, "tqdm" in sys.modules)
"""
    python = [sys.executable, "-c", code]
    done = subprocess.run(python, capture_output=True, text=True, env=ENV, cwd=tmp_path)
    assert done.stdout == "2 2\nFalse False\n"


def test_interrupted(tmp_path):
    "SIGINT in the middle: no traceback, and nothing is left of the folder that was made"
    out = tmp_path / "a" / "page"
    process = subprocess.Popen(
        [*COMMAND, "demo", "--out", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV,
        preexec_fn=heeding_ctrl_c,
    )
    deadline = time.monotonic() + 60
    while not list(out.glob(".calibrain-*/*.png")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "calibrain: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays(tmp_path):
    "In the default folder other files are left alone, and the demo's own are replaced"
    out = tmp_path / "calibrain-demo"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    (out / "index.html").write_text("old")
    no_greek = dict(PYTHONIOENCODING="ascii")  # as on a terminal without Greek letters
    done = calibrain("demo", cwd=tmp_path, env=no_greek, input="")
    assert done.returncode == 0, done.stderr
    assert "cost" in done.stdout and "?" in done.stdout
    assert (out / "mine.txt").read_text() == "mine"
    assert "CaliBrain" in (out / "index.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["calibrain-demo"]
    assert {path.name for path in out.iterdir()} == FILES | {"mine.txt"}


def test_another_seed_for_a_reader_that_leaves(first, tmp_path):
    "A broken pipe is no error: the page is written all the same, with the numbers of its seed"
    out = tmp_path / "page"
    command = f"{sys.executable} -m calibrain.cli demo --seed 7 --out {out}"
    done = subprocess.run(
        ["/bin/bash", "-c", f"{command} | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        env=ENV,
    )
    assert (done.returncode, done.stderr) == (0, "")

    page = Page(out / "index.html")
    for one, other in zip(rows(first[0].stdout), rows(text_table(run_demo(7)))):
        assert one[:2] == other[:2]
        assert one[3] != other[3] and one[4] != other[4]
        assert page.shows(other[:-1]), other
    assert (out / "waveforms.png").read_bytes() != (first[1] / "waveforms.png").read_bytes()


def read_all(terminal):
    "What was written to a terminal whose other end is closed"
    seen = b""
    try:
        while part := os.read(terminal, 65536):
            seen += part
    except OSError:
        pass  # nothing more will come
    os.close(terminal)
    return seen


def test_again_on_a_terminal(first, tmp_path):
    "The same numbers and pictures; there is a bar, on stderr, and it is gone at the end"
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen(
        [*COMMAND, "demo", "--out", tmp_path / "page", "--seed", "41"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        encoding="utf-8",
        env=ENV,
    )
    os.close(theirs)
    stdout, _ = process.communicate(timeout=120)
    seen = read_all(ours)
    assert process.returncode == 0
    assert b"17/17" in seen
    assert b"\n" not in seen

    assert without_times(rows(stdout)) == without_times(rows(first[0].stdout))
    for name in PICTURES:
        assert (tmp_path / "page" / name).read_bytes() == (first[1] / name).read_bytes(), name


def test_version_and_help():
    done = calibrain("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"calibrain \d+\.\d+\.\d+\n", done.stdout)
    for words in (["--help"], ["demo", "--help"]):
        done = calibrain(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert "demo" in done.stdout
