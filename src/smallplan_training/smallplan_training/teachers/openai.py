"""A teacher behind an OpenAI-compatible endpoint: retries, a cache on disk, and a count of tokens and cost.

The key comes from the environment (`OPENAI_API_KEY`), travels in one header that no redirect passes on, and is cut
out of whatever the endpoint says. Answers are cached by endpoint, model, messages and sampling: what was paid for
once is never asked again.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from smallplan_planner.prompt import Message, render
from smallplan_planner.search import Situation
from smallplan_training.errors import UserError
from smallplan_training.teachers.teacher import ReadsAll, TeacherAnswer

logger = logging.getLogger(__name__)

DEFAULT_URL = "https://api.openai.com/v1"
MAX_WAIT = 300.0  # s that an endpoint may ask to wait; beyond, the run ends and can be resumed
_LONGEST_BACKOFF = 60.0  # s
_MAX_REPLY = 4_000_000  # bytes
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_REMEDIES = {
    401: "set OPENAI_API_KEY to a key that this endpoint takes",
    403: "this key may not use the model; see the account's permissions",
    404: "look at --base-url (it ends in /v1 as a rule) and --model",
}


@dataclass(frozen=True)
class OpenAIConfig:
    """Where and how to ask. Raises `UserError` for what can't work; prices are per million tokens."""

    model: str
    base_url: str = DEFAULT_URL
    temperature: float = 0.0
    max_tokens: int = 512
    timeout: float = 60.0  # s without a byte from the endpoint
    retries: int = 5
    backoff: float = 1.0  # s before the first retry, doubled each time
    prompt_price: float = 0.0
    completion_price: float = 0.0
    cache: Path | None = None  # folder

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise UserError("--base-url is not a plain http(s) address; expected for example " + DEFAULT_URL)
        if parts.username or parts.password:
            raise UserError("--base-url holds a user or password; the key belongs into OPENAI_API_KEY")
        if not self.model:
            raise UserError("the teacher openai needs a model's name; give one with --model")
        if self.timeout <= 0 or self.retries < 0 or self.max_tokens < 1:
            raise UserError(
                f"--timeout {self.timeout}, --retries {self.retries}, --max-tokens {self.max_tokens}; "
                "expected > 0, >= 0 and >= 1"
            )


@dataclass
class Usage:
    """What was asked for in this run; cached answers cost nothing."""

    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


