#!/usr/bin/env bash
# Ends with 0 when the planner in this container is active, else with 1 and the reason: health.sh [--timeout SECONDS]
#
# SMALLPLAN_NODE is the node's full name where it has a namespace, /robot1/smallplan_planner for instance.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/entrypoint.sh" "$(dirname "$here")/.venv/bin/python" -m smallplan_planner.nodes.health "$@"
