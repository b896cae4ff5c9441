"""The scripts that the Dockerfiles call, run from the files that the image's stages hold.

What is cheap is done for real (bash, useradd, a compiler, venv folders); pip, colcon and apt are played by scripts that
write down what they were asked for.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fixtures.images import DOCKER, ROOT, read_image

SCRIPTS = sorted(DOCKER.glob("*.sh"))
BUILD_FILES = ("CMAKE_ARGS", "CUDACXX", "CMAKE_BUILD_PARALLEL_LEVEL")

# Plays python3: venvs are folders with itself in them, pip and colcon write down what they were asked for, and what
# `pip wheel` makes is the file $WHEEL; everything else is done by a real Python.
PYTHON = r"""#!/usr/bin/env bash
set -euo pipefail
case "$*" in
    "-m venv"*)
        mkdir -p "${!#}/bin" "${!#}/lib/python3.10/site-packages" && cp "$0" "${!#}/bin/python"
        echo "$*" >>"$ASKED"
        ;;
    "-m pip wheel"*)
        echo "$* CMAKE_ARGS=$CMAKE_ARGS CUDACXX=${CUDACXX:-} jobs=$CMAKE_BUILD_PARALLEL_LEVEL" >>"$ASKED"
        cp "$WHEEL" "$(sed 's/.*--wheel-dir \([^ ]*\).*/\1/' <<<"$*")"
        ;;
    "-m pip"*)
        echo "$(basename "$(dirname "$(dirname "$0")")") $*" >>"$ASKED"
        constraints=$(sed -n 's/.*--constraint \([^ ]*\).*/\1/p' <<<"$*")
        if [ -n "$constraints" ]; then cp "$constraints" "$ASKED.constraints"; fi
        ;;
    *colcon_core*) echo "colcon ${*:3}" >>"$ASKED"; command -v python >>"$ASKED" ;;
    *) exec @REAL@ "$@" ;;
