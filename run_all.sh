#!/usr/bin/env bash
# Takes the name of a study; gives its report. Makes the environment first, once. `./run_all.sh --help` explains.
# Works with bash 3.2 (macOS) and later.

set -eu
unset CDPATH # `cd` would print, or go elsewhere

usage() {
    cat <<'TEXT'
Usage: ./run_all.sh [STUDY] [OPTION...]     run a study and write its report
       ./run_all.sh COMMAND [ARGUMENT...]

Studies
  demo             synthetic images of seven kinds of lesions, four backbones,
                   a few minutes (what runs when no study is given)
  presentation     the presentation's set-up on HAM10000, beside its numbers
  ham10000         the same question on HAM10000, split by lesion, with the
                   scaling of pixels that each backbone was made for
  fine_tuning      what fine-tuning the last block of ResNet50 adds to that
  transfer         fine-tuning and training from scratch beside frozen
                   features, with learning curves
  PATH.yaml        a study of your own, like those in studies/; all its keys
                   with their meaning are in skin_tl/study.py

Commands
  test [...]       run the tests; the rest goes to pytest
  lab [...]        open the notebooks in JupyterLab; the rest goes to it
                   (as root, in a container: lab --allow-root)
  tensorboard [..] watch networks while they train (curves, confusion matrices)
                   in a browser; the rest goes to TensorBoard
  predict IMAGE... what the models of a finished study say of images of yours:
                   no diagnosis. --study STUDY (otherwise the last finished),
                   --backbone A,B (otherwise all), --json
  export           write the models of a finished study as ONNX and LiteRT
                   files, checked against Keras, each with a model card.
                   --study, --backbone as above, --format onnx,litert
  clean [STUDY]    remove runs/STUDY and report/STUDY; without a study those of
                   all, and cache/
  help             print this text

Options go to Snakemake, which runs the steps. The useful ones:
  --dry-run        list the steps that would run, and why; do nothing
  --cores N        use N processor cores (all, if not said)
  --config backbones=ResNet50,Xception seeds=1
                   narrow or change the study for this start; the report takes
                   the place of the full one, and a banner says so
  --forceall       run every step again
  --unlock         free a study that a killed start left locked

Results
  report/STUDY/    report.html, report.pdf, slides.html, the same in French
                   (report.fr.html ...), metrics.csv, the tables
  runs/STUDY/      predictions, training curves, models, logs

Environment variables
  SKIN_TL_HAM10000    folder with HAM10000 (otherwise it is downloaded)
  SKIN_TL_ISIC2018    folder with the ISIC 2018 Task 3 test set, likewise, for
                      studies that name it: --config external=isic2018
  SKIN_TL_WEIGHTS     folder with BACKBONE_notop.weights.h5 files (names in
                      lower case: vgg16_notop.weights.h5), for a machine that
                      cannot download them
  SKIN_TL_CACHE       folder for decoded images and features (otherwise cache/)
  KERAS_BACKEND       tensorflow (the default) or jax
  PYTHON              the Python 3.11, 3.12 or 3.13 that makes .venv
  SKIN_TL_CUDA        1 or 0: install NVIDIA's libraries or not (otherwise:
                      where there is a driver)

The first start makes .venv from locks/base.lock (about 3 GB, a few
minutes). In an active conda environment made from environment.yml, that one
is used. A start that was stopped goes on where it was.
TEXT
}

fail() {
    echo "error: $*" >&2
    exit 1
}

# --- What is asked ----------------------------------------------------------------------------------------------

absolute() { # a path as seen from where the person stands, before we change folder
    case "$1" in
        /*) printf '%s\n' "$1" ;;
        "~" | "~/"*) printf '%s\n' "${HOME-}${1#"~"}" ;; # from where no shell has read it
        *) printf '%s\n' "$PWD/$1" ;;
    esac
}

for variable in SKIN_TL_HAM10000 SKIN_TL_WEIGHTS SKIN_TL_ISIC2018 SKIN_TL_CACHE; do
    eval "value=\${$variable-}"
    if [ -n "$value" ]; then
        export "$variable=$(absolute "$value")"
    fi
done

project=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

known_studies() {
    local file names=
    for file in "$project"/studies/*.yaml; do
        if [ -f "$file" ]; then
            file=${file##*/}
            names="$names${names:+, }${file%.yaml}"
        fi
    done
    printf '%s\n' "${names:-none}"
}

