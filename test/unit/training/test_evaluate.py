"""Policies side by side over identical episodes: the protocol, the JSON, and clear answers to wrong input."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import NoReturn

import pytest
from rich.console import Console

from fixtures.tiny_gguf import write_tiny_gguf
from smallplan_planner.actions import Action
from smallplan_planner.search import SearchConfig
from smallplan_training import cli
from smallplan_training.errors import UserError
from smallplan_training.evaluate import EpisodeRun, EvaluateConfig, episode_seed, report_all, run_tasks
from smallplan_training.evaluation_tables import print_report
from smallplan_training.metrics import EpisodeScore
from smallplan_training.recording import read_recordings
from smallplan_training.scenes import resolve_scenes
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.search_env import EpisodeLost


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
    assert set(report["p_values"]["expert-greedy"]) == {"sr", "spl", "dist_m", "retrials", "auc_e"}
    assert all(0 < p <= 1 for p in report["p_values"]["expert-random"].values())
    metres = {item["policy"]: item["dist_m"] for item in report["policies"]}
    change = report["distance"]["expert-random"]["all"]
    assert change["percent"][1] == pytest.approx(100 * (metres["expert"] / metres["random"] - 1), abs=0.1)
    assert (change["first_m"], change["second_m"]) == (metres["expert"], metres["random"])


def make_run(name: str, seed: int, solved: bool, metres: float, unparsable: int = 0) -> EpisodeRun:
    score = EpisodeScore(sr=100.0 * solved, spl=50.0 * solved, dist_m=metres, retrials=0.0, auc_e=90.0 * solved)
    code = "NONE" if solved else "STUCK"
    return EpisodeRun(
        name, "small", seed, "mug", code, 4, metres, 2.0, 0, 300, score, latencies=(0.1,), answers=4,
        unparsable=unparsable,
    )  # fmt: skip


def test_figures_of_constructed_runs() -> None:
    """Shares and differences as anybody would count them by hand."""
    config = EvaluateConfig(("expert", "greedy"), (Path("x"),))
    runs = [make_run("expert", 1, True, 4.0), make_run("greedy", 1, True, 8.0, unparsable=1)]
    runs += [make_run("expert", 2, True, 6.0), make_run("greedy", 2, False, 2.0, unparsable=2)]
    report = report_all(runs, config, "")
    expert, greedy = report["policies"]
    assert (expert["sr"], greedy["sr"], expert["dist_m"], greedy["dist_m"]) == (100.0, 50.0, 5.0, 5.0)
    assert (expert["unparsable"], greedy["unparsable"], greedy["answers"]) == (0.0, 37.5, 8)
    distance = report["distance"]["expert-greedy"]
    assert (distance["first"], distance["second"]) == ("expert", "greedy")
    assert distance["all"]["percent"][1] == 0.0 and distance["all"]["episodes"] == 2
    assert distance["both_solved"]["episodes"] == 1
    assert distance["both_solved"]["percent"][1] == -50.0
    assert distance["both_solved"]["p"] < 0.001
    assert report["paired"]["expert-greedy"]["sr"][1] == 50.0
    assert report["p_values"]["expert-greedy"]["sr"] == pytest.approx(0.5, abs=0.02)  # 2 · P(neither draw is episode 2)


def test_modes_are_rows_over_the_same_episodes(house_file: Path) -> None:
    config = make_config(house_file, "expert", "greedy", episodes=2, modes=("normal", "saver"))
    runs = run_tasks(config)
    assert [run.policy for run in runs[:3]] == ["expert", "expert (saver)", "greedy"]
    assert len({(run.seed, run.target) for run in runs[:3]}) == 1
    report = report_all(runs, config, "")
    assert [item["settings"]["mode"] for item in report["policies"][:2]] == ["normal", "saver"]


def test_no_difference_has_no_sign() -> None:
    """A rounded -0.0004 % is nothing."""
    config = EvaluateConfig(("expert", "greedy"), (Path("x"),))
    runs = [make_run("expert", n, True, 4.0 - 1e-5) for n in (1, 2)]
    runs += [make_run("greedy", n, True, 4.0) for n in (1, 2)]
    told = StringIO()
    print_report(report_all(runs, config, ""), Console(file=told, width=120))
    assert "0.0 % more (+0.0 … +0.0)" in told.getvalue()


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


def test_command_records_episodes_and_prints_the_papers_table(
    house_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, told = tmp_path / "episodes.jsonl.gz", tmp_path / "result.json"
    arguments = ["evaluate", "--policy", "expert", "--mode", "saver", "--scenes", str(house_file), "--episodes", "2"]
    arguments += ["--max-steps", "4", "--episodes-out", str(out), "--json", str(told), "--table", "II"]
    assert cli.main(arguments) == 0
    (recording,) = read_recordings(out)  # of two episodes the first is recorded
    written = json.loads(told.read_text())
    assert (recording["policy"], recording["seed"]) == ("expert (saver)", written["runs"][0]["seed"])
    assert "Mode: saver" in recording["steps"][0]["system"]
    assert written["policy"] == "expert (saver)" and written["paper"] == "II"
    shown = " ".join(capsys.readouterr().out.split())
    assert "RL-SFT+" in shown and "13.52" in shown and "of other houses" in shown


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
        (["--episodes-out", "{folder}"], "can't write"),
        (["--record", "2"], "--record 2 needs --episodes-out"),
        (["--record", "-1", "--episodes-out", "{folder}/x"], "--record is -1"),
        (["--policy", "slm", "--model", "a={folder}/no.gguf", "--model", "b={house}"], "there is no model file"),
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
    model = ["--model", f"tiny={tmp_path / 'tiny.gguf'}", "--note", "tiny=random weights", "--threads", "1"]
    assert cli.main([*arguments, *model, "--max-steps", "3", "--json", str(out)]) == 0
    written = json.loads(out.read_text())
    assert list(written["paired"]) == ["slm:tiny-untrained"]
    assert written["policies"][0]["note"] == "random weights" and "note" not in written["policies"][1]
    for item in written["policies"]:
        assert item["settings"]["model"] == "tiny.gguf" and item["settings"]["grammar"] is True
        assert item["decision_ms_p50"] > 0
        assert item["results"].keys() <= {"NONE", "NOT_FOUND", "MAX_STEPS", "STUCK"}  # every decision was made
    assert len(list((tmp_path / "build" / "untrained").glob("*.gguf"))) == 1
    capsys.readouterr()


def test_a_policy_without_episodes_is_refused() -> None:
    with pytest.raises(UserError, match="at least one"):
        EvaluateConfig((), (Path("x"),))


def test_searches_that_the_simulator_lost_are_told(
    house_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lose(self: HouseSearchEnv, action: Action) -> NoReturn:
        raise EpisodeLost("the worker ended with code 7")

    monkeypatch.setattr(HouseSearchEnv, "step", lose)
    assert cli.main(["evaluate", "--policy", "greedy", "--scenes", str(house_file), "--episodes", "2"]) == 0
    assert "2 of 2 searches were lost by the simulator and count as failed" in caplog.text
