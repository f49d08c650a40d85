#!/usr/bin/env bash
# Makes the environment from locks/, once, and hands the command to `python -m skin_tl`. `./run_all.sh --help` explains.
# Works with bash 3.2 (macOS) and later.

set -euo pipefail
unset CDPATH # `cd` would print, or go elsewhere
project=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
state=$project/.state

fail() {
    echo "error: $*" >&2
    exit 1
}

case "${1-}" in
    -h | --help | help)
        cat -- "$project/skin_tl/workflow/usage.txt"
        exit 0
        ;;
esac

# --- Surroundings -----------------------------------------------------------------------------------------------

{ mkdir -p -- "$state" && [ -w "$state" ]; } 2>/dev/null ||
    fail "$project is not writable by this user ($(id -un 2>/dev/null || id -u))." \
        "Copy the project to a folder of your own and start it there, or have the owner of this one give you the right to write."

# Tools write below the project; only download caches use the home folder.
export IPYTHONDIR="$state/ipython" MPLCONFIGDIR="$state/matplotlib"
export JUPYTER_CONFIG_DIR="$state/jupyter" JUPYTER_DATA_DIR="$state/jupyter/data" JUPYTER_RUNTIME_DIR="$state/jupyter/runtime"
export KERAS_BACKEND="${KERAS_BACKEND:-tensorflow}" TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
# TensorFlow leaves oneDNN off on a processor without AVX512-VNNI, where it is faster as well (docs/performance.md).
export TF_ENABLE_ONEDNN_OPTS="${TF_ENABLE_ONEDNN_OPTS:-1}"
# The C library of Linux hands memory back after each step and takes it again for the next one: let it keep what it has, by
# the largest block that it can keep (32 MiB) and the size of a thread's heap (64 MiB). See docs/performance.md.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-33554432}" MALLOC_TOP_PAD_="${MALLOC_TOP_PAD_:-67108864}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-17179869184}"
export PYTHONPATH="$project" PYTHONNOUSERSITE=1 PYTHONHASHSEED=0 JUPYTER_PREFER_ENV_PATH=1
export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# What a person has set for other work: profiles, kernels and drawings would come from there.
unset PYTHONHOME PYTHONSTARTUP SNAKEMAKE_PROFILE JUPYTER_PATH JUPYTER_CONFIG_PATH MATPLOTLIBRC MPLBACKEND VIRTUAL_ENV
# A user without a name or a home, as in a container: libraries ask for both.
id -un >/dev/null 2>&1 || export LOGNAME="${LOGNAME:-user-$(id -u)}"
if [ ! -w "${HOME-}" ]; then
    export HOME="$state/home"
    mkdir -p -- "$HOME"
fi
# macOS looks for libraries neither in Homebrew's folder nor in conda's, and takes this away from what /bin/bash starts:
# the workflow hands it on to its steps.
if [ "$(uname -s)" = Darwin ]; then
    DYLD_FALLBACK_LIBRARY_PATH="${DYLD_FALLBACK_LIBRARY_PATH:+$DYLD_FALLBACK_LIBRARY_PATH:}${CONDA_PREFIX:+$CONDA_PREFIX/lib:}"
    export DYLD_FALLBACK_LIBRARY_PATH="$DYLD_FALLBACK_LIBRARY_PATH${HOMEBREW_PREFIX:-/opt/homebrew}/lib:/usr/local/lib:/usr/lib"
fi

# --- The environment --------------------------------------------------------------------------------------------

environment=$project/.venv
conda=$(sed -n 's/^name: *//p' "$project/environment.yml")
if [ -n "${CONDA_PREFIX-}" ] && [ "${CONDA_DEFAULT_ENV-}" = "$conda" ]; then environment=$CONDA_PREFIX; fi
python=$environment/bin/python
log=$state/install.log

has_nvidia() { # so that NVIDIA's libraries are of use, or asked for
    case "${SKIN_TL_CUDA-}" in
        1) return 0 ;;
        0) return 1 ;;
    esac
    [ "$(uname -sm)" = "Linux x86_64" ] && { [ -e /proc/driver/nvidia/version ] || nvidia-smi -L >/dev/null 2>&1; }
}

wanted=base
case "$KERAS_BACKEND" in
    jax) wanted="$wanted jax" ;;
    tensorflow) if has_nvidia; then wanted="$wanted cuda"; fi ;;
