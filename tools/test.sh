#!/usr/bin/env bash
# Install the package and pass its tests. Works from a fresh clone; keeps its environment in .venv,
# unless one is active. `--all` runs every random problem; otherwise tests run a chosen part of them,
# and say how many they left.
set -euo pipefail
case "${1:-}" in
    "") ;;
    --all) export CALIBRAIN_ALL_TESTS=1 ;;
    *) echo "usage: bash tools/test.sh [--all]" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

step() { # heading, command …
    local start=$SECONDS
    printf '\n== %s\n' "$1"
    "${@:2}"
    printf -- '-- %d s\n' $((SECONDS - start))
}

environment() {
    if [ -z "${VIRTUAL_ENV:-}" ]; then
        [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
        VIRTUAL_ENV=$PWD/.venv
    fi
    export VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH"
    python -c 'import sys; v = sys.version_info; sys.exit(f"needs Python 3.11 or later, found {v[0]}.{v[1]}" if v < (3, 11) else 0)'
    python -m pip install -q -e '.[dev]'
}

scripts() { # local copies, so that the documentation needs nothing from the web
    if command -v npm >/dev/null; then
        npm install --prefix . --silent --no-audit --no-fund --no-save --ignore-scripts katex@0.16.11 axe-core@4.10.3 && return
        echo "npm could not fetch KaTeX or axe-core: formulas and accessibility are not checked in a browser"
    else
        echo "no npm: formulas, explorers and accessibility are not checked in a browser"
    fi
}

sums() { # checksums of every file the notebooks make or live in
    find calibrain nbs README.md -type f -not -path '*/__pycache__/*' -not -path '*/.ipynb_checkpoints/*' -exec sha256sum {} + | sort -k 2
}

unchanged() { # command …: it must leave calibrain/, nbs/ and README.md as they are
    local before; before=$(sums)
    "$@"
    diff <(echo "$before") <(sums) && return
    echo "out of step: '$*' rewrote the files above; look at 'git diff' and commit them"
    return 1
}

notebooks() { # all, but one that needs a recording where there is none
    local skip='^[_.]'
    python tools/docs.py --has-recording || { echo "no real recording here: skipped 08_real_recording"; skip='^[_.]|^08_real'; }
    nbdev_test --n_workers 2 --timing --skip_file_re "$skip"
}

export_and_clean() { nbdev_export && nbdev_clean; }

package() { # the wheel is built from the sdist, as an installer would
    rm -rf build dist
    local log; log=$(python -m build 2>&1) || { echo "$log"; return 1; }
    ls dist
}

step "install" environment
step "scripts for the documentation" scripts
step "modules match the notebooks" unchanged export_and_clean
step "the notebooks run" unchanged notebooks
step "documentation and README" unchanged python tools/docs.py
step "links and options of the documentation" smalldocs check _proc
step "sdist, and the wheel from it" package
printf '\n== tests\n'
CALIBRAIN_DIST=dist python -m pytest -q --durations=3 </dev/null
