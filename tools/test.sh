#!/usr/bin/env bash
# Install the package and pass its tests. Works from a fresh clone; keeps its environment in
# .venv, unless one is active. `--all` runs every random problem, visits every page and draws every
# picture of the explorers; otherwise tests take a chosen part of these, and say how many they left,
# and the site in _docs/ is a draft. `--lowest` runs the tests of the package, and nothing else, with
# the oldest versions of all it depends on, in .venv-lowest.
set -euo pipefail
draft=(--draft)
case "${1:-}" in
    "") ;;
    --all) export CALIBRAIN_ALL_TESTS=1; draft=() ;;
    --lowest) ;;
    *) echo "usage: bash tools/test.sh [--all | --lowest]" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
took=()

step() { # heading, command …
    local start=$SECONDS
    printf '\n== %s\n' "$1"
    "${@:2}"
    took+=("$(printf '%5d s  %s' $((SECONDS - start)) "$1")")
}

interpreter() { # the one that will run everything
    if [ -n "${VIRTUAL_ENV:-}" ]; then
        echo "$VIRTUAL_ENV/bin/python"
    elif [ -x .venv/bin/python ]; then
        echo .venv/bin/python
    else
        echo "${PYTHON:-python3}"
    fi
}

recent_enough() { # interpreter: one clear line where it is too old, or none
    local needs="CaliBrain needs Python 3.11 or later" version
    local ask='import sys; print("%d.%d %d" % (sys.version_info[:2] + (sys.version_info >= (3, 11),)))'
    if ! version=$("$1" -c "$ask" 2>/dev/null); then
        echo "$needs, and '$1' does not run" >&2
        return 1
    elif [ "${version#* }" != 1 ]; then
        echo "$needs, and '$1' is ${version% *}: PYTHON=python3.12 bash tools/test.sh" >&2
        return 1
    fi
}

environment() {
    if [ -z "${VIRTUAL_ENV:-}" ]; then
        [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
        VIRTUAL_ENV=$PWD/.venv
    fi
    export VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH"
    python -m pip install -q -e '.[dev]'
}

scripts() { # local copies, so that the documentation needs nothing from the web
    local unchecked="formulas, explorers and accessibility are not checked in a browser"
    local quiet=(--silent --no-audit --no-fund --no-save --ignore-scripts)
    if ! command -v npm >/dev/null; then
        echo "no npm: $unchecked"
    elif ! npm install --prefix . "${quiet[@]}" katex@0.16.11 axe-core@4.10.3; then
        echo "npm could not fetch KaTeX or axe-core: $unchecked"
    fi
}

install() { # Python's packages and the scripts, at once
    local log=$home/scripts.log
    scripts >"$log" 2>&1 & local fetching=$!
    environment
    wait $fetching
    cat "$log"
}

apart() { # from here on, nothing that this machine holds: see tools/apart.py
    eval "$(python tools/apart.py --export "$home")"
    python -c 'import matplotlib.font_manager' # its list of fonts, once for all
}

sums() { # checksums of every file the notebooks make or live in; caches of tools are none
    find calibrain nbs README.md -type f -not -path '*/__pycache__/*' -not -path '*/.*' \
        -exec sha256sum {} + | sort -k 2
}

unchanged() { # command …: it must leave calibrain/, nbs/ and README.md as they are
    local before; before=$(sums)
    "$@" || return
    diff <(echo "$before") <(sums) && return
    echo "out of step: '$*' rewrote the files above; look at 'git diff' and commit them"
    return 1
}

export_and_clean() { nbdev_export && nbdev_clean; }

style() { # notebooks, tests and tools; types of the exported package
    ruff check . && ruff format --check . && mypy
}

package() { # the wheel is built from the sdist, as an installer would
    rm -rf build dist
    local log; log=$(python -m build 2>&1) || { echo "$log"; return 1; }
    ls dist
}

quick() { # what one processor does beside the site
    style && package
}

notebooks() {
    unchanged python tools/docs.py --run "${draft[@]}"
}

site() { # from the notebooks that were run, and beside it what takes one processor
    local log=$home/quick.log failed=0
    quick >"$log" 2>&1 & local beside=$!
    unchanged python tools/docs.py --no-exec || failed=1
    wait $beside || failed=1
    cat "$log"
    smalldocs check _proc || failed=1
    return $failed
}

tests() {
    CALIBRAIN_DIST=dist python -m pytest -q -n 2 --dist loadfile --durations=15 </dev/null
}

summary() {
    printf '\n== where the time went\n'
    printf '%s\n' "${took[@]}"
    printf '%5d s  in all\n' $SECONDS
    printf '\n== the slowest notebooks\n'
    head -n 10 _exec/times.txt
}

recent_enough "$(interpreter)"
if [ "${1:-}" = --lowest ]; then
    exec "$(interpreter)" tools/lowest.py --suite
fi
home=$(mktemp -d "${TMPDIR:-/tmp}/calibrain-home-XXXXXX")
trap 'rm -rf "$home"' EXIT
step "install, and scripts for the documentation" install
apart
step "modules match the notebooks" unchanged export_and_clean
step "notebooks and README" notebooks
step "documentation and its links; style, types, sdist and wheel" site
step "tests" tests
summary
