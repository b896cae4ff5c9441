#!/usr/bin/env bash
# Takes from a virtual environment what only building or testing needs: slim_packages.sh VENV
#
# pip and setuptools; the packages' own tests; of llama.cpp's libraries, which its wheel holds six times (in two
# folders, each under three names, since a wheel can't hold links), all but one. For CUDA they are large.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# = 1 ] || fail "usage: slim_packages.sh VENV; got $# arguments"
folders=("$1"/lib/python3.*/site-packages)
packages=${folders[0]}
[ -d "$packages" ] || fail "$1 is no virtual environment: there is no lib/python3.*/site-packages"

"$1/bin/python" -m pip uninstall -q --yes setuptools pip
find "$packages" -type d -name tests -prune -exec rm -rf {} +
rm -rf "${packages:?}/lib" "${packages:?}/include" # llama.cpp's for C++; llama_cpp/lib is what Python loads
for library in "$packages"/llama_cpp/lib/lib*.so.*; do
    plain=${library%%.so.*}.so
    if cmp -s "$library" "$plain"; then ln -sf "$(basename "$plain")" "$library"; fi
done
say "Python packages: $(du -sm "$1" | cut -f1) MB"
