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

from calibrain.demo import PAIRS, run_demo, tutorial_problem

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT.parent / "shared/reference/tutorial_problem.npz"
PICTURES = {"waveforms.png", "variances.png", "vector-norms.png", "source-norms.png"}
ENV = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")} | dict(
    PYTHONPATH=str(ROOT), PYTHONIOENCODING="utf-8", OMP_NUM_THREADS="1", MPLBACKEND="tkagg"
)
COMMAND = [sys.executable, "-m", "calibrain.cli"]


def calibrain(*words, env={}, **kw):
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=ENV | env,
        timeout=120,
        **kw,
    )


def rows(text):
    "The table's rows as lists of words; the words '→ 0, undetermined' become 'none'"
    cells = [
        line.replace("→ 0, undetermined", "none").split()
        for line in text.splitlines()
        if re.match(r"(gamma_|BMN)", line)
    ]
    assert len(cells) == 9 and all(len(c) == 9 for c in cells), text
    return cells


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    "One run with the tutorial's seed, into a folder whose parent is missing too"
    out = tmp_path_factory.mktemp("demo") / "new" / "page"
    done = calibrain("demo", "--out", out)
    assert done.returncode == 0, done.stderr
    return done, out


@pytest.fixture(scope="module")
def demo():
    return run_demo()


def test_streams(first):
    done, out = first
    assert done.stderr == "", "no bar where stderr is no terminal, and no warnings"
    assert done.stdout.splitlines()[-1].endswith(str(out / "index.html"))
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 120


def test_columns_line_up(first):
    lines = [l for l in first[0].stdout.splitlines() if re.match(r"(gamma_|BMN)", l)]
    assert len({len(l) for l in lines}) == 1
    for edge in (22, 23, 47, 48):
        assert all(l[edge] == " " for l in lines)


def test_pairs(first):
    assert [tuple(c[:2]) for c in rows(first[0].stdout)] == [*PAIRS["fixed"], *PAIRS["free"]]


FIXED, FREE = "0.139745", "0.177956"  # 0.1397447217185092 and 0.1779559447265109
NOISE = [
    FIXED,
    "0.111945",
    "0.111865",
    FIXED,
    "0.111945",
    "0.141661",
    FREE,
    "0.125675",
    "none",
]  # as printed in the tutorial; the optimum for BMN_joint


def test_noise_variances(first):
    table = rows(first[0].stdout)
    assert [c[2] for c in table] == NOISE
    assert [c[3] for c in table] == [FIXED] * 6 + [FREE] * 3


def test_printed_in_full(demo):
    "The tutorial prints more digits than the table"
    used = [r.result.noise_var for r in demo.runs]
    np.testing.assert_allclose(
        used[:5],
        [
            0.1397447217185092,
            0.11194502692152937,
            0.11186522283608982,
            0.1397447217185092,
            0.11194502692152937,
        ],
        rtol=1e-9,
    )
    np.testing.assert_allclose(
        used[5:8], [0.14166, 0.1779559447265109, 0.1256751978489976], rtol=1e-5
    )
    assert demo.runs[8].result.noise_at_boundary and not any(
        r.result.noise_at_boundary for r in demo.runs[:8]
    )


def test_costs(first):
    cost = [float(c[4]) for c in rows(first[0].stdout)]
    assert (cost[3], cost[5], cost[8]) == (10.7672, 10.7671, 16.9807)
    assert cost[6] <= 8.1275


def dense(problem, result):
    "ℒ and the posterior mean, with every matrix in full"
    L, y = problem.leadfield.reshape(len(problem.y), -1), problem.y
    S, gamma = result.posterior.S.toarray(), result.posterior.gamma
    noise = np.diag(np.broadcast_to(result.get("lambdas", result.noise_var), len(y)))
    prior = S @ np.diag(gamma) @ S.T
    sigma = noise + L @ prior @ L.T
    return np.linalg.slogdet(sigma)[1] + np.trace(np.linalg.solve(sigma, y @ y.T)) / y.shape[
        1
    ], prior @ L.T @ np.linalg.solve(sigma, y)


def test_costs_and_errors_by_another_route(first, demo):
    for r, c in zip(demo.runs[:8], rows(first[0].stdout)):
        cost, mean = dense(r.problem, r.result)
        x = r.problem.x.reshape(mean.shape)
        assert abs(cost - float(c[4])) < 6e-5
        assert abs(np.sqrt(((mean - x) ** 2).sum() / (x**2).sum()) - float(c[7])) < 6e-5


def test_iterations_and_convergence(first):
    for solver, _, _, _, _, n, converged, *_ in rows(first[0].stdout):
        assert (
            (int(n), converged) == (150, "no")
            if solver.endswith("_sflex")
            else int(n) < 300 and converged == "yes"
        )
    assert "Not converged:" in first[0].stdout and "→ 0:" in first[0].stdout


