"""The endpoint's teacher against a real server on this machine: what it retries, what it refuses, what it hides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from fixtures.endpoint import ANSWER, Endpoint, completion, running_endpoint
from smallplan_planner.prompt import Message
from smallplan_training.errors import UserError
from smallplan_training.teachers.openai import OpenAIConfig, OpenAITeacher

KEY = "sk-secret-0123456789"
MESSAGES = (Message("system", "You plan."), Message("user", "Target: mug"))


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running_endpoint() as server:
        yield server


class Clock(list[float]):
    """Waits without waiting, and remembers how long."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def waits() -> Clock:
    return Clock()


def make(endpoint: Endpoint, waits: Callable[[float], object], **kwargs: Any) -> OpenAITeacher:
    return OpenAITeacher(OpenAIConfig("big", endpoint.url, **{"timeout": 20.0, "retries": 2, **kwargs}), waits)


def test_an_answer_and_what_it_cost(endpoint: Endpoint, waits: Clock) -> None:
    teacher = make(endpoint, waits, prompt_price=2.0, completion_price=10.0, temperature=0.5, max_tokens=77)
    answer = teacher.ask(MESSAGES)
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == (ANSWER, 1000, 200)
    assert teacher.usage.cost == pytest.approx(0.002 + 0.002) and teacher.usage.requests == 1
    path, headers, body = endpoint.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body["messages"] == [{"role": "system", "content": "You plan."}, {"role": "user", "content": "Target: mug"}]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("big", 0.5, 77)


