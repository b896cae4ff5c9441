#!/usr/bin/env bash
# Installs the system packages of one stage of an image: install_packages.sh build | runtime
#
# ROS 2 is in the base image already, and everything Python is pinned by requirements/: what comes from Ubuntu is a
# compiler while building, and one library to run.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1:-}" in
    build) packages=(build-essential python3-dev python3-venv) ;;
    runtime) packages=(libgomp1) ;; # llama.cpp's threads
    *) fail "usage: install_packages.sh build | runtime; got '${1:-}'" ;;
esac

export DEBIAN_FRONTEND=noninteractive
say "Installing ${packages[*]}"
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${packages[@]}"
apt-get clean
rm -rf "${SMALLPLAN_ROOT:-}"/var/lib/apt/lists/*