def test_the_problem_is_the_tutorials():
    if not REFERENCE.exists():
        pytest.skip(f"no {REFERENCE.name} in ../shared/reference")
    want = np.load(REFERENCE)
    for kind in ("fixed", "free"):
        p = tutorial_problem(kind)
        for name in ("x", "y", "noise", "active", "eta", "leadfield"):
            np.testing.assert_allclose(getattr(p, name), want[f"{name}_{kind}"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(p.src_coords, want["src_coords"], rtol=0, atol=1e-12)


def test_again_and_with_another_seed(first, tmp_path):
    table = rows(first[0].stdout)
    again, other = (
        rows(calibrain("demo", "--out", tmp_path / s, "--seed", s).stdout) for s in ("41", "7")
    )
    assert [c[:-1] for c in again] == [c[:-1] for c in table]
    for a, b in zip(table, other):
        assert a[:2] == b[:2] and a[4] != b[4] and a[3] != b[3]
    assert (tmp_path / "41/waveforms.png").read_bytes() == (first[1] / "waveforms.png").read_bytes()
    assert (tmp_path / "7/waveforms.png").read_bytes() != (first[1] / "waveforms.png").read_bytes()


def test_pictures(first):
    from matplotlib.image import imread

    assert {p.name for p in first[1].iterdir()} == PICTURES | {"index.html"}
    for name in PICTURES:
        rgb = imread(first[1] / name)[..., :3]
        h, w, _ = rgb.shape
        assert 900 <= w <= 2000 and 400 <= h <= 1200, name
        ink = (rgb < 0.98).any(2)
        assert 0.02 < ink.mean() < 0.5, name
        assert not ink[[0, -1]].any() and not ink[:, [0, -1]].any(), (
            f"{name}: something is cut off at the edge"
        )
        assert len(np.unique((rgb * 255).astype(np.uint8).reshape(-1, 3), axis=0)) > 50, name


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [a for t, a in self.tags if t == tag]


def test_page(first):
    done, out = first
    page = Page((out / "index.html").read_text(encoding="utf-8"))
    assert page.all("html") == [{"lang": "en"}] and any(
        m.get("name") == "viewport" for m in page.all("meta")
    )
    assert {i["src"] for i in page.all("img")} == PICTURES and all(
        len(i["alt"]) > 40 for i in page.all("img")
    )
    assert (
        not page.all("script")
        and not page.all("link")
        and "//" not in "".join(a.get("src", "") + a.get("href", "") for _, a in page.tags)
    )
    for cells in rows(done.stdout):
        for cell in cells:
            assert cell == "none" or cell in page.text, cell
    assert "→ 0, undetermined" in page.text


@pytest.mark.parametrize("width", [1280, 390])
def test_page_in_a_browser(first, browser, width):
    pg = browser.new_page(viewport=dict(width=width, height=800))
    pg.goto((first[1] / "index.html").as_uri())
    assert pg.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 600)")
    assert pg.evaluate("document.documentElement.scrollWidth") <= width, (
        "the page itself must not scroll sideways"
    )
    pg.close()


def refused(done):
    "The one line about a mistake"
    assert (
        done.returncode == 2
        and done.stdout == ""
        and done.stderr.count("\n") == 1
        and done.stderr.startswith("calibrain")
    ), (done.returncode, done.stderr)
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
        assert says in line and f"cannot write to {out}" in line and "--out" in line
    assert (
        sorted(p.name for p in tmp_path.iterdir()) == ["file", "gone", "page"]
        and (tmp_path / "file").read_text() == "mine"
    )
    assert [p.name for p in (tmp_path / "page").iterdir()] == ["index.html"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_folder_of_the_kernel():
    refused(calibrain("demo", "--out", "/proc/page"))


def test_mistakes_are_found_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    code = "import sys; from calibrain.cli import main; s = [main(['demo', '--out', 'file']), main(['demo', '--seed', 'x'])]; print(s, 'numpy' in sys.modules, 'tqdm' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENV, cwd=tmp_path
    )
    assert done.stdout == "[2, 2] False False\n"


def test_interrupted(tmp_path):
    "SIGINT in the middle: no traceback, and nothing is left of the folder that was made"
    out = tmp_path / "a" / "page"
    p = subprocess.Popen(
        [*COMMAND, "demo", "--out", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # what runs in the background ignores it
    deadline = time.monotonic() + 60
    while not list(out.glob(".calibrain-*/*.png")) and time.monotonic() < deadline:
        time.sleep(0.01)
    p.send_signal(signal.SIGINT)
    stdout, stderr = p.communicate(timeout=60)
    assert (p.returncode, stdout, stderr) == (130, "", "calibrain: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays(tmp_path):
    "Other files in the folder are left alone, and the demo's own are replaced"
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "index.html").write_text("old")
    done = calibrain("demo", cwd=tmp_path, env=dict(PYTHONIOENCODING="ascii"), input="")
    assert (
        done.returncode == 0 and "cost" in done.stdout and "?" in done.stdout
    )  # a terminal without Greek letters
    done = calibrain("demo", "--out", tmp_path)
    assert (
        done.returncode == 0
        and (tmp_path / "mine.txt").read_text() == "mine"
        and "CaliBrain" in (tmp_path / "index.html").read_text(encoding="utf-8")
    )
    assert {p.name for p in tmp_path.iterdir()} == PICTURES | {
        "index.html",
        "mine.txt",
        "calibrain-demo",
    }


def test_reader_that_leaves(tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m calibrain.cli demo --out {tmp_path / 'page'} | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        env=ENV,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_bar(tmp_path):
    "On a terminal there is a bar, on stderr, and it is gone at the end"
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    p = subprocess.Popen(
        [*COMMAND, "demo", "--out", tmp_path / "page"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        encoding="utf-8",
        env=ENV,
    )
    os.close(theirs)
    stdout, seen = p.communicate(timeout=120)[0], b""
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:
        pass  # the other end is closed
    os.close(ours)
    assert p.returncode == 0 and len(rows(stdout)) == 9
    assert b"13/13" in seen and b"\n" not in seen


def test_version_and_help():
    done = calibrain("--version")
    assert (done.returncode, done.stderr) == (0, "") and re.fullmatch(
        r"calibrain \d+\.\d+\.\d+\n", done.stdout
    )
    for words in (["--help"], ["demo", "--help"]):
        done = calibrain(*words)
        assert done.returncode == 0 and "demo" in done.stdout and done.stderr == ""