esac
"""


def write_script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def run(*words: object, **environment: object) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in BUILD_FILES}
    env = {**inherited, **{name: str(value) for name, value in environment.items()}}
    return subprocess.run([str(word) for word in words], env=env, capture_output=True, text=True, timeout=120)


def stage_files(image: str, stage: str, folder: Path) -> Path:
    """What a stage of an image copies from the repository, at its places under `folder`."""
    read = read_image(DOCKER / f"{image}.Dockerfile")
    read.materialise(read.stages[stage], folder)
    return folder


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return tmp_path / "asked"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    return write_script(tmp_path / "tools" / "python3", PYTHON.replace("@REAL@", sys.executable))


def make_wheel(path: Path, *files: tuple[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("llama_cpp/__init__.py", b""), *files):
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    assert run("bash", "-n", script).stderr == ""
    executable = bool(script.stat().st_mode & stat.S_IXUSR)
    assert executable == (script.name != "common.sh"), "what is run is executable, what is sourced is not"
    first = script.read_text().splitlines()[0]
    assert first == ("#!/usr/bin/env bash" if executable else "# shellcheck shell=bash")


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = run("shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *SCRIPTS)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.name != "common.sh"], ids=lambda path: path.name)
def test_wrong_arguments_change_nothing_and_say_what_is_expected(script: Path) -> None:
    if script.name == "health.sh":
        pytest.skip("its arguments are those of the health command")
    done = run(script, *(["x"] * 5 if script.name not in ("install_packages.sh", "entrypoint.sh") else []))
    assert done.returncode == 1
    assert done.stderr.startswith(f"{script.name}: usage: {script.name} "), done.stderr


# -- system packages and the user


def test_packages_are_installed_without_recommendations_and_leave_no_lists(tmp_path: Path) -> None:
    lists = tmp_path / "var" / "lib" / "apt" / "lists"
    lists.mkdir(parents=True)
    (lists / "packages").write_text("many")
    write_script(tmp_path / "bin" / "apt-get", f'#!/bin/sh\necho "$@" >>"{tmp_path}/asked"\n')
    path = f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"
    for stage, package in (("build", "build-essential"), ("runtime", "libgomp1")):
        done = run(DOCKER / "install_packages.sh", stage, PATH=path, SMALLPLAN_ROOT=tmp_path)
        assert done.returncode == 0, done.stderr
        update, install, clean = (tmp_path / "asked").read_text().splitlines()
        assert update.startswith("update") and clean == "clean"
        assert "--no-install-recommends" in install.split() and package in install.split()
        (tmp_path / "asked").unlink()
    assert lists.is_dir() and not list(lists.iterdir())


def test_packages_that_can_not_be_installed_are_an_error(tmp_path: Path) -> None:
    write_script(tmp_path / "bin" / "apt-get", '#!/bin/sh\n[ "$1" != install ]\n')
    path = f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"
    assert run(DOCKER / "install_packages.sh", "build", PATH=path, SMALLPLAN_ROOT=tmp_path).returncode != 0


def test_the_user_can_open_the_gpu_and_not_log_in(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("useradd") is None:
        pytest.skip("only root can add users, and needs useradd")
    etc = tmp_path / "etc"
    etc.mkdir()
    for name, text in (
        ("passwd", "root:x:0:0::/root:/bin/sh\n"),
        ("group", "root:x:0:\nvideo:x:44:\n"),
        ("shadow", ""),
    ):
        (etc / name).write_text(text)
    (tmp_path / "var" / "lib").mkdir(parents=True)
    done = run(DOCKER / "add_user.sh", "smallplan", "10001", "/var/lib/smallplan", SMALLPLAN_ROOT=tmp_path)
    assert done.returncode == 0, done.stderr
    name, _, uid, gid, _, home, shell = (etc / "passwd").read_text().splitlines()[1].split(":")
    assert (name, uid, gid, home, shell) == ("smallplan", "10001", "10001", "/var/lib/smallplan", "/usr/sbin/nologin")
    assert "video:x:44:smallplan" in (etc / "group").read_text()
    owner = (tmp_path / "var" / "lib" / "smallplan").stat()
    assert (owner.st_uid, owner.st_gid) == (10001, 10001)


@pytest.mark.parametrize("uid", ["0", "root", "-1", ""])
def test_the_user_is_never_root(uid: str) -> None:
    done = run(DOCKER / "add_user.sh", "smallplan", uid, "/var/lib/smallplan")
    assert done.returncode == 1 and f"UID is '{uid}'" in done.stderr


# -- llama.cpp


CUDA_WHEEL = ("llama_cpp/lib/libggml-cuda.so", b"code")


@pytest.fixture
def llama(tmp_path: Path, python: Path, asked: Path) -> dict[str, object]:
    """The environment of build_llama.sh in the Jetson's stage `llama`; `script` is the script."""
    root = stage_files("jetson", "llama", tmp_path / "root")
    nvcc = write_script(tmp_path / "cuda" / "bin" / "nvcc", "#!/bin/sh\n")
    write_script(tmp_path / "cuda" / "bin" / "cuobjdump", '#!/bin/sh\necho "ELF file    1: x.1.${CODE:-sm_87}.cubin"\n')
    wheel = make_wheel(tmp_path / "made" / "llama_cpp_python-0.3.36-cp310-cp310-linux.whl", CUDA_WHEEL)
    script = root / "src" / "docker" / "build_llama.sh"
    return {"script": script, "PYTHON": python, "ASKED": asked, "CUDACXX": nvcc, "WHEEL": wheel}


def build_llama(llama: dict[str, object], target: str, wheels: Path, **changes: object) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in {**llama, **changes}.items() if name != "script"}
    return run(llama["script"], target, wheels, **environment)


def test_llama_is_built_for_the_jetsons_gpu(llama: dict[str, object], tmp_path: Path, asked: Path) -> None:
    done = build_llama(llama, "cuda", tmp_path / "wheels")
    assert done.returncode == 0, done.stderr
    assert "holds code for architecture 87" in done.stdout
    assert [path.suffix for path in (tmp_path / "wheels").iterdir()] == [".whl"]
    (built,) = [line for line in asked.read_text().splitlines() if "pip wheel" in line]
    for flag in ("-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=87", "-DGGML_NATIVE=OFF", "-Wl,--allow-shlib-undefined"):
        assert flag in built
    assert f"CUDACXX={llama['CUDACXX']}" in built
    jobs = re.search(r"jobs=(\d+)$", built)
    assert jobs and 1 <= int(jobs[1]) <= (os.cpu_count() or 1)
    # by the pinned pip, the pinned version, with pinned build tools: files that the stage has
    source = Path(str(llama["script"])).parents[1] / "requirements"
    assert f"--requirement {source}/llama.txt" in built and f"--build-constraint {source}/constraints.txt" in built
    assert (source / "llama.txt").is_file() and (source / "constraints.txt").is_file()
    pip = re.search(r"^pip==\S+$", (ROOT / "requirements" / "constraints.txt").read_text(), re.MULTILINE)
    assert pip and f"pip install -q --no-input {pip[0]}" in asked.read_text()


