"""A home of its own for a run, empty at the start.

Tests, notebooks and documentation must not depend on what a machine happens to hold: heads cached
by an older version, a matplotlibrc, a setting of MNE-Python, a kernel of another project. So they
run with every home, cache and settings folder inside a temporary one.

python tools/apart.py COMMAND …         run a command so, and remove the folder afterwards
python tools/apart.py --export FOLDER   lines for a shell: the same variables, for a folder
"""

import atexit
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MARK = "CALIBRAIN_APART"  # the folder, for whatever is started inside

FOLDERS = {
    MARK: "",
    "HOME": "",
    "USERPROFILE": "",
    "XDG_CACHE_HOME": ".cache",
    "XDG_CONFIG_HOME": ".config",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
    "MPLCONFIGDIR": ".config/matplotlib",
    "IPYTHONDIR": ".ipython",
    "JUPYTER_CONFIG_DIR": ".jupyter",
    "JUPYTER_DATA_DIR": ".local/share/jupyter",
    "JUPYTER_RUNTIME_DIR": ".local/share/jupyter/runtime",
}

# Variables by which a user's settings would come in all the same
DROPPED = (
    "MNE_",
    "_MNE_",
    "SUBJECTS_DIR",
    "NILEARN_",
    "MATPLOTLIBRC",
    "MPLBACKEND",
    "JUPYTER_",
    "IPYTHON",
    "PYTHONSTARTUP",
    "PYTHONDONTWRITEBYTECODE",  # every process would compile the package again
    "TQDM_",
)


def of_pip(env):
    "pip goes on with its own cache and settings: what it installs is the same, only later"
    home = Path(env.get("HOME") or Path.home())
    cache = Path(env.get("XDG_CACHE_HOME") or home / ".cache") / "pip"
    config = Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf"
    kept = {"PIP_CACHE_DIR": env.get("PIP_CACHE_DIR") or str(cache)}
    if "PIP_CONFIG_FILE" not in env and config.exists():
        kept["PIP_CONFIG_FILE"] = str(config)
    return kept


def variables(folder, env):
    "The environment inside: `env` with folders of its own, and without what a user has set"
    inside = {k: v for k, v in env.items() if not k.startswith(DROPPED)}
    own = {k: str(Path(folder, part)) for k, part in FOLDERS.items()}
    return inside | of_pip(env) | own | {"PYTHONNOUSERSITE": "1"}


def inside():
    "Whether this process already has a home of its own"
    folder = os.environ.get(MARK)
    return bool(folder) and os.environ.get("HOME") == folder and Path(folder).is_dir()


def enter():
    "Give this process, and those that it starts, a home of its own that goes with it"
    if inside():
        return
    folder = tempfile.mkdtemp(prefix="calibrain-home-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    env = variables(folder, os.environ)
    os.environ.clear()
    os.environ.update(env)


def exports(folder):
    "What a shell has to run to be inside"
    env = variables(folder, os.environ)
    yield from (f"unset {k}" for k in os.environ if k not in env)
    yield from (f"export {k}={shlex.quote(v)}" for k, v in env.items() if os.environ.get(k) != v)


if __name__ == "__main__":
    if sys.argv[1] == "--export":
        print("\n".join(exports(sys.argv[2])))
    else:
        enter()
        sys.exit(subprocess.run(sys.argv[1:]).returncode)
