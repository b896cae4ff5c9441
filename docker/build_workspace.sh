#!/usr/bin/env bash
# Builds what an image runs into one folder: build_workspace.sh robot | workstation PREFIX WHEELS
#
# PREFIX/.venv holds the Python packages, PREFIX/install the ROS packages, both of them complete: no sources, no
# compilers, no build tools. `robot` is the planner; `workstation` is the simulator and the `smallplan` command too.
# Versions are those of requirements/; the wheel of llama-cpp-python is the one in WHEELS (build_llama.sh). Needs ROS 2
# at /opt/ros/$ROS_DISTRO.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# = 3 ] || fail "usage: build_workspace.sh robot | workstation PREFIX WHEELS; got $# arguments"
kind=$1 prefix=$2 wheels=$3
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
requirements=$source/requirements
python=${PYTHON:-/usr/bin/python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case "$kind" in
    robot) list=robot packages=(smallplan_msgs smallplan_planner) ;;
    workstation) list=runtime packages=(smallplan_msgs smallplan_planner smallplan_training) ;;
    *) fail "the kind is '$kind'; expected robot or workstation" ;;
esac
[ -n "${ROS_DISTRO:-}" ] || fail "ROS_DISTRO is not set; build FROM an image of ROS 2 (ros:humble-ros-core-jammy)"
setup=${SMALLPLAN_ROS_SETUP:-/opt/ros/$ROS_DISTRO/setup.bash}
[ -f "$setup" ] || fail "ROS 2 $ROS_DISTRO is not installed: there is no $setup"
wheel=("$wheels"/llama_cpp_python-*.whl)
[ -f "${wheel[0]}" ] || fail "there is no wheel of llama-cpp-python in $wheels; run build_llama.sh first"

# numpy and empy are those that this ROS 2 is built with.
cat "$requirements/constraints.txt" >"$work/constraints.txt"
grep -E '^(numpy|empy)==' "$requirements/sourced-ros.txt" >>"$work/constraints.txt"
pip=$(grep -E '^pip==' "$requirements/constraints.txt")

install() { # PYTHON ARGUMENTS…
    "$1" -m pip install -q --no-input --no-cache-dir --constraint "$work/constraints.txt" "${@:2}"
}

say "Python packages of the $kind"
"$python" -m venv --system-site-packages "$prefix/.venv"
install "$prefix/.venv/bin/python" "$pip"
install "$prefix/.venv/bin/python" --requirement "$requirements/$list.txt" "${wheel[0]}"
"$(dirname "${BASH_SOURCE[0]}")/slim_packages.sh" "$prefix/.venv"

say "Build tools, which stay behind"
"$python" -m venv --system-site-packages "$work/venv"
install "$work/venv/bin/python" "$pip"
install "$work/venv/bin/python" --requirement "$requirements/build.txt" --requirement "$requirements/sourced-ros.txt"

say "ROS packages: ${packages[*]}"
set +u # the set-up files of ROS read variables that may be unset
# shellcheck disable=SC1090
. "$setup"
set -u
PATH="$work/venv/bin:$PATH" "$work/venv/bin/python" -c \
    "import sys; from colcon_core.command import main; sys.exit(main())" --log-base "$work/log" build \
    --base-paths "$source/src" --build-base "$work/build" --install-base "$prefix/install" --merge-install \
    --executor sequential --packages-select "${packages[@]}" --cmake-args \
    "-DPython3_EXECUTABLE=$work/venv/bin/python" "-DPYTHON_EXECUTABLE=$work/venv/bin/python" \
    -DPython3_FIND_VIRTUALENV=ONLY "-DSMALLPLAN_PYTHON=$prefix/.venv/bin/python" -DBUILD_TESTING=OFF \
    -DCMAKE_BUILD_TYPE=Release --no-warn-unused-cli

if [ "$kind" = workstation ]; then
    printf '#!%s\nimport sys\n\nfrom smallplan_training.cli import main\n\nsys.exit(main())\n' \
        "$prefix/.venv/bin/python" >"$prefix/.venv/bin/smallplan"
    chmod 755 "$prefix/.venv/bin/smallplan"
fi