def test_llama_is_built_for_the_cpu_of_a_workstation(llama: dict[str, object], tmp_path: Path, asked: Path) -> None:
    done = build_llama(llama, "cpu", tmp_path / "wheels", CUDACXX="/does/not/exist")
    assert done.returncode == 0, done.stderr
    assert "GGML_CUDA" not in asked.read_text() and "-DGGML_NATIVE=OFF" in asked.read_text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"CUDACXX": "/does/not/exist"}, "no CUDA compiler at /does/not/exist"),
        ({"WHEEL": ()}, "built for the CPU alone"),
        ({"CODE": "sm_86"}, "no code for architecture 87, a Jetson Orin: ELF file    1: x.1.sm_86.cubin"),
    ],
    ids=["no compiler", "no CUDA in the wheel", "another architecture"],
)
def test_a_build_that_would_run_on_the_cpu_is_an_error(
    changes: dict[str, object], reason: str, llama: dict[str, object], tmp_path: Path
) -> None:
    if "WHEEL" in changes:
        changes = {"WHEEL": make_wheel(tmp_path / "cpu" / "llama_cpp_python-0.3.36-cp310-cp310-linux.whl")}
    done = build_llama(llama, "cuda", tmp_path / "wheels", **changes)
    assert done.returncode == 1
    assert reason in done.stderr