what=study
study=demo
case "${1-}" in
    '') if [ $# -gt 0 ]; then shift; fi ;;
    -h | --help | help)
        usage
        exit 0
        ;;
    -*) ;;
    test | lab | tensorboard | predict | export | clean)
        what=$1
        shift
        ;;
    *)
        study=$1
        shift
        if [ ! -f "$project/studies/$study.yaml" ]; then
            case "$study" in
                *.yaml | *.yml | *.json)
                    [ -f "$study" ] || [ -f "$project/$study" ] ||
                        fail "there is no study file $study. Studies that are here: $(known_studies)."
                    if [ -f "$study" ]; then study=$(absolute "$study"); fi
                    ;;
                *)
                    [ ! -f "$project/runs/$study/study.json" ] ||
                        fail "studies/ has no study '$study', though runs/$study has results of one: name it by the path of its file" \
                            "(./run_all.sh /path/to/$study.yaml), or by runs/$study/study.json, which has the settings of its last start."
                    fail "no study or command is named '$study'." \
                        "Studies: $(known_studies), or the path of a .yaml file. Commands: test, lab, tensorboard, predict, export, clean, help."
                    ;;
            esac
        fi
        ;;
esac
case "$what" in
    study | predict | export)
        for argument in "$@"; do
            case "$argument" in
                -h | --help)
                    usage
                    exit 0
                    ;;
            esac
        done
        ;;
esac

here=$PWD
cd -- "$project"

# --- Python -----------------------------------------------------------------------------------------------------

# Says nothing and succeeds only in a Python that can make our environment; otherwise says what is in the way.
check_python='
import platform, sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit("version %d.%d" % sys.version_info[:2])
if sys.maxsize < 2**32:
    sys.exit("32 bits")
if sys.platform == "darwin" and platform.machine() != "arm64":
    sys.exit("built for Intel; TensorFlow needs one built for Apple silicon")
try:
    import ensurepip, venv, ctypes
except ImportError as error:
    sys.exit("without the module " + str(error.name))
'

find_python() { # sets $python
    local candidate reason seen=
    if [ -n "${PYTHON-}" ]; then
        if reason=$("$PYTHON" -c "$check_python" 2>&1); then
            python=$PYTHON
            return
        fi
        fail "PYTHON=$PYTHON cannot be used ($(printf '%s\n' "$reason" | tail -n 1))." \
            "Point it to a Python 3.11, 3.12 or 3.13 with venv."
    fi
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if reason=$("$candidate" -c "$check_python" 2>&1); then
            python=$candidate
            return
        fi
        case "$reason" in # others, such as a version manager's placeholder, are no Python at all
            "version "* | "32 bits" | built\ * | without\ *) seen="$seen$candidate ($reason), " ;;
        esac
    done
    case "$seen" in
        *"(without the module"*)
            fail "needs Python 3.11, 3.12 or 3.13 with venv; found ${seen%, }." \
                "On Debian or Ubuntu: sudo apt install python3-venv"
            ;;
    esac
    seen=${seen%, }
    fail "needs Python 3.11, 3.12 or 3.13 with venv; found ${seen:-none}. Install one (Debian, Ubuntu:" \
        "sudo apt install python3 python3-venv; macOS: brew install python@3.12; any system: conda, see environment.yml)" \
        "or name it: PYTHON=/path/to/python3.12 ./run_all.sh"
}

# Loads the system libraries that print the PDF, under the names and by the road that WeasyPrint uses.
check_pango='
import sys
try:
    from cffi import FFI
    load, find = FFI().dlopen, lambda name: None
except ImportError:
    import ctypes, ctypes.util
    load, find = ctypes.CDLL, ctypes.util.find_library
missing = []
for library, version in (("gobject-2.0", 0), ("pango-1.0", 0), ("harfbuzz", 0), ("fontconfig", 1), ("pangoft2-1.0", 0)):
    names = [library, "lib%s.so.%d" % (library, version), "lib%s.%d.dylib" % (library, version), "lib%s.dylib" % library]
    for name in filter(None, [*names, find(library)]):
        try:
            load(name)
            break
        except OSError:
            pass
    else:
        missing.append("lib" + library)
