#!/usr/bin/env bash
# Creates the user that the container runs as: add_user.sh NAME UID HOME
#
# A system account without a password or a shell to log in with. Group video may open the GPU's devices of a Jetson,
# together with group render, whose number differs from machine to machine and which compose therefore adds.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# = 3 ] || fail "usage: add_user.sh NAME UID HOME; got $# arguments"
name=$1 uid=$2 home=$3
[[ "$uid" =~ ^[0-9]+$ && "$uid" -gt 0 ]] || fail "UID is '$uid'; expected a number above 0, which is root"

root=()
[ -z "${SMALLPLAN_ROOT:-}" ] || root=(--prefix "$SMALLPLAN_ROOT")
say "Adding user $name ($uid)"
groupadd "${root[@]}" --gid "$uid" "$name"
useradd "${root[@]}" --uid "$uid" --gid "$uid" --groups video --no-log-init --create-home --home-dir "$home" \
    --shell /usr/sbin/nologin "$name"