def test_only_the_cuda_that_llama_needs_is_collected(tmp_path: Path) -> None:
    if not (shutil.which("cc") and shutil.which("readelf")):
        pytest.skip("needs a C compiler and readelf (build-essential)")
    (tmp_path / "empty.c").write_text("")

    def library(path: Path, *needs: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        options = ["-shared", "-nostdlib", f"-Wl,-soname,{path.name}", "-Wl,--no-as-needed"]
        subprocess.run(["cc", *options, "-o", path, tmp_path / "empty.c", *needs], check=True)
        return path

    cuda = tmp_path / "cuda" / "lib64"
    lt = library(cuda / "libcublasLt.so.12")
    blas = library(cuda / "libcublas.so.12", lt)
    runtime = library(cuda / "libcudart.so.12.6.68")
    (cuda / "libcudart.so.12").symlink_to(runtime.name)
    library(cuda / "libcufft.so.11")  # nobody needs it
    driver = library(cuda / "libcuda.so.1")
    soname = library(tmp_path / "named" / "libcudart.so.12")  # what the linker writes down is the name inside
    backend = library(tmp_path / "libggml-cuda.so", blas, soname, driver)
    make_wheel(tmp_path / "wheels" / "llama_cpp_python-0.whl", ("llama_cpp/lib/libggml-cuda.so", backend.read_bytes()))

    out = tmp_path / "out"
    tools = {"PYTHON": sys.executable, "CUDA_HOME": tmp_path / "cuda"}
    done = run(DOCKER / "collect_cuda.sh", tmp_path / "wheels", out, **tools)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {"libcublas.so.12", "libcublasLt.so.12", "libcudart.so.12"}
    assert not any(path.is_symlink() for path in out.iterdir())

    elsewhere = run(DOCKER / "collect_cuda.sh", tmp_path / "wheels", tmp_path / "none", PYTHON=sys.executable,
                    CUDA_HOME=tmp_path / "nowhere")  # fmt: skip
    assert elsewhere.returncode == 1 and "set CUDA_HOME" in elsewhere.stderr


# -- the workspace


def build_workspace(
    kind: str, tmp_path: Path, python: Path, asked: Path, **changes: object
) -> subprocess.CompletedProcess[str]:
    image = {"robot": "jetson", "workstation": "workstation"}[kind]
    root = stage_files(image, "workspace", tmp_path / "root")
    make_wheel(tmp_path / "wheels" / "llama_cpp_python-0.3.36-cp310-cp310-linux.whl")
    setup = tmp_path / "ros" / "setup.bash"
    setup.parent.mkdir(exist_ok=True)
    setup.write_text('export ROS_WAS_SOURCED=1\n[ -z "$AMENT_TRACE_SETUP_FILES" ]\n')  # unset, as ROS's own reads it
    environment = {"PYTHON": python, "ASKED": asked, "ROS_DISTRO": "humble", "SMALLPLAN_ROS_SETUP": setup, **changes}
    script = root / "src" / "docker" / "build_workspace.sh"
    return run(script, kind, tmp_path / "prefix", tmp_path / "wheels", **environment)


@pytest.mark.parametrize(
    ("kind", "packages", "requirements"),
    [
        ("robot", "smallplan_msgs smallplan_planner", "robot.txt"),
        ("workstation", "smallplan_msgs smallplan_planner smallplan_training", "runtime.txt"),
    ],
)
def test_a_workspace_is_built(
    kind: str, packages: str, requirements: str, tmp_path: Path, python: Path, asked: Path
) -> None:
    done = build_workspace(kind, tmp_path, python, asked)
    assert done.returncode == 0, done.stderr
    lines = asked.read_text().splitlines()
    source, prefix = tmp_path / "root" / "src", tmp_path / "prefix"

    (runtime,) = [line for line in lines if line.startswith(".venv -m pip install") and "--requirement" in line]
    assert f"--requirement {source}/requirements/{requirements} " in runtime and "llama_cpp_python-" in runtime
    assert (source / "requirements" / requirements).is_file()
    constraints = Path(f"{asked}.constraints").read_text().splitlines()
    numpy = [line for line in (ROOT / "requirements" / "sourced-ros.txt").read_text().splitlines() if "numpy==" in line]
    assert numpy[0] in constraints and (ROOT / "requirements" / "constraints.txt").read_text().splitlines()[-1]
    assert all("--constraint" in line for line in lines if "pip install" in line and "--requirement" in line)

    (colcon,) = [line for line in lines if line.startswith("colcon")]
    assert f"--packages-select {packages} --cmake-args" in colcon
    for package in packages.split():
        assert (source / "src" / package / "package.xml").is_file()
    assert "--symlink-install" not in colcon, "links would lead to sources that the image does not have"
    assert f"--install-base {prefix}/install" in colcon and f"-DSMALLPLAN_PYTHON={prefix}/.venv/bin/python" in colcon
    assert f"-DPython3_EXECUTABLE={prefix}" not in colcon, "what builds stays behind"
    removed = lines.index(".venv -m pip uninstall -q --yes setuptools pip")
    assert lines.index(runtime) < removed < lines.index(colcon), "ROS's PYTHONPATH may hold another pip"

    command = prefix / ".venv" / "bin" / "smallplan"
    assert command.exists() == (kind == "workstation")
    if command.exists():
        assert os.access(command, os.X_OK)
        assert command.read_text().startswith(f"#!{prefix}/.venv/bin/python\n")
        compile(command.read_text(), "smallplan", "exec")


def test_what_only_building_and_testing_need_is_taken_away(tmp_path: Path, python: Path, asked: Path) -> None:
    packages = tmp_path / "venv" / "lib" / "python3.10" / "site-packages"
    files = {
        "numpy/__init__.py": "numpy", "numpy/tests/test_it.py": "test", "numpy/core/tests/data/x": "data",
        "llama_cpp/lib/libggml-cuda.so": "code", "llama_cpp/lib/libggml-cuda.so.0": "code",
        "llama_cpp/lib/libllama.so": "one", "llama_cpp/lib/libllama.so.0": "another",
        "lib/libggml-cuda.so": "code", "include/ggml.h": "header",
    }  # fmt: skip
    for name, text in files.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text(text)
    run(python, "-m", "venv", tmp_path / "venv", ASKED=asked)
    done = run(DOCKER / "slim_packages.sh", tmp_path / "venv", ASKED=asked)
    assert done.returncode == 0, done.stderr
    left = {str(path.relative_to(packages)) for path in packages.rglob("*") if not path.is_dir()}
    assert left == {name for name in files if name.startswith(("numpy/__init__", "llama_cpp/"))}
    libraries = packages / "llama_cpp" / "lib"
    assert (libraries / "libggml-cuda.so.0").readlink() == Path("libggml-cuda.so")
    assert (libraries / "libllama.so.0").read_text() == "another", "what differs is no copy"
    assert "uninstall" in asked.read_text()
    assert "is no virtual environment" in run(DOCKER / "slim_packages.sh", tmp_path / "nothing").stderr


def test_the_models_and_settings_that_the_planner_needs_are_in_the_workspace(tmp_path: Path) -> None:
    root = stage_files("jetson", "workspace", tmp_path) / "src"
    for name in ("config/planner.yaml", "config/priors.yaml", "launch/planner.launch.py"):
        assert (root / name).is_file()
    assert list((root / "models").glob("*.gguf"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ROS_DISTRO": ""}, "ROS_DISTRO is not set"),
        ({"SMALLPLAN_ROS_SETUP": "/does/not/exist"}, "ROS 2 humble is not installed"),
    ],
)
def test_without_ros_no_workspace_is_built(
    changes: dict[str, object], reason: str, tmp_path: Path, python: Path, asked: Path
) -> None:
    done = build_workspace("robot", tmp_path, python, asked, **changes)
    assert done.returncode == 1 and reason in done.stderr
    assert not (tmp_path / "prefix").exists()


# -- the Jetson itself


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    """A machine with all that is needed, as far as the script looks; its docker/.env has a line of its own."""
    for name, text in (
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64, DATE: now\n"),
        ("proc/meminfo", "MemTotal:        7802940 kB\nMemFree:  100 kB\nMemAvailable:    5452595 kB\n"),
        ("docker/.env", "ROS_DOMAIN_ID=7\nRENDER_GID=1\n"),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    for script in ("common.sh", "prepare_jetson.sh"):
        shutil.copy2(DOCKER / script, tmp_path / "docker" / script)
    for tool, text in (
        ("docker", 'case "$1" in info) echo \'{"nvidia":{},"runc":{}}\' ;; esac\n'),
        ("getent", "echo render:x:104:\n"),
        ("nvpmodel", "echo NV Power Mode: MAXN_SUPER; echo 2\n"),
    ):
        write_script(tmp_path / "bin" / tool, f"#!/bin/sh\n{text}")
    return tmp_path


def prepare(jetson: Path) -> subprocess.CompletedProcess[str]:
    path = f"{jetson}/bin{os.pathsep}{os.environ['PATH']}"
    return run(jetson / "docker" / "prepare_jetson.sh", PATH=path, SMALLPLAN_ROOT=jetson)


def test_a_jetson_is_prepared(jetson: Path) -> None:
    for _ in range(2):
        done = prepare(jetson)
        assert done.returncode == 0, done.stderr
        assert (jetson / "docker" / ".env").read_text() == "ROS_DOMAIN_ID=7\nRENDER_GID=104\n"
    assert "L4T r36.4.3" in done.stdout and "Power mode: MAXN_SUPER" in done.stdout and "5324 MiB" in done.stdout


def test_an_older_jetpack_6_needs_another_base(jetson: Path) -> None:
    (jetson / "etc" / "nv_tegra_release").write_text("# R36 (release), REVISION: 3.0, GCID: 1\n")
    (jetson / "docker" / ".env").write_text("L4T_IMAGE=nvcr.io/nvidia/l4t-jetpack:r36.3.0\n")
    assert prepare(jetson).returncode == 0


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("etc/nv_tegra_release", "", "this is no Jetson"),
        ("etc/nv_tegra_release", "# R35 (release), REVISION: 4.1, GCID: 1", "runs L4T r35.4.1"),
        (
            "etc/nv_tegra_release",
            "# R36 (release), REVISION: 3.0, GCID: 1",
            "L4T_IMAGE=nvcr.io/nvidia/l4t-jetpack:r36.3",
        ),
        ("bin/docker", "#!/bin/sh\nexit 1\n", "docker does not answer"),
        ("bin/docker", "#!/bin/sh\necho '{\"runc\":{}}'\n", "no runtime nvidia"),
        ("bin/docker", "#!/bin/sh\n[ $1 = info ] && echo '\"nvidia\"'\n", "has no compose"),
        ("bin/getent", "#!/bin/sh\n", "no group render"),
    ],
)
def test_what_a_jetson_lacks_is_said_with_its_remedy(jetson: Path, name: str, text: str, reason: str) -> None:
    (jetson / name).write_text(text)
    done = prepare(jetson)
    assert done.returncode == 1 and reason in done.stderr
    assert (jetson / "docker" / ".env").read_text() == "ROS_DOMAIN_ID=7\nRENDER_GID=1\n", "it changed nothing"


