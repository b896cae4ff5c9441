#!/usr/bin/env bash
# Builds the wheel of llama-cpp-python for an image: build_llama.sh cpu | cuda WHEELS
#
# The version is that of requirements/llama.txt, its build tools are those of requirements/constraints.txt, and the
# flags come from scripts/machine.py, as for `make setup`. `cuda` is for a Jetson Orin: architecture 87. A wheel that
# would run on the CPU alone, or that holds no code for that architecture, is an error here and not on the robot.
#
# PYTHON, CUDACXX and CMAKE_BUILD_PARALLEL_LEVEL are taken from the environment where they are set.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# = 2 ] || fail "usage: build_llama.sh cpu | cuda WHEELS; got $# arguments"
target=$1 wheels=$2
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-/usr/bin/python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case "$target" in
    cpu)
        choice="cuda=False, jetson=False"
        extra=""
        ;;
    cuda)
        CUDACXX=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
        [ -x "$CUDACXX" ] || fail "there is no CUDA compiler at $CUDACXX, and without one llama.cpp would run on the" \
            "CPU. Build FROM an image with CUDA's tools (l4t-jetpack), or set CUDACXX to nvcc"
        export CUDACXX
        choice="cuda=True, jetson=True"
        # The driver, libcuda.so.1, is there when the container runs and not while the image is built.
        extra="-DCMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined"
        ;;
    *) fail "the target is '$target'; expected cpu or cuda" ;;
esac

flags=$(PYTHONPATH="$source/scripts" "$python" -c "import machine; print(*machine.llama_cmake_args($choice))")
export CMAKE_ARGS="$flags $extra"
if [ -z "${CMAKE_BUILD_PARALLEL_LEVEL:-}" ]; then
    # A compiler of CUDA takes up to 2 GiB: more of them than memory holds would swap for hours.
    memory=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 2097152))
    jobs=$(nproc)
    if [ "$memory" -lt "$jobs" ]; then jobs=$((memory > 0 ? memory : 1)); fi
    export CMAKE_BUILD_PARALLEL_LEVEL=$jobs
fi

pip=$(grep -E '^pip==' "$source/requirements/constraints.txt")
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --no-input "$pip"
say "Building llama.cpp with $CMAKE_ARGS, $CMAKE_BUILD_PARALLEL_LEVEL at a time"
mkdir -p "$wheels"
"$work/venv/bin/python" -m pip wheel --no-input --no-deps --no-cache-dir --wheel-dir "$wheels" \
    --requirement "$source/requirements/llama.txt" --build-constraint "$source/requirements/constraints.txt"

if [ "$target" = cuda ]; then
    "$work/venv/bin/python" -m zipfile -e "$wheels"/llama_cpp_python-*.whl "$work/unpacked"
    library=$work/unpacked/llama_cpp/lib/libggml-cuda.so
    [ -e "$library" ] || fail "the wheel has no libggml-cuda.so: it was built for the CPU alone, with $CMAKE_ARGS"
    "$(dirname "$CUDACXX")/cuobjdump" --list-elf "$library" >"$work/code"
    grep -q 'sm_87' "$work/code" || fail "libggml-cuda.so holds no code for architecture 87, a Jetson Orin: $(
        sort -u "$work/code" | head -n 3 | tr '\n' ' '
    )"
    say "libggml-cuda.so holds code for architecture 87"
fi
