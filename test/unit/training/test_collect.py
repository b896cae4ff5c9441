"""Collecting a teacher's answers: every decision a sample, nothing asked twice, nothing lost, nothing silent."""

from __future__ import annotations

import json
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.crowded import CrowdedEnv
from fixtures.endpoint import ANSWER, Endpoint, completion, running_endpoint
from fixtures.tiny_gguf import write_tiny_gguf
from smallplan_planner.prompt import PROMPT_VERSION, Message
from smallplan_planner.response import parse_response
from smallplan_planner.search import Situation
from smallplan_training import cli
from smallplan_training import collect as collect_module
from smallplan_training.collect import CollectConfig, Collector
from smallplan_training.errors import UserError
from smallplan_training.samples import Sample, SampleFile, read_samples
from smallplan_training.scenes import resolve_scenes
from smallplan_training.simulators.house.env import NO_LIMIT
from smallplan_training.teachers.teacher import ExpertAdapter, TeacherAnswer, prompt_hash

KEY = "sk-secret-0123456789"


class Counting(ExpertAdapter):
    """The expert, and what it was asked; raises `UserError` from question `until` on."""

    def __init__(self, until: int = 10**6, text: str = "") -> None:
        super().__init__()
        self.asked: list[Situation] = []
        self._until, self._text = until, text

    def answer(self, situation: Situation) -> TeacherAnswer:
        if len(self.asked) >= self._until:
            raise UserError("the endpoint is gone")
        self.asked.append(situation)
        return TeacherAnswer(self._text) if self._text else super().answer(situation)


def collect(teacher: Counting, house_file: Path, output: Path, **kwargs: Any) -> Collector:
    collector = Collector(teacher, CollectConfig((house_file,), output, **{"episodes": 2, **kwargs}))
    collector.run()
    return collector


def without_times(path: Path) -> list[tuple[object, ...]]:
    return [(s.messages, s.answer, {**s.meta, "time": ""}) for s in read_samples(path)]