sys.exit(", ".join(missing) if missing else 0)
'

need_pango() { # with the Python $1
    local missing
    missing=$("$1" -c "$check_pango" 2>&1) && return
    cat >&2 <<TEXT
error: Pango, the system library that prints the PDF of the report, is missing ($(printf '%s\n' "$missing" | tail -n 1)).
  Debian, Ubuntu, WSL2:  sudo apt install libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0
  macOS:                 brew install pango
  conda:                 conda install -c conda-forge pango
Nothing was started. Install it and start again.
TEXT
    exit 1
}

# macOS looks for libraries neither in Homebrew's folder nor in conda's. The workflow hands this on to its steps,
# because macOS takes it away from everything that /bin/bash starts.
if [ "$(uname -s)" = Darwin ]; then
    DYLD_FALLBACK_LIBRARY_PATH="${DYLD_FALLBACK_LIBRARY_PATH:+$DYLD_FALLBACK_LIBRARY_PATH:}${CONDA_PREFIX:+$CONDA_PREFIX/lib:}"
    DYLD_FALLBACK_LIBRARY_PATH="$DYLD_FALLBACK_LIBRARY_PATH${HOMEBREW_PREFIX:-/opt/homebrew}/lib:/usr/local/lib:/usr/lib"
    export DYLD_FALLBACK_LIBRARY_PATH
fi

# --- The environment --------------------------------------------------------------------------------------------

environment="$project/.venv"

# Tools write below the project; only download caches use the home folder.
state="$project/.state"
export IPYTHONDIR="$state/ipython" MPLCONFIGDIR="$state/matplotlib"
export JUPYTER_CONFIG_DIR="$state/jupyter" JUPYTER_DATA_DIR="$state/jupyter/data" JUPYTER_RUNTIME_DIR="$state/jupyter/runtime"
export KERAS_BACKEND="${KERAS_BACKEND:-tensorflow}" TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
export PYTHONPATH="$project" PYTHONNOUSERSITE=1 PYTHONHASHSEED=0
unset PYTHONHOME PYTHONSTARTUP
# What a person has set for other work: profiles, kernels and drawings would come from there.
unset SNAKEMAKE_PROFILE JUPYTER_PATH JUPYTER_CONFIG_PATH MATPLOTLIBRC MPLBACKEND
export JUPYTER_PREFER_ENV_PATH=1
# A user without a name or a home, as in a container: libraries ask for both.
if ! id -un >/dev/null 2>&1; then export LOGNAME="${LOGNAME:-user-$(id -u 2>/dev/null)}"; fi
if [ ! -d "${HOME-}" ] || [ ! -w "${HOME-}" ]; then
    export HOME="$state/home"
    mkdir -p -- "$HOME" 2>/dev/null || : # where it cannot be made, the check below tells
fi
export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

not_writable() { # $1 a folder
    fail "$1 is not writable by this user ($(id -un 2>/dev/null || id -u))." \
        "Copy the project to a folder of your own and start it there, or have the owner of this one give you the right to write."
}
case "$what" in
    study | lab | clean) # the others write nothing where all is installed
        if [ -e "$state" ]; then
            [ -w "$state" ] || not_writable "$state"
        else
            [ -w "$project" ] || not_writable "$project"
        fi
        ;;
esac

if [ "$what" = clean ]; then # needs no environment, and makes none
    if [ -x "$environment/bin/python" ]; then
        python="$environment/bin/python"
    else
        find_python
    fi
    exec "$python" -m skin_tl.workflow.start clean "$@"
fi

case "$KERAS_BACKEND" in
    tensorflow | jax) ;;
    *) fail "KERAS_BACKEND=$KERAS_BACKEND is not supported here: use tensorflow or jax." ;;
esac

wants_cuda() {
    case "${SKIN_TL_CUDA-}" in
        1) return 0 ;;
        0) return 1 ;;
    esac
    [ "$(uname -sm)" = "Linux x86_64" ] || return 1
    [ -e /proc/driver/nvidia/version ] && return 0
    command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1
}

fingerprint() { # of a lock file; cksum is in POSIX
    cksum <"$1" | tr ' ' '-'
}

