#!/usr/bin/env bash
# The last step of an image, run as its user: does what was put together run? check_image.sh UID
#
# Every library that llama.cpp names is found (the driver of the GPU may be missing while an image is built), and the
# planner with the default model becomes active, as its health check sees it. Where the driver is missing, so that
# llama.cpp can't be loaded yet, the latter is left to the container's health check, and this is said.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# = 1 ] || fail "usage: check_image.sh UID; got $# arguments"
[ "$(id -u)" = "$1" ] || fail "it is run by user $(id -u); expected $1, so USER must stand before it"
PATIENCE=60 # s until the planner must be active

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prefix=$(dirname "$here")
python=$prefix/.venv/bin/python

libraries=$("$here/entrypoint.sh" "$python" -c \
    'import importlib.util as u; print(u.find_spec("llama_cpp").submodule_search_locations[0] + "/lib")')
missing=$("$here/entrypoint.sh" ldd "$libraries"/*.so | sed -n 's/^[[:space:]]*\([^ ]*\) => not found$/\1/p' | sort -u)
unexpected=$(grep -v '^libcuda\.so\.1$' <<<"$missing" || true)
[ -z "$unexpected" ] || fail "llama.cpp needs libraries that are not in the image: ${unexpected//$'\n'/, }"
if [ -n "$missing" ]; then
    say "the driver (libcuda.so.1) is not here: whether the planner becomes active is seen when the container runs"
    exit 0
fi

log=$(mktemp)
"$here/entrypoint.sh" "$prefix/install/lib/smallplan_planner/planner_node" >"$log" 2>&1 &
planner=$!
trap 'kill "$planner" 2>/dev/null || true; wait "$planner" 2>/dev/null || true; rm -f "$log"' EXIT
end=$((SECONDS + PATIENCE))
until reason=$("$here/health.sh" --timeout 5 2>&1); do
    kill -0 "$planner" 2>/dev/null || fail "the planner ended: $(tail -n 5 "$log")"
    [ "$SECONDS" -lt "$end" ] || fail "the planner was not active within $PATIENCE s: $reason; $(tail -n 5 "$log")"
done
say "$reason"
