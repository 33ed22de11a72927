#!/bin/sh
# Sets up .venv for a machine without a GPU: the pinned packages of requirements/cpu.lock and this project, editable.
# Does nothing when that has been done for the lock, the metadata and the folder as they are now.
set -eu
cd "$(dirname "$0")/.."

venv=.venv
python=$venv/bin/python
lock=requirements/cpu.lock
log=$venv/setup.log
stamp=$venv/setup.stamp
torch_index=https://download.pytorch.org/whl/cpu
gigabytes_needed=6

state=$({ cat $lock pyproject.toml scripts/setup_cpu.sh; pwd; } | sha256sum)
[ "$state" != "$(cat $stamp 2>/dev/null)" ] || exit 0

say() { printf 'set-up: %s\n' "$*"; }
die() { printf 'set-up: %s\n' "$@" >&2; exit 1; }
supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; }
logged() { "$@" >>$log 2>&1; }
stage() {
    say "$1"
    shift
    logged "$@" || {
        tail -n 25 $log >&2
        die "the step above failed; its whole output is in $log" "correct what it names and run the same command again: it goes on from here"
    }
}

[ "$(uname -s) $(uname -m)" = "Linux x86_64" ] ||
    die "this is $(uname -s) on $(uname -m), and vLLM's CPU build is pinned here for Linux on x86_64: use such a machine, virtual machine or container"

if ! { supported $python && $python -m pip --version >/dev/null 2>&1; }; then
    system_python=
    for candidate in python3.11 python3 python3.12; do
        if supported $candidate; then system_python=$candidate; break; fi
    done
    [ -n "$system_python" ] ||
        die "no Python 3.11 or 3.12 found (python3 is: $(python3 --version 2>&1))" \
            "install one, on Debian and Ubuntu with 'apt install python3.11 python3.11-venv', and run the same command again"
    gigabytes_free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$gigabytes_free" -ge $gigabytes_needed ] ||
        die "$PWD has $gigabytes_free GB free and the environment needs $gigabytes_needed: free some, or clone to a larger disk"
    say "virtual environment $venv with $($system_python --version) (1 of 5)"
    "$system_python" -m venv --clear $venv ||
        die "'$system_python -m venv' failed: on Debian and Ubuntu it needs 'apt install $(basename "$system_python")-venv'"
fi

: >$log
export PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_CONSTRAINT="$PWD/$lock" # source packages build with the pinned setuptools too
pip_install() { $python -m pip --require-virtualenv install --no-deps "$@"; }
torch=$(grep '^torch==' $lock)

if ! $python -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; then
    { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } ||
        die "the system library libnuma.so.1, which vLLM's CPU kernels load, is missing" \
            "install it, on Debian and Ubuntu with 'sudo apt install libnuma1', on Fedora with 'sudo dnf install numactl-libs', and run the same command again"
    stage "the system library libnuma1, for vLLM's CPU kernels" sh -c 'apt-get update && apt-get install -y --no-install-recommends libnuma1'
fi

# The '+cpu' of the pin is met by CPU builds only, so a registry that has nothing but CUDA's gigabytes answers at once.
say "$torch, about 200 MB (2 of 5)"
logged pip_install "$torch" ||
    stage "pip's own sources do not have it: taking it from $torch_index" pip_install --index-url $torch_index "$torch"
stage "$(grep -c == $lock) packages, about 1 GB to fetch, two to five minutes; follow with: tail -f $log (3 of 5)" \
    pip_install -r $lock
stage "the project itself, editable (4 of 5)" pip_install --no-build-isolation -e .
stage "imports of torch, vllm, ray, deepspeed and the project (5 of 5)" \
    env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu VLLM_NO_USAGE_STATS=1 $python scripts/check_imports.py
printf '%s\n' "$state" >$stamp
say "done; the environment is $venv"
