"""The Dockerfiles and compose files: what they copy is there, what they run was copied, all of it pinned, no root."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from fixtures.images import DOCKER, ROOT, Image, read_copy, read_image

IMAGES = {path.name.split(".")[0]: read_image(path) for path in sorted(DOCKER.glob("*.Dockerfile"))}
COMPOSE = {path.name.split(".")[0]: yaml.safe_load(path.read_text()) for path in sorted(DOCKER.glob("*.compose.yaml"))}
PREFIX = "/opt/smallplan"

every_image = pytest.mark.parametrize("image", IMAGES.values(), ids=list(IMAGES))


def is_sent_to_docker(name: str) -> bool:
    """What .dockerignore makes of a path of the repository; its last matching line counts."""
    sent = True
    for line in filter(None, (ROOT / ".dockerignore").read_text().splitlines()):
        pattern = line.removeprefix("!")
        if line[0] != "#" and (fnmatch(name, pattern) or name.startswith(f"{pattern}/")):
            sent = line[0] == "!"
    return sent


def command(text: str) -> list[str]:
    """The words of a CMD or ENTRYPOINT in its JSON form: a shell would not pass on signals."""
    return json.loads(text)


def test_there_is_an_image_for_the_jetson_and_one_for_the_workstation() -> None:
    assert set(IMAGES) == set(COMPOSE) == {"jetson", "workstation"}


@every_image
def test_what_is_copied_is_there_and_is_sent_to_docker(image: Image) -> None:
    for stage in image.stages.values():
        for copy in map(read_copy, stage.all("COPY")):
            if copy.stage:
                assert list(image.stages).index(copy.stage) < list(image.stages).index(stage.name)
                continue
            for source in copy.sources:
                assert (ROOT / source).exists(), f"{image.path.name} copies {source}"
                assert is_sent_to_docker(source), f".dockerignore leaves {source} out"


def test_what_no_image_needs_is_not_sent_to_docker() -> None:
    for name in (".git", ".venv", "build", "install", "test", "docs", "src/x/__pycache__", "docker/.env"):
        assert not is_sent_to_docker(name), name


@every_image
def test_scripts_are_copied_before_they_are_run(image: Image) -> None:
    for stage in image.stages.values():
        for instruction in stage.instructions:
            if instruction.name != "RUN":
                continue
            scripts = re.findall(r"\S+\.sh", instruction.text)
            assert scripts, f"{image.path.name}: a step outside the scripts: {instruction.text}"
            there = image.files(stage, before=instruction)
            for script in scripts:
                place = script if script.startswith("/") else f"/src/{script}"
                assert place in there, f"{image.path.name}, stage {stage.name}: {script}"
                assert place.rpartition("/")[0] + "/common.sh" in there


@every_image
def test_base_images_are_pinned_by_tag_and_digest(image: Image) -> None:
    for stage in image.stages.values():
        if stage.base not in image.stages:
            assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", stage.base), stage.base


def test_the_jetsons_bases_are_jetpack_6_and_humble() -> None:
    assert IMAGES["jetson"].arguments["L4T_IMAGE"].startswith("nvcr.io/nvidia/l4t-jetpack:r36.")
    assert IMAGES["jetson"].arguments["ROS_IMAGE"].startswith("ros:humble-")
    assert IMAGES["workstation"].arguments["ROS_IMAGE"].startswith("ros:jazzy-")


def test_versions_of_packages_stand_in_the_requirements_alone() -> None:
    constraints = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    for path in DOCKER.iterdir():
        for found in re.findall(r"\b([A-Za-z][\w.-]*==[\w.]+)", path.read_text()):
            assert found in constraints, f"{path.name} names {found}"


def test_the_robots_requirements_are_what_the_planner_imports() -> None:
    def names(lines: list[str]) -> set[str]:
        return {re.split(r"[<>=\[ ]", line)[0] for line in lines if line and line[0] != "#"}

    project = (ROOT / "src" / "smallplan_planner" / "pyproject.toml").read_text()
    dependencies = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert dependencies
    robot = names((ROOT / "requirements" / "robot.txt").read_text().splitlines())
    assert robot == names(re.findall(r'"(.+?)"', dependencies[1]))
    assert robot <= names((ROOT / "requirements" / "runtime.txt").read_text().splitlines())


@every_image
def test_it_is_multi_stage_and_takes_neither_sources_nor_compilers_along(image: Image) -> None:
    assert image.last.base not in image.stages
    assert [text for text in image.last.all("RUN") if "install_packages.sh build" in text] == []
    copies = [read_copy(text) for text in image.last.all("COPY")]
    assert {copy.stage for copy in copies} - {""} <= set(image.stages) - {image.last.name}
    assert all(source.startswith("docker/") for copy in copies if not copy.stage for source in copy.sources)


@every_image
def test_it_runs_as_a_user_that_is_not_root(image: Image) -> None:
    (user,) = image.last.all("USER")
    uid, gid = map(int, user.split(":"))
    assert uid == gid > 0
    runs = " ".join(image.last.all("RUN"))
    assert re.search(rf"add_user\.sh smallplan {uid} /var/lib/smallplan", runs)
    steps = [f"{step.name} {step.text}" for step in image.last.instructions]
    check = next(i for i, step in enumerate(steps) if step.startswith("RUN ") and "check_image.sh" in step)
    assert steps[check] == f"RUN {PREFIX}/docker/check_image.sh {uid}"
    assert steps.index(f"USER {user}") < check
    assert not any(step.startswith(("RUN ", "USER ")) for step in steps[check + 1 :])


@every_image
def test_the_health_check_asks_the_planner_and_is_bounded(image: Image) -> None:
    (text,) = image.last.all("HEALTHCHECK")
    match = re.fullmatch(r"(?P<options>(--\S+ )+)CMD (?P<command>\[.*\])", text)
    assert match
    script, option, timeout = command(match["command"])
    assert script == f"{PREFIX}/docker/health.sh" in image.files(image.last)
    options = dict(re.findall(r"--([\w-]+)=(\d+)", match["options"]))
    assert option == "--timeout" and float(timeout) < float(options["timeout"]) < float(options["interval"])


@every_image
def test_it_starts_the_node_itself(image: Image) -> None:
    """What is started is a file of the image; `ros2 launch` and shells would keep signals from it."""
    (entrypoint,) = command(image.last.all("ENTRYPOINT")[0])
    (started,) = map(command, image.last.all("CMD"))
    assert entrypoint == f"{PREFIX}/docker/entrypoint.sh" in image.files(image.last)
    assert started[0] == f"{PREFIX}/install/lib/smallplan_planner/planner_node"
    assert "foreach(node planner_node" in (ROOT / "src" / "smallplan_planner" / "CMakeLists.txt").read_text()
    for word in started[1:]:
        if word.endswith(".yaml"):
            assert word in image.files(image.last)


@every_image
def test_dds_goes_over_udp(image: Image) -> None:
    environment = " ".join(image.last.all("ENV"))
    profile = re.search(r"FASTRTPS_DEFAULT_PROFILES_FILE=(\S+)", environment)
    assert profile and profile[1] in image.files(image.last)


def test_the_jetson_image_has_cuda_and_leaves_the_driver_to_the_host() -> None:
    image = IMAGES["jetson"]
    runs = [text for stage in image.stages.values() for text in stage.all("RUN")]
    assert "docker/build_llama.sh cuda /wheels" in runs
    assert f"docker/build_workspace.sh robot {PREFIX} /wheels" in runs
    environment = " ".join(image.last.all("ENV"))
    assert "NVIDIA_VISIBLE_DEVICES=all" in environment
    folders = re.search(r"LD_LIBRARY_PATH=(\S+)", environment)
    assert folders and folders[1].split(":")[0] == f"{PREFIX}/cuda"
    assert ("/cuda", f"{PREFIX}/cuda", "llama") in [
        (copy.sources[0], copy.destination, copy.stage) for copy in map(read_copy, image.last.all("COPY"))
    ]


# -- compose


def services(kind: str) -> dict[str, dict[str, Any]]:
    return COMPOSE[kind]["services"]


@pytest.mark.parametrize("kind", COMPOSE)
def test_compose_builds_from_what_is_there(kind: str) -> None:
    for name, service in services(kind).items():
        context = (DOCKER / service["build"]["context"]).resolve()
        assert context == ROOT, name
        assert context / service["build"]["dockerfile"] == DOCKER / f"{kind}.Dockerfile", name
        assert set(service["build"].get("args", [])) <= set(IMAGES[kind].arguments), name
        assert re.fullmatch(rf"smallplan/{kind}:\d+\.\d+\.\d+", service["image"]), name


@pytest.mark.parametrize("kind", COMPOSE)
def test_compose_takes_privileges_away_and_none_back(kind: str) -> None:
    for name, service in services(kind).items():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "user", "devices", "pid"} & set(service), name
        assert service["logging"]["options"]["max-size"], f"{name}: a robot's disk fills with logs"


@pytest.mark.parametrize("kind", COMPOSE)
def test_what_compose_mounts_is_there(kind: str) -> None:
    for service in services(kind).values():
        for volume in service.get("volumes", []):
            source, target = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[:2]
            assert source in COMPOSE[kind]["volumes"] or (DOCKER / source).exists(), volume
            assert target.startswith("/")


def test_compose_gives_the_gpu_to_the_jetsons_planner() -> None:
    planner = services("jetson")["planner"]
    assert planner["runtime"] == "nvidia"
    video, render = planner["group_add"]
    assert video == "video" and re.match(r"\$\{RENDER_GID:\?.*getent group render", render)


def test_the_jetsons_parameters_are_the_nodes_and_ask_for_the_gpu() -> None:
    document = yaml.safe_load((DOCKER / "jetson.params.yaml").read_text())
    parameters = document["/**"]["ros__parameters"]
    known = yaml.safe_load((ROOT / "config" / "planner.yaml").read_text())["/**"]["ros__parameters"]
    assert set(parameters) <= set(known)
    assert parameters["n_gpu_layers"] == -1
    mounted = [volume.split(":")[1] for volume in services("jetson")["planner"]["volumes"]]
    assert f"{PREFIX}/docker/jetson.params.yaml" in mounted


def test_containers_without_a_planner_are_not_asked_for_its_health() -> None:
    for name, service in services("workstation").items():
        assert service.get("healthcheck", {}).get("disable", False) == (name != "planner"), name
    waits = services("workstation")["simulator"]["depends_on"]["planner"]
    assert waits == {"condition": "service_healthy"}


def test_what_the_other_containers_start_is_built() -> None:
    node = services("workstation")["simulator"]["command"][0]
    assert node == f"{PREFIX}/install/lib/smallplan_training/sim_node"
    listing = (ROOT / "src" / "smallplan_training" / "CMakeLists.txt").read_text()
    assert Path(node).name in listing
