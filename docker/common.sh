# shellcheck shell=bash
# Sourced by the scripts beside it: strict mode, and how they complain.

set -euo pipefail

say() { printf -- '-- %s\n' "$*"; }

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}