# -- what runs in the container


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """The places of an image's last stage, with set-up files that can be seen to have been read."""
    root = stage_files("jetson", "runtime", tmp_path / "root")
    prefix = root / "opt" / "smallplan"
    write_script(prefix / ".venv" / "bin" / "python", '#!/bin/sh\necho "$@"; exit 1\n')
    (prefix / "install").mkdir()
    (prefix / "install" / "local_setup.bash").write_text('export SEEN="$SEEN, then SmallPlan"\n')
    (tmp_path / "ros.bash").write_text('export SEEN="ROS"; [ -z "$AMENT_TRACE_SETUP_FILES" ]\n')
    return prefix


def test_the_entrypoint_gives_a_command_ros_and_smallplan(prefix: Path, tmp_path: Path) -> None:
    script = prefix / "docker" / "entrypoint.sh"
    done = run(script, "bash", "-c", 'echo "$SEEN"; echo "$PATH"; exit 7', SMALLPLAN_ROS_SETUP=tmp_path / "ros.bash")
    seen, path = done.stdout.splitlines()
    assert seen == "ROS, then SmallPlan"
    assert path.split(":")[0] == str(prefix / ".venv" / "bin")
    assert done.returncode == 7


def test_the_command_gets_the_containers_signals(prefix: Path, tmp_path: Path) -> None:
    words = [prefix / "docker" / "entrypoint.sh", "bash", "-c", "trap 'echo stopped; exit 5' TERM; echo ready; read"]
    environment = {**os.environ, "SMALLPLAN_ROS_SETUP": str(tmp_path / "ros.bash")}
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert (output, process.returncode) == ("stopped\n", 5)