pip_install() { # $1 what it is, $2 number of packages; the rest goes to pip. Its own words go to a log file.
    local title=$1 total=$2 first state_of_pip
    shift 2
    first=$(($(wc -l <"$log") + 1))
    # In the background, so that an interrupt reaches us at once and we can count what pip has collected.
    "$environment/bin/python" -m pip install --progress-bar off "$@" >>"$log" 2>&1 </dev/null &
    pid=$!
    if [ -t 2 ]; then
        while kill -0 "$pid" 2>/dev/null; do
            if tail -n "+$first" "$log" | grep -q '^Installing collected'; then
                state_of_pip="unpacking"
            else
                state_of_pip="$(tail -n "+$first" "$log" | grep -c '^Collecting ') of about $total packages fetched"
            fi
            printf '\r  %-76s' "$title: $state_of_pip" >&2
            sleep 1
        done
        printf '\r%78s\r' '' >&2
    fi
    if wait "$pid"; then
        pid=
        return 0
    fi
    pid=
    return 1
}

install_failed() { # $1 which lock
    local reason
    reason=$(awk '/^ERROR: / { sub(/^ERROR: /, ""); line = $0; if (/:$/) { getline; sub(/^ +/, ""); line = line " " $0 }
                  print line; exit }' "$log") || reason=
    reason=${reason%.}
    fail "installing $1 failed: ${reason:-see the end of the log}${reason:+. The rest is in} ${log#"$project"/}." \
        "Mend that (network? disk space?) and start again."
}

need_room() { # $1 kB for $2
    local free
    free=$(df -Pk "$project" 2>/dev/null | awk 'NR == 2 { print $4 }') || free=
    case "$free" in '' | *[!0-9]*) return ;; esac # a df that says something else
    if [ "$free" -lt "$1" ]; then
        fail "$project has $((free / 1000)) MB of disk free, and $2 takes about $(($1 / 1000)) MB." \
            "Free some space, or move the project to a larger disk, and start again."
    fi
}

lock="$project/.venv.lock"
pid= # of pip, while it works
release() {
    rm -rf -- "$lock"
    trap - EXIT INT TERM HUP
}
stopped() {
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null || :
        wait "$pid" 2>/dev/null || :
    fi
    printf '\nStopped. The next start installs again what is missing.\n' >&2
    exit 130
}
acquire() {
    local owner told tries=0 absent=0
    until told=$(mkdir -- "$lock" 2>&1); do
        [ -w "$project" ] || not_writable "$project"
        if [ ! -d "$lock" ]; then # not held by another start, but for the moment in which it ends
            absent=$((absent + 1))
            [ "$absent" -lt 10 ] || fail "$lock cannot be made ($told). Mend that and start again."
            continue
        fi
        owner=$(cat "$lock/pid" 2>/dev/null) || owner=
        if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then
            rm -rf -- "$lock" # its owner is gone
        elif [ "$tries" -ge 10 ] && [ -z "$owner" ]; then
            rm -rf -- "$lock" # its owner died before it said who it is
        else
            if [ "$tries" = 0 ]; then echo "Another start is installing; waiting for it …" >&2; fi
            tries=$((tries + 1))
            sleep 1
        fi
    done
    echo $$ >"$lock/pid"
    trap release EXIT
    trap stopped INT TERM HUP
}

number_of_packages() { grep -c '^[a-z0-9].*==' "$1"; }

