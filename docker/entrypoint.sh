#!/usr/bin/env bash
# Runs a command with ROS 2 and SmallPlan on its paths: entrypoint.sh COMMAND…
#
# Finds itself in PREFIX/docker, with .venv and install beside. The command takes this process's place, so that it
# gets the signals of `docker stop`.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# -gt 0 ] || fail "usage: entrypoint.sh COMMAND…; got none"
prefix=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
setup=${SMALLPLAN_ROS_SETUP:-/opt/ros/${ROS_DISTRO:-}/setup.bash}
[ -f "$setup" ] || fail "ROS 2 is not there: no $setup (ROS_DISTRO is '${ROS_DISTRO:-}')"
[ -f "$prefix/install/local_setup.bash" ] || fail "SmallPlan is not built: no $prefix/install/local_setup.bash"

set +u # the set-up files of ROS read variables that may be unset
# shellcheck disable=SC1090
. "$setup"
# shellcheck disable=SC1091
. "$prefix/install/local_setup.bash"
set -u
export PATH="$prefix/.venv/bin:$PATH"
exec "$@"
