"""Policies side by side over identical episodes: the protocol, the JSON, and clear answers to wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fixtures.tiny_gguf import write_tiny_gguf
from smallplan_planner.search import SearchConfig
from smallplan_training import cli
from smallplan_training.errors import UserError
from smallplan_training.evaluate import EvaluateConfig, episode_seed, report_all, run_tasks
from smallplan_training.scenes import resolve_scenes


def make_config(house_file: Path, *policies: str, **kwargs: object) -> EvaluateConfig:
    search = SearchConfig(max_steps=8)
    return EvaluateConfig(policies, (house_file,), search=search, **{"episodes": 3, **kwargs})  # type: ignore[arg-type]


def test_all_policies_meet_identical_episodes(house_file: Path) -> None:
    runs = run_tasks(make_config(house_file, "greedy", "random", "expert"))
    assert len(runs) == 9
    met = {
        policy: [(run.scene, run.seed, run.target, run.shortest_path) for run in runs if run.policy == policy]
        for policy in ("greedy", "random", "expert")
    }
    assert met["greedy"] == met["random"] == met["expert"]
    assert len({seed for _, seed, _, _ in met["greedy"]}) == 3


def test_results_do_not_depend_on_the_other_policies_or_on_more_episodes(house_file: Path) -> None:
    alone = run_tasks(make_config(house_file, "random", episodes=2))
    among = run_tasks(make_config(house_file, "expert", "random", episodes=3))
    kept = [run for run in among if run.policy == "random"][:2]
    assert len(kept) == 2
    for one, other in zip(alone, kept):
        assert (one.seed, one.code, one.distance, one.steps) == (other.seed, other.code, other.distance, other.steps)


def test_seeds_differ_between_houses_episodes_and_runs() -> None:
    assert len({episode_seed(h, i, s) for h in ("a", "b") for i in range(5) for s in range(3)}) == 30
    assert episode_seed("a", 1, 2) == episode_seed("a", 1, 2)


def test_json_of_one_policy(house_file: Path) -> None:
    config = make_config(house_file, "greedy")
    report = report_all(run_tasks(config), config, "smallplan evaluate …")
    assert {"policy", "episodes", "sr", "spl", "dist_m", "retrials", "auc_e", "intervals"} <= set(report)
    assert {"decision_ms_p50", "decision_ms_p95", "per_scene", "command"} <= set(report)
    assert report["policy"] == "greedy" and report["episodes"] == 3
    assert set(report["intervals"]) == {"sr", "spl", "dist_m", "retrials", "auc_e"}
    for metric, (low, high) in report["intervals"].items():
        assert low <= report[metric] <= high
    assert report["per_scene"]["small"]["dist_m"] == report["dist_m"]
    assert report["sr"] == pytest.approx(100 * report["results"].get("NONE", 0) / 3, abs=1e-3)
    json.dumps(report)


def test_json_of_several_policies_compares_each_pair(house_file: Path) -> None:
    config = make_config(house_file, "expert", "greedy", "random", episodes=2)
    report = report_all(run_tasks(config), config, "")
    assert [item["policy"] for item in report["policies"]] == ["expert", "greedy", "random"]
    assert set(report["paired"]) == {"expert-greedy", "expert-random", "greedy-random"}
    spl = {item["policy"]: item["spl"] for item in report["policies"]}
    low, mean, high = report["paired"]["expert-greedy"]["spl"]
    assert mean == pytest.approx(spl["expert"] - spl["greedy"], abs=2e-3)
    assert low <= mean <= high


@pytest.mark.slow
def test_workers_change_nothing(house_file: Path) -> None:
    one = run_tasks(make_config(house_file, "random", episodes=2))
    two = run_tasks(make_config(house_file, "random", episodes=2, workers=2))
    assert [(r.seed, r.code, r.distance) for r in one] == [(r.seed, r.code, r.distance) for r in two]


def test_command_writes_json_and_prints_tables(
    house_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "result.json"
    arguments = ["evaluate", "--policy", "greedy", "--policy", "random", "--scenes", str(house_file), "--episodes", "1"]
    assert cli.main([*arguments, "--max-steps", "5", "--no-hints", "--json", str(out)]) == 0
    written = json.loads(out.read_text())
    assert [item["policy"] for item in written["policies"]] == ["greedy", "random"]
    settings = written["policies"][0]["settings"]
    assert settings["hints"] is False and settings["matches"] is True and settings["max_steps"] == 5
    shown = capsys.readouterr().out
    assert "greedy −" in shown and "SPL" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scenes", "no/such/place"], "there is no scene 'no/such/place'"),
        (["--scenes", "{folder}"], "has no JSON files"),
        (["--episodes", "0"], "0 episodes"),
        (["--max-scenes", "0"], "--max-scenes is 0"),
        (["--max-steps", "0"], "max_steps 0"),
        (["--policy", "slm", "--model", "{folder}/no.gguf"], "there is no model file"),
        (["--policy", "slm", "--model", "{house}"], "is not a GGUF"),
        (["--json", "{folder}"], "can't write"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, house_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.format(folder=tmp_path, house=house_file) for word in arguments]
    base = [] if "--scenes" in given else ["--scenes", str(house_file)]
    base += [] if "--policy" in given else ["--policy", "greedy"]
    assert cli.main(["evaluate", *base, *given]) == cli.USER_ERROR
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_a_broken_house_names_file_and_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.json"
    path.write_text('{"name": "x", "rooms": []}')
    assert cli.main(["evaluate", "--policy", "greedy", "--scenes", str(path)]) == cli.USER_ERROR
    error = capsys.readouterr().err
    assert "broken.json" in error and "missing" in error


def test_two_houses_of_one_name_are_not_mixed_up(
    house_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes(house_file.read_bytes())
    assert cli.main(["evaluate", "--policy", "greedy", "--scenes", str(house_file), str(copy)]) == cli.USER_ERROR
    assert "both called 'small'" in capsys.readouterr().err


def test_scenes_of_a_split_and_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", "notes.txt"):
        (tmp_path / name).write_text("{}")
    assert [path.name for path in resolve_scenes([str(tmp_path)])] == ["a.json", "b.json"]
    assert [path.name for path in resolve_scenes([str(tmp_path / "b.json"), str(tmp_path)])] == ["b.json", "a.json"]
    assert len(resolve_scenes(["val"])) == 7 and len(resolve_scenes(["train"])) == 8
    assert len(resolve_scenes(["val", "test"], max_scenes=9)) == 9


def test_the_model_and_its_untrained_copy(
    house_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "result.json"
    arguments = ["evaluate", "--policy", "slm", "--policy", "untrained", "--scenes", str(house_file), "--episodes", "1"]
    model = ["--model", str(tmp_path / "tiny.gguf"), "--threads", "1"]
    assert cli.main([*arguments, *model, "--max-steps", "3", "--json", str(out)]) == 0
    written = json.loads(out.read_text())
    assert list(written["paired"]) == ["slm-untrained"]
    for item in written["policies"]:
        assert item["settings"]["model"] == "tiny.gguf" and item["settings"]["grammar"] is True
        assert item["decision_ms_p50"] > 0
        assert item["results"].keys() <= {"NONE", "NOT_FOUND", "MAX_STEPS", "STUCK"}  # every decision was made
    assert len(list((tmp_path / "build" / "untrained").glob("*.gguf"))) == 1
    capsys.readouterr()


def test_a_policy_without_episodes_is_refused() -> None:
    with pytest.raises(UserError, match="at least one"):
        EvaluateConfig((), (Path("x"),))