make_environment() { # for a command with the arguments $@
    case "$what" in
        predict | export) # which need what a study has made, and nothing is installed without
            case "$*" in
                *study.json*) ;; # perhaps of another project
                *)
                    [ -n "$(find "$project/runs" -name run.json 2>/dev/null | head -n 1)" ] ||
                        fail "No study has finished runs. Run one first: \`./run_all.sh\` (the demo), or \`./run_all.sh STUDY\`."
                    ;;
            esac
            ;;
    esac
    local stamp="$environment/installed" base python old
    base=$(fingerprint locks/base.lock)
    mkdir -p "$state"
    log="$state/install.log"

    # An environment is whole once the stamp is there. Without it a stopped install is assumed, and done over:
    # the packages fetched before are in pip's cache.
    if [ ! -f "$stamp" ] || ! "$environment/bin/python" -c 'import encodings' 2>/dev/null; then
        find_python
        case "$what" in lab | tensorboard | predict | export) ;; *) need_pango "$python" ;; esac
        rm -rf -- "$environment"
        need_room 3000000 .venv
        echo "Installing TensorFlow, JupyterLab and what they need into .venv (once, a few minutes, about 3 GB) …" >&2
        : >"$log"
        "$python" -m venv "$environment" >>"$log" 2>&1 || {
            rm -rf -- "$environment"
            fail "$python could not make .venv: $(grep . "$log" | tail -n 1)"
        }
        old=
    else
        read -r old <"$stamp" || old=
        if [ "$old" != "$base" ]; then
            echo "locks/base.lock has changed: updating .venv …" >&2
            : >"$log"
            mv -- "$stamp" "$stamp.old"
        fi
    fi
    if [ "$old" != "$base" ]; then
        # First the installers, then the rest with them: nothing comes in that the lock does not name.
        awk '/^[a-z0-9]/ { keep = /^(pip|setuptools)==/ } keep' locks/base.lock >"$state/installers.lock"
        if pip_install "installers" 2 --no-deps --require-hashes -r "$state/installers.lock" &&
            pip_install "locks/base.lock" "$(number_of_packages locks/base.lock)" \
                --no-deps --no-build-isolation --require-hashes -r locks/base.lock &&
            pip_install "skin_tl" 1 --no-build-isolation --no-deps --no-index --editable .; then
            echo "$base" >"$stamp.part"
            mv -- "$stamp.part" "$stamp"
            rm -f -- "$stamp.old"
        else
            if [ -f "$stamp.old" ]; then mv -- "$stamp.old" "$stamp"; fi
            install_failed locks/base.lock
        fi
    fi
}

has_lock() { # $1 cuda, jax, export or dev
    local stamp="$environment/installed.$1" have=
    if [ -f "$stamp" ]; then read -r have <"$stamp" || have=; fi
    [ "$have" = "$(fingerprint "locks/$1.lock") $(fingerprint locks/base.lock)" ]
}

add_lock() { # $1 cuda, jax, export or dev, $2 what it is
    local stamp="$environment/installed.$1" file="locks/$1.lock"
    if has_lock "$1"; then return; fi
    acquire
    mkdir -p "$state"
    log="$state/install-$1.log"
    : >"$log"
    echo "Installing $2 from $file (once) …" >&2
    pip_install "$file" "$(($(number_of_packages "$file") - $(number_of_packages locks/base.lock)))" \
        --no-deps --require-hashes -r "$file" || install_failed "$file"
    echo "$(fingerprint "$file") $(fingerprint locks/base.lock)" >"$stamp"
    release
}

named=$(sed -n 's/^name: *//p' environment.yml)
if [ -n "${CONDA_PREFIX-}" ] && [ "${CONDA_DEFAULT_ENV-}" = "$named" ] && [ "$named" != base ]; then
    environment=$CONDA_PREFIX
    python="$environment/bin/python"
    [ -x "$python" ] || fail "the conda environment $named has no Python. Make it again: conda env create -f environment.yml"
    more=
    case "$what" in
        export) more="onnx onnxruntime tf2onnx ai_edge_litert" ;;
        test) more="pytest hypothesis playwright importlinter" ;;
    esac
    # shellcheck disable=SC2086 # a list
    missing=$("$python" -c '
import importlib.util, sys
names = sys.argv[1:]
print(*[name for name in names if importlib.util.find_spec(name) is None])
' keras "$KERAS_BACKEND" snakemake papermill nbconvert jupyterlab ipywidgets weasyprint pandera statsmodels seaborn tensorboard $more) || missing=Python
    case "$missing" in
        '') ;;
        jax) fail "the conda environment $named has no jax. Add it: pip install --require-hashes -r locks/jax.lock" ;;
        pytest* | hypothesis* | playwright* | importlinter*)
            fail "the conda environment $named lacks $missing. Add what the tests need:" \
                "pip install --require-hashes -r locks/dev.lock"
            ;;
        onnx* | tf2onnx* | ai_edge_litert*)
            fail "the conda environment $named lacks $missing. Add what exporting needs:" \
                "pip install --require-hashes -r locks/export.lock"
            ;;
        *)
            fail "the conda environment $named lacks $missing." \
                "Bring it up to date: conda env update -f environment.yml"
            ;;
    esac
    if [ "$KERAS_BACKEND" = tensorflow ] && wants_cuda &&
        ! "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("nvidia.cudnn") is None)' 2>/dev/null; then
        echo "note: the conda environment $named lacks NVIDIA's libraries, so TensorFlow computes on the processor unless the" \
            "system has them. To add them: pip install --require-hashes -r locks/cuda.lock" >&2
    fi
    if [ ! -f "$environment/skin_tl.installed" ]; then # for a JupyterLab that is started without us
        mkdir -p "$state"
        log="$state/install.log"
        : >"$log"
        pip_install "skin_tl" 1 --no-build-isolation --no-deps --no-index --editable . || install_failed pyproject.toml
        : >"$environment/skin_tl.installed"
    fi
