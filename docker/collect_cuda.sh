#!/usr/bin/env bash
# Copies the libraries of CUDA that llama.cpp needs: collect_cuda.sh WHEELS FOLDER
#
# The image that builds has 10 GB of CUDA, the one that runs needs three libraries of it: those that libggml-cuda.so
# names, and those that they name. The driver (libcuda) is not among them: the NVIDIA runtime brings the host's.
# CUDA_HOME says where CUDA is, if not at /usr/local/cuda.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# = 2 ] || fail "usage: collect_cuda.sh WHEELS FOLDER; got $# arguments"
wheels=$1 folder=$2
cuda=${CUDA_HOME:-/usr/local/cuda}/lib64
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-/usr/bin/python3}" -m zipfile -e "$wheels"/llama_cpp_python-*.whl "$work"
mkdir -p "$folder"

queue=("$work/llama_cpp/lib/libggml-cuda.so")
while [ ${#queue[@]} -gt 0 ]; do
    library=${queue[0]}
    queue=("${queue[@]:1}")
    for name in $(LC_ALL=C readelf -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
        case "$name" in libcuda.so*) continue ;; esac
        if [ -e "$cuda/$name" ] && [ ! -e "$folder/$name" ]; then
            cp -L "$cuda/$name" "$folder/$name"
            queue+=("$folder/$name")
        fi
    done
done
ls "$folder"/libcudart.so.* >/dev/null 2>&1 || fail "libggml-cuda.so needs no libcudart that is in $cuda; set CUDA_HOME"
say "Copied $(find "$folder" -type f -printf '%f ')from $cuda"
