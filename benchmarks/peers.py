"The published packages in an environment of their own, which git ignores"

import os
import subprocess
import sys
from pathlib import Path

WANTED = ["calibrain==1.0.3", "mne"]
LOOK = """
import importlib.metadata as m, json, calibrain.source_estimation, mne.inverse_sparse._gamma_map as g
assert m.version("calibrain") == "1.0.3", "calibrain " + m.version("calibrain") + " is not 1.0.3"
g._gamma_map_opt
print(json.dumps({n: m.version(n) for n in ("calibrain", "mne", "numpy", "scipy")}))
"""


class Absent(Exception):
    "Why there is no peer, in one line"


def python(env):
    "The environment's interpreter"
    return Path(env) / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def last_line(text):
    return next(
        (line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given"
    )


def run(*command):
    "What a command prints, or why it failed"
    try:
        r = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=900,
            env=os.environ | dict(PYTHONPATH="", PIP_DISABLE_PIP_VERSION_CHECK="1"),
            cwd=Path(command[0]).parent,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Absent(str(e)) from e
    if r.returncode:
        raise Absent(last_line(r.stderr))
    return r.stdout


def versions(env):
    "What is installed there, as JSON; `Absent` where something is missing or broken"
    return run(str(python(env)), "-c", LOOK)


def install(env):
    "Make the environment unless it is there and works; returns what is installed"
    if python(env).exists():
        try:
            return versions(env)
        except Absent as e:
            print(f"{env} does not work ({e}); trying to install into it", flush=True)
    else:
        run(sys.executable, "-m", "venv", str(env))
    print(f"installing {' and '.join(WANTED)} into {env} …", flush=True)
    run(str(python(env)), "-m", "pip", "install", "--quiet", *WANTED)
    return versions(env)