else
    if [ -n "${PYTHON-}" ] && [ -f "$environment/installed" ]; then
        find_python
        version='import sys; print(sys.version_info[:2])'
        if [ "$("$python" -c "$version")" != "$("$environment/bin/python" -c "$version" 2>/dev/null)" ]; then
            echo "PYTHON names another version than .venv has: making .venv anew." >&2
            rm -f -- "$environment/installed"
        fi
    fi
    have=
    if [ -f "$environment/installed" ]; then read -r have <"$environment/installed" || have=; fi
    if [ "$have" != "$(fingerprint locks/base.lock)" ] || ! "$environment/bin/python" -c '' 2>/dev/null; then
        acquire
        make_environment "$@"
        release
    fi
    python="$environment/bin/python"
    if [ "$KERAS_BACKEND" = jax ]; then add_lock jax "JAX"; fi
    if [ "$what" = test ]; then add_lock dev "what the tests need"; fi
    if [ "$what" = export ] && ! has_lock export; then # what cannot be exported is told without installing anything
        "$python" -m skin_tl.apps.export --only-check --from "$here" "$@"
    fi
    if [ "$what" = export ] || { [ "$what" = test ] && [ -n "${SKIN_TL_TEST_EXPORT-}" ]; }; then
        add_lock export "the converters and runtimes of ONNX and LiteRT (about 200 MB)"
    fi
    if [ "$KERAS_BACKEND" = jax ]; then
        if wants_cuda && ! "$python" -c 'import importlib.util as u, sys
sys.exit(not any(u.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)))'; then
            echo "note: JAX computes on the processor: its libraries for GPUs are not in .venv (see README.md)." >&2
        fi
    elif wants_cuda; then
        add_lock cuda "NVIDIA's libraries for TensorFlow (about 3 GB)"
    fi
fi
export PATH="$environment/bin:$PATH"

case "$what" in
    lab)
        # The start page opens rendered, and nothing asks for news from elsewhere. What a person sets comes before this.
        mkdir -p "$JUPYTER_CONFIG_DIR/labconfig"
        cat >"$JUPYTER_CONFIG_DIR/labconfig/default_setting_overrides.json" <<'TEXT'
{
  "@jupyterlab/docmanager-extension:plugin": { "defaultViewers": { "markdown": "Markdown Preview" } },
  "@jupyterlab/apputils-extension:notification": { "fetchNews": "false", "checkForUpdates": false }
}
TEXT
        exec "$python" -m jupyterlab --ServerApp.root_dir="$project/notebooks" \
            --LabApp.default_url=/lab/tree/README.md "$@"
        ;;
    tensorboard)
        if [ -z "$(find "$project/runs" -path '*/tensorboard/*' -name 'events*' 2>/dev/null | head -n 1)" ]; then
            echo "note: no network was trained as a whole yet (fine_tuning, from_scratch): till then the page is empty." >&2
        fi
        exec "$python" -m tensorboard.main --logdir "$project/runs" "$@"
        ;;
    predict)
        exec "$python" -m skin_tl.apps.predict --from "$here" "$@"
        ;;
    export)
        exec "$python" -m skin_tl.apps.export --from "$here" "$@"
        ;;
    test)
        need_pango "$python"
        exec "$python" -m pytest "$@"
        ;;
    study)
        need_pango "$python"
        if [ -t 2 ]; then echo "Looking at what there is to do …" >&2; fi
        exec "$python" -m skin_tl.workflow.start run "$study" "$@"
        ;;
esac
