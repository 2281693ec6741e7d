"What a machine happens to hold in its home, its caches and its settings changes nothing."

import json
import os
import subprocess
import sys
from pathlib import Path

import apart
import pytest

ROOT = Path(__file__).resolve().parent.parent

# What notebooks, tests and pages would see of a home
LOOK = """
import json, matplotlib, mne, platformdirs
from jupyter_core.paths import jupyter_data_dir
held = sorted(p.name for p in platformdirs.user_cache_path("calibrain").glob("*"))
print(json.dumps(dict(
    dpi=matplotlib.rcParams["savefig.dpi"],
    sample=mne.get_config("MNE_DATASETS_SAMPLE_PATH"),
    heads=held,
    kernels=jupyter_data_dir(),
)))
"""


@pytest.fixture
def home(tmp_path):
    "The home of a user with wishes of their own and an old head"
    settings = {
        ".config/matplotlib/matplotlibrc": "savefig.dpi: 17\n",
        ".mne/mne-python.json": json.dumps({"MNE_DATASETS_SAMPLE_PATH": "/planted"}),
        ".cache/calibrain/old.npz": "a head of another recipe",
    }
    for name, content in settings.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
    return tmp_path


def seen(home, *before, **more):
    "What a process that starts in this home sees"
    env = {k: v for k, v in os.environ.items() if k not in apart.FOLDERS} | {"HOME": str(home)}
    command = [sys.executable, *before, "-c", LOOK]
    done = subprocess.run(command, env=env | more, text=True, capture_output=True, check=True)
    return json.loads(done.stdout)


def test_a_home_of_its_own(home):
    planted = seen(home)
    assert planted["dpi"] == 17 and planted["sample"] == "/planted"
    assert planted["heads"] == ["old.npz"] and planted["kernels"].startswith(str(home))
    inside = seen(home, ROOT / "tools/apart.py", sys.executable, MNE_DATASETS_SAMPLE_PATH="/set")
    assert inside["dpi"] == "figure" and inside["sample"] is None
    assert inside["heads"] == [] and not inside["kernels"].startswith(str(home))


def test_plain_pytest_is_apart(home):
    "conftest.py sees to it before a test imports anything"
    test = home / "test_it.py"
    test.write_text(
        "import matplotlib, os\n"
        "def test_it():\n"
        "    assert matplotlib.rcParams['savefig.dpi'] == 'figure'\n"
        f"    assert os.environ['HOME'] != {str(home)!r}\n"
    )
    (home / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text(encoding="utf-8"))
    path = os.pathsep.join(map(str, (ROOT / "tests", ROOT / "tools")))
    env = {k: v for k, v in os.environ.items() if k not in apart.FOLDERS}
    env |= {"HOME": str(home), "PYTHONPATH": path}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    done = subprocess.run(command, cwd=home, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_the_folder_goes_with_the_run(tmp_path):
    code = "import os; print(os.environ['HOME'])"
    env = {k: v for k, v in os.environ.items() if k not in apart.FOLDERS}
    command = [sys.executable, ROOT / "tools/apart.py", sys.executable, "-c", code]
    done = subprocess.run(
        command, env=env | {"TMPDIR": str(tmp_path)}, text=True, capture_output=True, check=True
    )
    assert Path(done.stdout.strip()).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_shell_gets_the_same():
    "Quoted, with what a user has set taken out, and pip as it was"
    env = {"HOME": "/home/a", "MNE_DATA": "/d", "PATH": os.environ["PATH"], "PIP_CACHE_DIR": "/p"}
    command = [sys.executable, ROOT / "tools/apart.py", "--export", "/tmp/a 'b'"]
    lines = subprocess.run(command, env=env, text=True, capture_output=True, check=True).stdout
    shell = f'{lines}\necho "$HOME|$XDG_CACHE_HOME|${{MNE_DATA:-none}}|$PIP_CACHE_DIR"'
    said = subprocess.run(["bash", "-c", shell], env=env, text=True, capture_output=True).stdout
    assert said == "/tmp/a 'b'|/tmp/a 'b'/.cache|none|/p\n"


def test_this_run_is_apart():
    assert apart.inside()