class _Passing(Exception):
    """Trouble that may pass; `wait` is what the endpoint asks for in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class OpenAITeacher(ReadsAll):
    """Asks `base_url`/chat/completions. `sleep(seconds)` returns something true when the run is to stop."""

    name = "openai"

    def __init__(self, config: OpenAIConfig, sleep: Callable[[float], object] = time.sleep) -> None:
        self.config = config
        self.model = config.model
        self.usage = Usage()
        self._key = _read_key()
        self._sleep = sleep
        self._lock = threading.Lock()
        self._url = config.base_url.rstrip("/") + "/chat/completions"
        self._opener = urllib.request.build_opener(_NoRedirect)

    def answer(self, situation: Situation) -> TeacherAnswer:
        return self.ask(render(situation.view))

    def ask(self, messages: Sequence[Message]) -> TeacherAnswer:
        """Answer chat messages. Raises `UserError` when the endpoint refuses, or fails `retries` times more."""
        body = {
            "model": self.config.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
        }
        text = json.dumps(body, sort_keys=True)
        entry = None
        if self.config.cache is not None:
            entry = self.config.cache / f"{hashlib.sha256(f'{self._url} {text}'.encode()).hexdigest()}.json"
            known = _read_entry(entry)
            if known is not None:
                with self._lock:
                    self.usage.cached += 1
                return known
        answer = self._ask_until_answered(text.encode())
        with self._lock:
            self.usage.requests += 1
            self.usage.prompt_tokens += answer.prompt_tokens
            self.usage.completion_tokens += answer.completion_tokens
            self.usage.cost += answer.prompt_tokens * self.config.prompt_price / 1e6
            self.usage.cost += answer.completion_tokens * self.config.completion_price / 1e6
        if entry is not None:
            _write_entry(entry, answer)
        return answer

    def _ask_until_answered(self, body: bytes) -> TeacherAnswer:
        for attempt in range(self.config.retries + 1):
            try:
                return self._post(body)
            except _Passing as trouble:
                reason, asked = str(trouble), trouble.wait
            if asked > MAX_WAIT:
                raise UserError(f"{self._url}: {reason}, and asks to wait {asked:.0f} s; run it again then, it resumes")
            if attempt < self.config.retries:
                # full jitter on the upper half, so that threads don't come back together
                wait = min(self.config.backoff * 2.0**attempt, _LONGEST_BACKOFF) * random.uniform(0.5, 1.0)
                logger.info("%s: %s; once more", self._url, reason)
                if self._sleep(max(wait, asked)):
                    raise UserError("stopped while the endpoint was being waited for")
        asked_times = f"{self.config.retries + 1} times" if self.config.retries else "once"
        raise UserError(f"{self._url}: {reason}, {asked_times}; see that it runs, then run it again: it resumes")

    def _post(self, body: bytes) -> TeacherAnswer:
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        try:
            with self._opener.open(request, timeout=self.config.timeout) as reply:
                data = reply.read(_MAX_REPLY)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except TimeoutError:
            raise _Passing(f"no answer within {self.config.timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, TimeoutError):
                raise _Passing(f"no connection within {self.config.timeout:g} s") from None
            raise _Passing(f"no answer ({self._clean(str(cause) or type(cause).__name__)})") from None
        return self._read_reply(data)

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        try:
            said = self._clean(error.read(2000).decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException):
            said = ""
        reason = f"HTTP {error.code}" + (f" ({said})" if said else "")
        if error.code in _RETRIED:
            return _Passing(reason, _seconds(error.headers.get("Retry-After", "")))
        remedy = _REMEDIES.get(error.code, "look at --base-url and --model")
        return UserError(f"{self._url} answered {reason}; {remedy}")

    def _read_reply(self, data: bytes) -> TeacherAnswer:
        try:
            reply = json.loads(data)
            text = reply["choices"][0]["message"]["content"]
            usage = reply.get("usage") or {}
            tokens = [int(usage.get(key) or 0) for key in ("prompt_tokens", "completion_tokens")]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            said = self._clean(data[:200].decode("utf-8", "replace"))
            raise _Passing(f"what came is no chat completion: {said!r}") from None
        return TeacherAnswer(text if isinstance(text, str) else "", tokens[0], tokens[1])

    def _clean(self, text: str) -> str:
        """One short line without the key: some endpoints repeat it when they refuse it."""
        if self._key:
            text = text.replace(self._key, "***")
        return re.sub(r"\s+", " ", text).strip()[:200]


def _read_key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not re.fullmatch(r"[!-~]*", key):  # said without showing it
        raise UserError("OPENAI_API_KEY holds white space or other characters that no key has; set it anew")
    return key


def _seconds(header: str) -> float:
    """Seconds of a Retry-After header, a number or a date; 0 for none."""
    if re.fullmatch(r"\d{1,9}(\.\d+)?", header.strip()):
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except (TypeError, ValueError):
        return 0.0
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp() - time.time())


def _read_entry(path: Path) -> TeacherAnswer | None:
    """What was answered before; None for an entry that is not there or damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return TeacherAnswer(str(data["text"]), int(data["prompt_tokens"]), int(data["completion_tokens"]), cached=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_entry(path: Path, answer: TeacherAnswer) -> None:
    entry = {"text": answer.text, "prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
    entry["time"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(entry) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise UserError(f"can't write the cache {path.parent}: {error.strerror}; free space or give --cache") from error
