"""Start, failures to configure, parameters, transitions and the end of the planner's process."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from rclpy.action import ActionClient
from smallplan_msgs.action import FindObject

from fixtures.ros_world import PLANNER, FakeExecutor, World, endless_graph, until_cancelled, wait_until, with_mug
from smallplan_planner.actions import OutcomeCode


@pytest.fixture(autouse=True)
def nothing_is_left_running(world: World) -> Iterator[None]:
    yield
    world.perceive(None)
    world.stop_processes()


def test_a_model_that_can_not_be_loaded(world: World, tiny_model: Path, tmp_path: Path) -> None:
    """The node stays unconfigured and says why; once the parameter is right it can be configured."""
    bad = {
        "missing.gguf": (None, "does not exist"),
        "empty.gguf": (b"", "is empty"),
        "text.gguf": (b"not a model at all, but long enough", "not a GGUF"),
        "truncated.gguf": (tiny_model.read_bytes()[:50_000], "truncated.gguf"),
    }
    for name, (content, _) in bad.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    planner = world.start_planner("unconfigured", policy="slm", model_path=tmp_path / "missing.gguf", n_threads=1)
    wait_until(lambda: "Correct the parameters" in planner.output, what="the reason")
    for name, (_, reason) in bad.items():
        assert world.set_parameter("model_path", str(tmp_path / name)) == ""
        assert not world.change_state("configure")
        wait_until(lambda name=name, reason=reason: name in planner.output and reason in planner.output, what=reason)
        assert world.state() == "unconfigured"
    wait_until(lambda: "truncated.gguf" in world.diagnosis("planner"), what="the reason in the diagnostics")
    assert not world.try_search().handle.accepted

    assert world.set_parameter("model_path", str(tiny_model)) == ""
    assert world.change_state("configure") and world.change_state("activate")
    world.perceive(with_mug(endless_graph()))
    search = world.search(max_steps=1)
    search.result()
    assert search.feedback[0].decision.source == "slm"
    planner.stop()
    assert "Traceback" not in planner.output


def test_parameters_that_can_not_be_used(world: World) -> None:
    planner = world.start_planner("unconfigured", fallback="pray", deadline=-1.0)
    wait_until(lambda: "Correct the parameters" in planner.output, what="the reason")
    assert "'pray'" in planner.output and "deadline" in planner.output
    assert not world.change_state("configure")
    assert "greedy, abort" in world.set_parameter("fallback", "hope")
    assert world.set_parameter("fallback", "abort") == "" and world.set_parameter("deadline", 5.0) == ""
    assert world.change_state("configure")
    planner.stop()


def test_transitions_that_do_not_exist_are_refused(world: World) -> None:
    planner = world.start_planner("unconfigured", autostart=False)
    assert not world.change_state("activate")
    assert world.change_state("configure") and world.state() == "inactive"
    assert not world.try_search().handle.accepted
    assert world.change_state("activate") and not world.change_state("activate")
    assert world.change_state("deactivate") and world.change_state("cleanup")
    assert world.state() == "unconfigured"
    assert world.change_state("configure") and world.change_state("activate")
    world.perceive(with_mug(endless_graph()))
    assert world.search().result().success
    planner.stop()
    assert "Traceback" not in planner.output


def test_adapters_change_while_the_planner_runs(world: World, tiny_model: Path, tmp_path: Path) -> None:
    """By the parameter's service; a wrong one is refused with its reason, and the one before stays."""
    from fixtures.tiny_gguf import write_tiny_lora

    for name, size in (("kitchen", 64), ("other", 32)):
        write_tiny_lora(tmp_path / f"{name}.gguf", dim=size)
    (tmp_path / "adapters").mkdir()
    (tmp_path / "kitchen.gguf").rename(tmp_path / "adapters" / "kitchen.gguf")
    planner = world.start_planner(
        policy="slm", model_path=tiny_model, lora_folder=tmp_path / "adapters", n_threads=1, max_steps=1
    )
    world.perceive(endless_graph())

    def answer() -> str:
        search = world.search()
        search.result()
        decision = search.feedback[0].decision
        assert decision.source == "slm"
        return decision.analysis + decision.reasoning

    plain = answer()
    assert world.set_parameter("lora_path", "kitchen") == ""
    assert answer() != plain
    wait_until(lambda: "LoRA adapter: kitchen" in planner.output, what="the change in the log")
    assert "is not a LoRA adapter for" in world.set_parameter("lora_path", str(tmp_path / "other.gguf"))
    assert "does not exist" in world.set_parameter("lora_path", "bedroom")
    assert answer() != plain
    assert world.set_parameter("lora_path", "") == ""
    assert answer() == plain
    planner.stop()


def test_the_cache_outlives_the_planner(world: World, tiny_model: Path, tmp_path: Path) -> None:
    world.perceive(endless_graph())
    reused = []
    for _ in range(2):
        planner = world.start_planner(
            policy="slm", model_path=tiny_model, n_threads=1, max_steps=1, cache_folder=tmp_path / "kv"
        )
        search = world.search("zebra")
        search.result()
        reused.append(search.feedback[0].decision.reused_tokens)
        assert world.change_state("deactivate")
        assert list((tmp_path / "kv").glob("*.kv"))
        planner.stop()
    assert reused[0] == 0 and reused[1] >= 64


def test_a_model_for_another_prompt_or_with_another_digest(world: World, tiny_model: Path, tmp_path: Path) -> None:
    from fixtures.tiny_gguf import write_tiny_gguf

    write_tiny_gguf(tmp_path / "old.gguf", keys={"smallplan.prompt_version": "1"})
    planner = world.start_planner("unconfigured", policy="slm", model_path=tmp_path / "old.gguf")
    wait_until(lambda: "trained with version 1 of the prompt" in planner.output, what="the reason")
    assert world.set_parameter("model_sha256", "0" * 64) == ""
    assert not world.change_state("configure")
    wait_until(lambda: "configured is 0000" in planner.output, what="the other reason")
    assert world.state() == "unconfigured"
    planner.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_robot_and_ends_the_process(world: World, number: int) -> None:
    planner = world.start_planner()
    executor = FakeExecutor(world, until_cancelled)
    world.perceive(endless_graph())
    search = world.search()
    wait_until(lambda: executor.goals, what="an action")
    planner.signal(number)
    assert planner.wait() == 0
    assert "Traceback" not in planner.output, planner.output
    assert executor.ended[0].code is OutcomeCode.CANCELED
    assert search.result().error_code == FindObject.Result.CANCELED
    executor.destroy()


def test_names_follow_namespace_and_remapping(world: World) -> None:
    rules = ["__ns:=/robot1", "scene_graph:=perception/graph"]
    planner = world.start(PLANNER, remap=rules, policy="greedy")

    def names() -> set[str]:
        return {name for name, _ in world.node.get_topic_names_and_types()}

    wanted = {f"/robot1/{name}" for name in ("perception/graph", "action_goal", "decision")} | {"/diagnostics"}
    wait_until(lambda: wanted <= names(), what=f"{wanted}; {planner.output}")
    find = ActionClient(world.node, FindObject, "/robot1/find_object")
    wait_until(find.server_is_ready, what="the action in its namespace")
    find.destroy()


def test_a_signal_while_it_starts(world: World) -> None:
    planner = world.start(PLANNER, policy="greedy")
    wait_until(lambda: world.node.get_publishers_info_by_topic("decision"), what="the first sign of the planner")
    planner.signal(signal.SIGINT)
    assert planner.wait() == 0
    assert "Traceback" not in planner.output and "never retrieved" not in planner.output, planner.output
