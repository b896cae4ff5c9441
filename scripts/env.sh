# Source this in bash or zsh: the workspace's .venv and what colcon built, for this shell.
# A ROS 2 that is to be used is sourced before, and the same one when `make setup` runs.

if [ -n "${BASH_SOURCE:-}" ]; then
    _smallplan_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
else
    _smallplan_root=$(cd "$(dirname "$0")/.." && pwd) # zsh sets $0 to the sourced file
fi

if [ ! -x "$_smallplan_root/.venv/bin/python" ] || [ ! -f "$_smallplan_root/install/setup.sh" ]; then
    echo "scripts/env.sh: the workspace is not set up yet; run: make setup" >&2
    unset _smallplan_root
    return 1
fi

COLCON_CURRENT_PREFIX="$_smallplan_root/install"
. "$_smallplan_root/install/setup.sh"
unset COLCON_CURRENT_PREFIX

# The PyPI wheels are an ament prefix too; a sourced ROS 2 has put itself on the path already.
if [ -z "${ROS_DISTRO:-}" ]; then
    export AMENT_PREFIX_PATH="$AMENT_PREFIX_PATH:$_smallplan_root/.venv"
fi

# Sources before installed links: a file that was added since the last build is found too.
PYTHONPATH="$_smallplan_root/src/smallplan_planner:$_smallplan_root/src/smallplan_training${PYTHONPATH:+:$PYTHONPATH}"
PATH="$_smallplan_root/.venv/bin:$PATH"
VIRTUAL_ENV="$_smallplan_root/.venv"
export PYTHONPATH PATH VIRTUAL_ENV
unset _smallplan_root
