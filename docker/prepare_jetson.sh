#!/usr/bin/env bash
# Looks whether this Jetson can run the image, and writes what compose needs to know of it to docker/.env:
#
#   docker/prepare_jetson.sh
#
# It installs nothing and changes no setting of the machine. What is missing is said with its remedy; the power mode
# and the memory that is left are told.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# = 0 ] || fail "usage: prepare_jetson.sh takes no arguments; got $#"
root=${SMALLPLAN_ROOT:-}
settings=$(dirname "${BASH_SOURCE[0]}")/.env

release=$(sed -n 's/^# R\([0-9]*\) .*REVISION: \([0-9.]*\).*/\1.\2/p' "$root/etc/nv_tegra_release" 2>/dev/null || true)
[ -n "$release" ] || fail "this is no Jetson: there is no release in $root/etc/nv_tegra_release"
case "$release" in
    36.[0-3] | 36.[0-3].*) # JetPack 6.0: its driver is too old for the CUDA of the image's own base
        grep -q '^L4T_IMAGE=' "$settings" 2>/dev/null || fail "this Jetson runs L4T r$release, JetPack 6.0, and the" \
            "image is built for 6.1 and later: upgrade, or put L4T_IMAGE=nvcr.io/nvidia/l4t-jetpack:r36.3.0 into $settings"
        ;;
    36.*) ;;
    *) fail "this Jetson runs L4T r$release; the image is for JetPack 6, which is r36: flash JetPack 6" ;;
esac
say "L4T r$release"

command -v docker >/dev/null || fail "there is no docker: sudo apt-get install -y docker.io docker-compose-v2"
runtimes=$(docker info --format '{{json .Runtimes}}') ||
    fail "docker does not answer: start it, and be in its group (sudo usermod -aG docker \$USER, then log in again)"
grep -q '"nvidia"' <<<"$runtimes" || fail "docker has no runtime nvidia, so a container gets no GPU: sudo apt-get" \
    "install -y nvidia-container; sudo nvidia-ctk runtime configure --runtime=docker; sudo systemctl restart docker"
docker compose version >/dev/null 2>&1 || fail "docker has no compose: sudo apt-get install -y docker-compose-v2"

group=$(getent group render | cut -d: -f3)
[ -n "$group" ] || fail "there is no group render, which owns the GPU's devices: sudo groupadd --system render"
touch "$settings"
others=$(grep -v '^RENDER_GID=' "$settings" || true)
printf '%s\n' ${others:+"$others"} "RENDER_GID=$group" >"$settings"
say "Group render is $group: written to $settings"

if command -v nvpmodel >/dev/null; then
    say "Power mode: $(nvpmodel -q 2>/dev/null | sed -n 's/^NV Power Mode: //p')"
fi
available=$(($(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' "$root/proc/meminfo") / 1024))
say "Memory that is left, for CPU and GPU together: $available MiB"