def test_each_decision_is_a_sample_with_its_provenance(house_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "samples.jsonl"
    teacher = Counting()
    collector = collect(teacher, house_file, output)
    assert [path.name for path in output.parent.iterdir()] == ["samples.jsonl"]  # nothing was rejected
    samples = list(read_samples(output))
    assert len(samples) == len(teacher.asked) == collector.samples.count > 2
    for sample in samples:
        assert [message.role for message in sample.messages] == ["system", "user"]
        assert sample.meta["target"] in sample.messages[1].content
        assert parse_response(sample.answer).command
        assert (sample.meta["teacher"], sample.meta["model"], sample.meta["scene"]) == ("expert", "", "small")
        assert sample.meta["prompt_version"] == PROMPT_VERSION
        assert {"seed", "step", "outcome", "time", "states", "mode"} <= set(sample.meta)
    steps = [sample.meta["step"] for sample in samples if sample.meta["episode"] == 0]
    assert steps == list(range(len(steps)))
    assert {"success", "search ended"} <= {sample.meta["outcome"] for sample in samples}
    line = json.loads(output.read_text().splitlines()[0])
    assert [message["role"] for message in line["messages"]] == ["system", "user", "assistant"]


def test_a_second_run_asks_nothing_and_writes_nothing(house_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "samples.jsonl"
    collect(Counting(), house_file, output)
    before = output.read_bytes()
    again = Counting()
    collector = collect(again, house_file, output)
    assert not again.asked and output.read_bytes() == before
    assert collector.samples.before == collector.samples.count


def test_an_interrupted_run_goes_on_where_it_was(house_file: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    total = collect(Counting(), house_file, whole).samples.count
    with pytest.raises(UserError, match="gone"):
        collect(Counting(until=2), house_file, parts)
    assert len(list(read_samples(parts))) == 2
    rest = Counting()
    collect(rest, house_file, parts)
    assert len(rest.asked) == total - 2
    assert without_times(parts) == without_times(whole)


def test_a_torn_last_line_is_cut_off_and_asked_again(
    house_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "samples.jsonl"
    command = ["collect", "--scenes", str(house_file), "--output", str(output)]
    assert cli.main(command) == 0
    whole = without_times(output)
    output.write_bytes(output.read_bytes()[:-20])
    assert cli.main(command) == 0
    told = capsys.readouterr()
    assert "torn" in told.err and f"{len(whole)} samples, 1 of them new" in told.out
    assert without_times(output) == whole


def test_a_last_line_that_only_lacks_its_end_is_kept(house_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "samples.jsonl"
    collect(Counting(), house_file, output)
    before = output.read_bytes()
    output.write_bytes(before[:-1])
    again = Counting()
    assert collect(again, house_file, output).samples.repaired == 0
    assert not again.asked and output.read_bytes() == before


def test_a_prompt_is_written_once_even_by_many_threads(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "samples.jsonl", ExpertAdapter())
    prompts = [(Message("system", "s"), Message("user", f"{n} ä\n")) for n in range(20)]

    def add_all() -> None:
        for prompt in prompts:
            file.add(Sample(prompt, "a", {"teacher": "expert", "model": ""}))

    threads = [threading.Thread(target=add_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.close()
    assert {sample.messages for sample in read_samples(file.path)} == set(prompts)
    assert len(list(read_samples(file.path))) == file.count == 20
    assert file.answer_to(prompt_hash(prompts[0])) == "a"


@pytest.mark.parametrize("text", ["I would go to the kitchen.", "Analysis: a\nReasoning: b\nCommand: explore(moon)"])
def test_unusable_answers_are_kept_aside_with_the_reason(house_file: Path, tmp_path: Path, text: str) -> None:
    output = tmp_path / "samples.jsonl"
    teacher = Counting(text=text)
    collector = collect(teacher, house_file, output, episodes=1)
    rejected = list(read_samples(tmp_path / "samples.rejected.jsonl"))
    assert collector.samples.count == 0 and output.read_text() == ""
    assert len(rejected) == collector.rejected.count == len(teacher.asked) > 0
    assert all(sample.answer == text and sample.meta["reason"] for sample in rejected)
    again = Counting(text=text)
    collector = collect(again, house_file, output, episodes=1)
    assert not again.asked
    assert collector.first_fault == rejected[0].meta["reason"]


def test_the_expert_can_plan_while_the_teacher_labels(house_file: Path, tmp_path: Path) -> None:
    by_itself, labels = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    collect(Counting(), house_file, by_itself)
    text = "Analysis: a\nReasoning: b\nCommand: done()"  # planning by itself, this teacher would end at once
    collector = collect(Counting(text=text), house_file, labels, states="expert")
    met = [{sample.messages for sample in read_samples(path)} for path in (by_itself, labels)]
    assert met[0] == met[1] and collector.rejected.count == 0
    assert {sample.answer for sample in read_samples(labels)} == {text}
    assert {sample.meta["outcome"] for sample in read_samples(labels)} == {"not executed"}


def test_what_was_executed_is_no_fault_when_a_room_is_named_afterwards(tmp_path: Path) -> None:
    house_file = resolve_scenes(["train"])[0]  # its rooms get their names as they are explored
    collector = collect(Counting(), house_file, tmp_path / "samples.jsonl", episodes=3)
    samples = list(read_samples(collector.samples.path))
    assert any("(room" in sample.answer for sample in samples)
    assert collector.rejected.count == 0


def test_limit_counts_what_was_there_before(house_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "samples.jsonl"
    collect(Counting(), house_file, output, limit=2)
    more = Counting()
    collect(more, house_file, output, limit=3)
    assert len(list(read_samples(output))) == 3 and len(more.asked) == 1
    none = Counting()
    assert collect(none, house_file, output, limit=3).samples.count == 3
    assert not none.asked


def test_another_teachers_file_is_left_alone(house_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "samples.jsonl"
    collect(Counting(), house_file, output, limit=1)
    write_tiny_gguf(tmp_path / "tiny.gguf")
    command = ["collect", "--teacher", "gguf", "--model", str(tmp_path / "tiny.gguf")]
    assert cli.main([*command, "--scenes", str(house_file), "--output", str(output)]) == cli.USER_ERROR
    assert len(list(read_samples(output))) == 1


def test_a_local_model_teaches(house_file: Path, tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    output = tmp_path / "samples.jsonl"
    command = ["collect", "--teacher", "gguf", "--model", str(tmp_path / "tiny.gguf"), "--limit", "2"]
    assert cli.main([*command, "--scenes", str(house_file), "--output", str(output)]) == 0
    samples = list(read_samples(output))  # under the grammar even random weights give usable commands
    assert len(samples) == 2
    assert {(s.meta["teacher"], s.meta["model"]) for s in samples} == {("gguf", "tiny.gguf")}


@pytest.mark.parametrize("teacher", ("gguf", "expert"))
def test_samples_of_a_large_building_hold_what_the_model_read(
    teacher: str, house_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smallplan_planner.slm import Slm

    monkeypatch.setattr(collect_module, "make_env", lambda _: CrowdedEnv(max_steps=NO_LIMIT))
    model, output = tmp_path / "tiny.gguf", tmp_path / "samples.jsonl"
    write_tiny_gguf(model)
    flags = ["--model", str(model)] if teacher == "gguf" else ["--student", str(model)]
    command = ["collect", "--teacher", teacher, *flags, "--max-steps", "2", "--scenes", str(house_file)]
    assert cli.main([*command, "--output", str(output)]) == 0
    samples = list(read_samples(output))
    assert samples
    with Slm(model, n_threads=1) as slm:
        budget = slm.prompt_budget()
        for sample in samples:
            assert " more rooms\n" in sample.messages[1].content
            assert budget.readable - 100 < slm.count_tokens(sample.messages) <= budget.readable + 100  # by the grammar
    before = output.read_bytes()
    assert cli.main([*command, "--output", str(output)]) == 0
    assert output.read_bytes() == before, "a rerun finds the prompts that were read"


def test_a_student_that_reads_all_changes_no_prompt(house_file: Path, tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    command = ["collect", "--scenes", str(house_file), "--max-steps", "3", "--output"]
    assert cli.main([*command, str(tmp_path / "whole.jsonl")]) == 0
    assert cli.main([*command, str(tmp_path / "fit.jsonl"), "--student", str(tmp_path / "tiny.gguf")]) == 0
    assert without_times(tmp_path / "fit.jsonl") == without_times(tmp_path / "whole.jsonl")


def test_fewer_samples_than_asked_for_are_told(
    house_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["collect", "--scenes", str(house_file), "--max-steps", "3", "--output", str(tmp_path / "samples.jsonl")]
    assert cli.main([*command, "--limit", "1"]) == 0
    assert "give more --episodes" not in capsys.readouterr().out
    assert cli.main([*command, "--limit", "500"]) == 0
    assert "500 were asked for, and the episodes are over: give more --episodes" in capsys.readouterr().out


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    first = SampleFile(tmp_path / "samples.jsonl", ExpertAdapter())
    with pytest.raises(UserError, match="another collect"):
        SampleFile(tmp_path / "samples.jsonl", ExpertAdapter())
    first.close()


def test_a_full_disk_keeps_what_is_written(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "samples.jsonl", ExpertAdapter())
    meta = {"teacher": "expert", "model": ""}
    first, second = ((Message("system", "s"), Message("user", text)) for text in ("one", "two"))
    file.add(Sample(first, "a", meta))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.path.stat().st_size + 10, hard))
    try:
        with pytest.raises(UserError, match=r"can't write .*samples\.jsonl.*1 samples are kept"):
            file.add(Sample(second, "b", meta))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.add(Sample(second, "b", meta))
    file.close()
    assert [sample.answer for sample in read_samples(file.path)] == ["a", "b"]


CHAT = [{"role": role, "content": "x"} for role in ("system", "user", "assistant")]
GOOD = {"messages": CHAT, "meta": {}}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{not json", "not JSON"),
        (b'{"messages": "\xff"}', "not JSON"),
        (b"[]", "no field 'messages'"),
        (json.dumps({"messages": CHAT}).encode(), "no field 'meta'"),
        (json.dumps({**GOOD, "messages": CHAT[::-1]}).encode(), "roles are assistant, user, system"),
        (json.dumps({**GOOD, "messages": CHAT[:2]}).encode(), "roles are system, user;"),
        (
            json.dumps({**GOOD, "messages": [{"role": message["role"]} for message in CHAT]}).encode(),
            "'content'",
        ),
    ],
)
def test_what_is_wrong_is_named_by_file_and_line(tmp_path: Path, line: bytes, told: str) -> None:
    path = tmp_path / "samples.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(good + b"\n\n" + line + b"\n" + good + b"\n")
    with pytest.raises(UserError, match=r"samples\.jsonl:3: ") as raised:
        list(read_samples(path))
    assert told in str(raised.value)
    with pytest.raises(UserError, match="can't read"):
        list(read_samples(tmp_path / "absent.jsonl"))


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with running_endpoint() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server


def ask_endpoint(house_file: Path, tmp_path: Path, *more: str) -> int:
    return cli.main(
        ["--verbose", "collect", "--teacher", "openai", "--model", "big", "--scenes", str(house_file),
         "--episodes", "3", "--output", str(tmp_path / "samples.jsonl"), "--cache", str(tmp_path / "cache"), *more]
    )  # fmt: skip


def test_an_endpoint_teaches_and_its_key_stays_secret(
    endpoint: Endpoint, house_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    price = ("--prompt-price", "1", "--completion-price", "10")
    assert ask_endpoint(house_file, tmp_path, *price) == 0
    samples = list(read_samples(tmp_path / "samples.jsonl"))
    told = capsys.readouterr()
    assert len(samples) == len(endpoint.requests) > 0 and {sample.answer for sample in samples} == {ANSWER}
    assert f"{1000 * len(samples)} + {200 * len(samples)} tokens, cost {0.003 * len(samples):.4f}" in told.out
    assert {sample.meta["model"] for sample in samples} == {"big"}
    (tmp_path / "samples.jsonl").unlink()  # the cache alone brings it all back
    requests = len(endpoint.requests)
    assert ask_endpoint(house_file, tmp_path) == 0
    assert len(endpoint.requests) == requests
    assert len(list(read_samples(tmp_path / "samples.jsonl"))) == len(samples)
    endpoint.replies = [(401, {}, f"no such key: {KEY}".encode())]
    assert ask_endpoint(house_file, tmp_path, "--seed", "5") == cli.USER_ERROR
    end = capsys.readouterr()
    assert "HTTP 401" in end.err and "OPENAI_API_KEY" in end.err
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in told.out + told.err + end.out + end.err + caplog.text + written


def test_an_endpoint_that_fails_midway_loses_nothing(endpoint: Endpoint, house_file: Path, tmp_path: Path) -> None:
    patience = ("--retries", "0", "--concurrency", "1")
    endpoint.replies = [completion(), (500, {}, b"")]
    assert ask_endpoint(house_file, tmp_path, *patience) == cli.USER_ERROR
    assert len(list(read_samples(tmp_path / "samples.jsonl"))) == 1
    endpoint.replies = [completion()]
    before = len(endpoint.requests)
    assert ask_endpoint(house_file, tmp_path, *patience) == 0
    samples = list(read_samples(tmp_path / "samples.jsonl"))
    assert len(samples) == 1 + len(endpoint.requests) - before > 1
