"""Run every notebook once: for its own assertions, for the documentation, and for the browser.

Every cell runs in a Jupyter kernel, hidden ones included, and a cell that raises fails the run.
What `nbdev_test` leaves out is left out here, too: cells marked `notest` or `slow` (`tst_flags` in
settings.ini) or `eval: false`, the export, and a notebook that says `skip_exec: true`.
"""

import json
import os
import re
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import outputs
from outputs import text

ROOT = Path(__file__).resolve().parent.parent
RECORDING = ROOT.parent / "shared/realdata"  # what a few notebooks are about, where it is
WORKERS = 2
KERNELS = WORKERS + 1  # at once: while one starts or ends, and waits, the others compute
TIMES = "times.txt"  # seconds and name of every notebook of a run, the slowest first
IGNORED = shutil.ignore_patterns(".ipynb_checkpoints", "ruff.toml")
VIEW = "application/vnd.jupyter.widget-view+json"
ANSI = re.compile(r"\x1b\[[0-9;]*m")
OPTION = re.compile(r"(?m)^(#\| *fig-\w+: .*)((?:\n#\|   .*)+)")
OF_A_KERNEL = re.compile(r"(?m)^\S*ipykernel_\d+/\d+\.py:\d+: ")

# Of a run that nothing is known of, these begin: the slowest, as they were found
FIRST = [
    "tutorials/08_real_recording",
    "explanations/orientation",
    "explorers/06_coverage",
    "explanations/sflex",
    "explorers/07_brain",
    "explorers/04_sflex",
    "tutorials/03_leadfields",
    "api/viz/03_cortex",
    "explorers/08_supports",
    "explorers/03_sparse_path",
    "api/head/03_template",
    "explorers/09_calibration",
    "explanations/two_conditions",
    "explanations/which_error_bar",
    "tutorials/06_uncertainty",
    "tutorials/10_calibrated_recording",
    "api/explorers/08_brain",
    "tutorials/02_source_simulation",
    "explanations/noise",
    "api/explorers/10_calibration",
    "explanations/evidence",
    "api/commands/01_cli",
    "api/explorers/11_region",
    "api/study/09_study",
    "explorers/05_posterior",
    "api/recording/23_report",
    "tutorials/11_study",
    "tutorials/09_calibration",
    "api/simulation/05_forward_errors",
    "api/explorers/06_bands",
    "tutorials/04_sensor_simulation",
    "explanations/full_bayes",
]


def environment(draft=False):
    "What kernels find in their environment besides what is there"
    path = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        # explorers add their static version to their output, or a draft of it
        "CALIBRAIN_DOCS": "draft" if draft else "whole",
        "TQDM_DISABLE": "1",  # bars say how long a run took
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # no word of a debugger, which nobody uses here
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


def loaded(path):
    return json.loads(path.read_text(encoding="utf-8"))


def save(nb, path):
    path.write_text(json.dumps(nb, ensure_ascii=False), encoding="utf-8")


def keeps_outputs(notebook):
    "Whether a run says other numbers than the text, which is about a recording that is not here"
    return "shared/realdata" in notebook.read_text(encoding="utf-8") and not RECORDING.exists()


# ---- one notebook


def left_out(path):
    "The cells that nbdev_test does not run, by their ids; `None` where it runs none"
    from nbdev.config import get_config
    from nbdev.frontmatter import FrontmatterProc
    from nbdev.process import NBProcessor

    nb = NBProcessor(path, procs=FrontmatterProc, process=True).nb
    if str(getattr(nb, "frontmatter_", {}).get("skip_exec", False)).lower() == "true":
        return None
    flags = {*get_config().tst_flags.split()}
    found = set()
    for cell in nb.cells:
        options = getattr(cell, "directives_", None) or {}
        is_off = options.get("eval:", [""])[0].lower() == "false"
        if is_off or flags & options.keys() or "nbdev_export(" in cell.source:
            found.add(cell.id)
    return found