def test_without_a_key_none_is_sent(endpoint: Endpoint, waits: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    make(endpoint, waits).ask(MESSAGES)
    assert "Authorization" not in endpoint.requests[0][1]


def test_401_says_what_to_do_and_hides_the_key(endpoint: Endpoint, waits: Clock) -> None:
    endpoint.replies = [(401, {}, f'{{"error": "wrong key {KEY}"}}'.encode())]
    with pytest.raises(UserError, match=r"HTTP 401.*wrong key.*OPENAI_API_KEY") as raised:
        make(endpoint, waits).ask(MESSAGES)
    assert KEY not in str(raised.value)
    assert len(endpoint.requests) == 1 and not waits


@pytest.mark.parametrize("status", [400, 403, 404])
def test_what_will_not_pass_is_not_retried(endpoint: Endpoint, waits: Clock, status: int) -> None:
    endpoint.replies = [(status, {}, b"no")]
    with pytest.raises(UserError, match=f"HTTP {status}"):
        make(endpoint, waits).ask(MESSAGES)
    assert len(endpoint.requests) == 1


def test_429_waits_as_long_as_it_is_told(endpoint: Endpoint, waits: Clock) -> None:
    endpoint.replies = [(429, {"Retry-After": "7"}, b""), completion()]
    assert make(endpoint, waits).ask(MESSAGES).text == ANSWER
    assert waits == [7.0]


def test_retry_after_may_be_a_date(endpoint: Endpoint, waits: Clock) -> None:
    endpoint.replies = [(503, {"Retry-After": formatdate(4_000_000_000, usegmt=True)}, b"")]
    with pytest.raises(UserError, match="asks to wait"):  # the year 2096 is further than anybody waits
        make(endpoint, waits).ask(MESSAGES)
    assert not waits and len(endpoint.requests) == 1


def test_500_backs_off_and_then_gives_up(endpoint: Endpoint, waits: Clock) -> None:
    endpoint.replies = [(500, {}, b"oops")]
    with pytest.raises(UserError, match=r"HTTP 500 \(oops\), 4 times.*resumes"):
        make(endpoint, waits, retries=3, backoff=1.0).ask(MESSAGES)
    assert len(endpoint.requests) == 4 and len(waits) == 3
    for wait, longest in zip(waits, (1.0, 2.0, 4.0)):
        assert longest / 2 <= wait <= longest


@pytest.mark.parametrize(
    "garbage", [b"<html>hello</html>", b"", b"[]", b'{"choices": []}', b'{"choices": [1]}', b"\xff"]
)
def test_garbage_is_retried_then_named(endpoint: Endpoint, waits: Clock, garbage: bytes) -> None:
    endpoint.replies = [(200, {}, garbage)]
    with pytest.raises(UserError, match="no chat completion"):
        make(endpoint, waits, retries=1).ask(MESSAGES)
    assert len(endpoint.requests) == 2
    endpoint.replies = [(200, {}, garbage), completion()]
    assert make(endpoint, waits).ask(MESSAGES).text == ANSWER


def test_without_retries_it_was_asked_once(endpoint: Endpoint, waits: Clock) -> None:
    endpoint.replies = [(500, {}, b"oops")]
    with pytest.raises(UserError, match=r"HTTP 500 \(oops\), once; see"):
        make(endpoint, waits, retries=0).ask(MESSAGES)


def test_no_answer_in_time(endpoint: Endpoint, waits: Clock) -> None:
    endpoint.replies = [None]
    with pytest.raises(UserError, match=r"no answer within 0\.1 s, 2 times"):
        make(endpoint, waits, timeout=0.1, retries=1).ask(MESSAGES)


def test_nobody_listens(endpoint: Endpoint, waits: Clock) -> None:
    config = OpenAIConfig("big", "http://127.0.0.1:1/v1", retries=1)
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1/v1.*no answer \(.*refused"):
        OpenAITeacher(config, waits).ask(MESSAGES)
    assert len(waits) == 1


def test_a_refusal_without_text_is_an_empty_answer(endpoint: Endpoint, waits: Clock) -> None:
    endpoint.replies = [completion(None)]
    assert make(endpoint, waits).ask(MESSAGES).text == ""


def test_a_redirect_does_not_carry_the_key_away(endpoint: Endpoint, waits: Clock) -> None:
    endpoint.replies = [(302, {"Location": f"{endpoint.url}/elsewhere"}, b"")]
    with pytest.raises(UserError, match=r"HTTP 302.*base-url"):
        make(endpoint, waits).ask(MESSAGES)
    assert len(endpoint.requests) == 1


def test_the_cache_spares_the_request_and_holds_no_key(endpoint: Endpoint, waits: Clock, tmp_path: Path) -> None:
    first = make(endpoint, waits, cache=tmp_path).ask(MESSAGES)
    teacher = make(endpoint, waits, cache=tmp_path, prompt_price=5.0)
    again = teacher.ask(MESSAGES)
    assert again.text == first.text and again.cached and not first.cached
    assert len(endpoint.requests) == 1 and teacher.usage.cached == 1 and teacher.usage.cost == 0
    entries = list(tmp_path.iterdir())
    assert len(entries) == 1 and KEY not in entries[0].read_text() + entries[0].name


def test_the_cache_tells_sampling_and_prompts_apart_and_heals(endpoint: Endpoint, waits: Clock, tmp_path: Path) -> None:
    make(endpoint, waits, cache=tmp_path).ask(MESSAGES)
    make(endpoint, waits, cache=tmp_path, temperature=1.0).ask(MESSAGES)
    make(endpoint, waits, cache=tmp_path).ask(MESSAGES[1:])
    assert len(endpoint.requests) == len(list(tmp_path.iterdir())) == 3
    for entry in tmp_path.iterdir():
        entry.write_text('{"text"')
    assert make(endpoint, waits, cache=tmp_path).ask(MESSAGES).text == ANSWER
    assert len(endpoint.requests) == 4


def test_a_key_that_is_none_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one\nsk-two")
    with pytest.raises(UserError, match="OPENAI_API_KEY") as raised:
        OpenAITeacher(OpenAIConfig("big"))
    assert "sk-" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["", "ftp://a/v1", "localhost:80", "http://me:secret@host/v1", "http://h/v1?key=secret"]
)
def test_an_address_that_can_not_work_or_holds_a_secret(url: str) -> None:
    with pytest.raises(UserError, match="base-url") as raised:
        OpenAIConfig("big", url)
    assert "secret" not in str(raised.value)