def test_an_image_without_ros_or_workspace_says_so(prefix: Path, tmp_path: Path) -> None:
    script = prefix / "docker" / "entrypoint.sh"
    done = run(script, "true", SMALLPLAN_ROS_SETUP="", ROS_DISTRO="humbug")
    assert done.returncode == 1 and "no /opt/ros/humbug/setup.bash" in done.stderr
    (prefix / "install" / "local_setup.bash").unlink()
    done = run(script, "true", SMALLPLAN_ROS_SETUP=tmp_path / "ros.bash")
    assert done.returncode == 1 and "not built" in done.stderr


def test_the_health_script_ends_as_the_health_command_does(prefix: Path, tmp_path: Path) -> None:
    script = prefix / "docker" / "health.sh"
    done = run(script, "--timeout", "8", SMALLPLAN_ROS_SETUP=tmp_path / "ros.bash")
    assert done.returncode == 1
    assert done.stdout.strip() == "-m smallplan_planner.nodes.health --timeout 8"


def check_image(prefix: Path, tmp_path: Path, ldd: str, uid: int) -> subprocess.CompletedProcess[str]:
    """check_image.sh where the libraries are found as `ldd` prints it and the planner becomes active at once."""
    library = prefix / "llama_cpp" / "lib"
    library.mkdir(parents=True)
    (library / "libllama.so").touch()
    write_script(
        prefix / ".venv" / "bin" / "python",
        f'#!/bin/sh\n[ "$1" = -c ] && echo "{library}" || echo "/smallplan_planner is active"\n',
    )
    write_script(prefix / ".venv" / "bin" / "ldd", f"#!/bin/sh\nprintf '{ldd}'\n")
    write_script(prefix / "install" / "lib" / "smallplan_planner" / "planner_node", "#!/bin/sh\nexec sleep 60\n")
    return run(prefix / "docker" / "check_image.sh", uid, SMALLPLAN_ROS_SETUP=tmp_path / "ros.bash")


def test_an_image_is_checked_by_starting_the_planner(prefix: Path, tmp_path: Path) -> None:
    done = check_image(prefix, tmp_path, r"\tlibc.so.6 => /lib/libc.so.6 (0x1)\n", os.getuid())
    assert done.returncode == 0, done.stderr
    assert done.stdout == "-- /smallplan_planner is active\n"


def test_only_the_driver_may_be_missing_from_an_image(prefix: Path, tmp_path: Path) -> None:
    done = check_image(prefix, tmp_path, r"\tlibcuda.so.1 => not found\n", os.getuid())
    assert done.returncode == 0 and "the driver (libcuda.so.1) is not here" in done.stdout
    shutil.rmtree(prefix / "llama_cpp")
    done = check_image(prefix, tmp_path, r"\tlibcuda.so.1 => not found\n\tlibgomp.so.1 => not found\n", os.getuid())
    assert done.returncode == 1 and done.stderr.endswith("not in the image: libgomp.so.1\n")


def test_an_image_is_checked_as_its_user(prefix: Path, tmp_path: Path) -> None:
    done = check_image(prefix, tmp_path, "", os.getuid() + 1)
    assert done.returncode == 1 and f"expected {os.getuid() + 1}" in done.stderr