def tidy(cell):
    "Outputs for a page without a kernel: no widgets, small pictures, nothing of the run in stderr"
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if data.pop(VIEW, None) and not data.keys() - {"text/plain"}:
            data.clear()  # a progress bar
        if "image/png" in data:
            data["image/png"] = outputs.small(data["image/png"])
        if output.get("name") == "stderr":
            said = OF_A_KERNEL.sub("", output["text"])
            output["text"] = re.sub(re.escape(tempfile.gettempdir()) + r"/tmp\w+", "…", said)
    if cell.get("outputs"):
        cell["outputs"] = [o for o in cell["outputs"] if o.get("data", True)]


def run(path, folder):
    "Run one notebook in a kernel, in a folder, and keep its outputs; the seconds it took"
    import nbformat
    from kernels import Client

    start = time.time()
    skipped = left_out(path)
    if skipped is None:
        return 0.0
    nb = nbformat.read(path, 4)
    cells = nb.cells
    nb.cells = [c for c in cells if not (c.cell_type == "code" and c.id in skipped)]
    client = Client(
        nb,
        timeout=900,
        kernel_name="python3",
        store_widget_state=False,
        extra_arguments=["--log-level=ERROR", "--HistoryManager.enabled=False"],
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    nb.cells = cells
    for cell in cells:
        tidy(cell)
    nbformat.write(nb, path)
    return time.time() - start


# ---- all of them


def one_line(source):
    "Cell options that go on over lines (`#|   …`, as YAML allows) in one each, as nbdev reads them"
    return OPTION.sub(lambda m: m[1] + m[2].replace("\n#|  ", ""), source)


def join_options(path):
    nb = loaded(path)
    for cell in nb["cells"]:
        if cell["cell_type"] == "code":
            cell["source"] = one_line(text(cell["source"])).splitlines(keepends=True)
    save(nb, path)


def longest_first(paths, target):
    "The order of a run: by what the last one took, where there was one"
    known = {}
    if (target / TIMES).exists():
        for line in (target / TIMES).read_text(encoding="utf-8").splitlines():
            seconds, _, name = line.strip().partition(" s  ")
            known[name] = float(seconds)

    def rank(path):
        name = path.as_posix()
        page = path.with_suffix("").as_posix()
        guess = 1000 - FIRST.index(page) if page in FIRST else 0
        return -known.get(name, guess), name

    return sorted(paths, key=rank)


def below(folder):
    "The notebooks of a folder"
    paths = [p.relative_to(folder) for p in folder.rglob("*.ipynb")]
    return [p for p in paths if ".ipynb_checkpoints" not in p.parts]


def keep(source, target):
    "Copy the notebooks of a folder as they are committed"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=IGNORED)  # a symlinked _quarto.yml becomes a file
    for path in below(target):
        join_options(target / path)


def execute(source, target, draft=False):
    "Copy the notebooks of a folder, run the copies, a few at a time, and note what each took"
    order = longest_first(below(source), target)
    keep(source, target)
    os.environ.update(environment(draft))
    times = {}
    failed = {}

    def one(path):
        name = path.as_posix()
        committed = loaded(target / path)
        try:
            times[name] = run(target / path, source / path.parent)
        except Exception as error:
            failed[name] = ANSI.sub("", str(error))
            print(f"failed {name}", flush=True)
        else:
            print(f"ran {name}: {times[name]:.1f} s", flush=True)
        if keeps_outputs(source / path):
            fresh = loaded(target / path)
            save(outputs.as_committed(fresh, committed), target / path)
            print(f"no real recording here: {name} keeps its committed outputs", flush=True)

    with ThreadPoolExecutor(KERNELS) as pool:
        list(pool.map(one, order))
    if failed:
        raise RuntimeError("\n\n".join(f"{name}: {error}" for name, error in failed.items()))
    slowest = sorted(times, key=times.get, reverse=True)
    lines = [f"{times[name]:6.1f} s  {name}\n" for name in slowest]
    (target / TIMES).write_text("".join(lines), encoding="utf-8")