esac
case "$* " in
    *--help\ *) ;;
    test\ * | bench\ *) wanted="$wanted dev${SKIN_TL_TEST_EXPORT:+ export}" ;;
    report\ * | publish\ *) wanted=light ;; # no network is used
    export\ *) wanted="$wanted export" ;;
    *profiles/slurm* | *executor\ slurm*) wanted="$wanted slurm" ;;
    *profiles/kubernetes* | *executor\ kubernetes*) wanted="$wanted kubernetes" ;;
esac

stamp_of() { # what is written once a lock is installed: it is done over where the lock, or the base, is another
    cat "$project/locks/$1.lock" "$project/locks/base.lock" | cksum
}

is_installed() { # $1 a lock
    [ "$(cat "$environment/installed.$1" 2>/dev/null)" = "$(stamp_of "$1")" ] && "$python" -c '' 2>/dev/null
}
if [ "$wanted" = light ] && is_installed base; then wanted=base; fi # which holds all of it

logged() { # a command: its words go to the log, and the last line of them to a terminal
    if [ -t 2 ]; then
        "$@" 2>&1 </dev/null | tee -a "$log" | awk '{ printf "\r  %-76.76s", $0; fflush() } END { printf "\r%78s\r", "" }' >&2
    else
        "$@" >>"$log" 2>&1 </dev/null
    fi
}

install() { # arguments of an installer
    if command -v uv >/dev/null 2>&1; then
        logged uv pip install --python "$python" --compile-bytecode --no-build-isolation --no-deps "$@"
    else
        logged "$python" -m pip install --progress-bar off --no-build-isolation --no-deps "$@"
    fi
}

usable='import ctypes, sys, venv; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13) and sys.maxsize > 2**32))'

make_environment() {
    local candidate
    rm -rf -- "$environment"
    if command -v uv >/dev/null 2>&1; then
        logged uv venv --python "${PYTHON:->=3.11,<3.14}" "$environment" && return
        fail "uv could not make .venv: $(tail -n 1 "$log")"
    fi
    for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3 python; do
        if "$candidate" -c "$usable" 2>/dev/null; then
            logged "$candidate" -m venv "$environment" && return
            rm -rf -- "$environment"
            fail "$candidate could not make .venv: $(tail -n 1 "$log")"
        elif [ -n "${PYTHON-}" ]; then
            break
        fi
    done
    fail "${PYTHON:+PYTHON=$PYTHON is not one: }needs Python 3.11, 3.12 or 3.13 with venv, of 64 bits. Install one (Debian, Ubuntu:" \
        "sudo apt install python3-venv; macOS: brew install python@3.12; any system: uv, or conda with environment.yml)," \
        "or name it: PYTHON=/path/to/python3.12 ./run_all.sh"
}

install_lock() { # $1 a lock
    local file=$project/locks/$1.lock
    echo "Installing $1.lock into ${environment##*/} (once, a few minutes; its words are in .state/install.log) …" >&2
    if [ "$1" = base ] || [ "$1" = light ]; then
        if [ "$environment" = "$project/.venv" ] && ! "$python" -c '' 2>/dev/null; then make_environment; fi
        # First the installers, then the rest with them: nothing comes in that the lock does not name.
        awk '/^[a-z0-9]/ { keep = /^(pip|setuptools)==/ } keep' "$file" >"$state/installers.lock"
        install --require-hashes -r "$state/installers.lock" || return
    fi
    install --require-hashes -r "$file" || return
    case "$1" in base | light) install --editable "$project" || return ;; esac
    stamp_of "$1" >"$environment/installed.$1.part"
    mv -- "$environment/installed.$1.part" "$environment/installed.$1"
}

lock=$state/installing
for name in $wanted; do
    if is_installed "$name"; then continue; fi
    until mkdir -- "$lock" 2>/dev/null; do
        owner=$(cat "$lock/pid" 2>/dev/null) || owner=
        if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then rm -rf -- "$lock"; fi
        echo "Another start is installing (process ${owner:-unknown}; if there is none, remove $lock); waiting …" >&2
        sleep 5
    done
    trap 'rm -rf -- "$lock"' EXIT
    trap 'echo "Stopped. The next start installs what is missing." >&2; exit 130' INT TERM HUP
    echo $$ >"$lock/pid"
    : >"$log"
    is_installed "$name" || install_lock "$name" ||
        fail "installing locks/$name.lock failed: $(grep -i error "$log" | tail -n 1). The rest is in .state/install.log." \
            "Mend that (network? disk space?) and start again."
    rm -rf -- "$lock"
    trap - EXIT INT TERM HUP
done

export PATH="$environment/bin:$PATH"
exec "$python" -P -m skin_tl "$@" # -P: not what lies where the person stands
