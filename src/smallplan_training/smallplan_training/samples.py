"""Samples in chat format, one JSON line each: read with clear errors, appended so that a kill costs at most a line."""

from __future__ import annotations

import fcntl
import io
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smallplan_planner.prompt import Message
from smallplan_training.errors import UserError
from smallplan_training.teachers.marks import Mark
from smallplan_training.teachers.teacher import Teacher, prompt_hash

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Sample:
    """A prompt, its answer, and where they come from."""

    messages: tuple[Message, ...]  # system, user
    answer: str
    meta: dict[str, Any] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()  # what the teacher thinks of what the prompt lists; not kept in files


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples of a file that `collect` wrote; raises `UserError` that names file and line of what is wrong."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _parse_line(line, f"{path}:{number}")
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error


def _parse_line(line: bytes, where: str) -> Sample:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); remove or mend the line") from error
    for name, kind in (("messages", list), ("meta", dict)):
        if not isinstance(data, dict) or not isinstance(data.get(name), kind):
            raise UserError(f"{where}: no field {name!r}; expected an object with 'messages' (list), 'meta' (object)")
    messages = data["messages"]
    roles = tuple(message.get("role") if isinstance(message, dict) else None for message in messages)
    if roles != ROLES:
        raise UserError(f"{where}: the roles are {', '.join(map(str, roles))}; expected {', '.join(ROLES)}")
    if not all(isinstance(message.get("content"), str) for message in messages):
        raise UserError(f"{where}: a message without the text field 'content'")
    system, user, answer = (message["content"] for message in messages)
    return Sample((Message("system", system), Message("user", user)), answer, data["meta"])


class SampleFile:
    """Appends samples, a line at once, and knows which prompts are answered. Thread-safe; one process at a time.

    `lazily`: a file that is not there is made with its first sample.
    """

    def __init__(self, path: Path, teacher: Teacher, lazily: bool = False) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._answers: dict[str, str] = {}
        self._file: io.FileIO | None = None
        self.repaired = 0  # bytes of a torn last line that were cut off
        self.before = 0  # samples that were there already
        if not lazily or path.exists():
            self._open()
            try:
                self._take_in(f"{teacher.name} {teacher.model}".strip())
            except BaseException:
                self.close()
                raise
        self.count = self.before

    def _open(self) -> io.FileIO:
        """Open it and lock it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise UserError(f"can't write {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise UserError(f"another collect is writing {self.path}; wait for it or give another --output") from error
        self._file = file
        return file

    def _take_in(self, made_by: str) -> None:
        try:
            self.repaired = _repair(self.path)
        except OSError as error:
            raise UserError(f"can't mend {self.path}: {error.strerror}") from error
        for sample in read_samples(self.path):
            earlier = f"{sample.meta.get('teacher')} {sample.meta.get('model')}".strip()
            if earlier != made_by:
                raise UserError(f"{self.path} holds answers of {earlier}, not of {made_by}; give another --output")
            self._answers[prompt_hash(sample.messages)] = sample.answer
            self.before += 1

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def answer_to(self, key: str) -> str | None:
        """What was answered to the prompt of this hash."""
        return self._answers.get(key)

    def add(self, sample: Sample) -> bool:
        """Append a sample unless its prompt is answered already; returns whether it was new."""
        key = prompt_hash(sample.messages)
        chat = [*sample.messages, Message("assistant", sample.answer)]
        messages = [{"role": message.role, "content": message.content} for message in chat]
        line = json.dumps({"messages": messages, "meta": sample.meta}, ensure_ascii=False) + "\n"
        with self._lock:
            if key in self._answers:
                return False
            file = self._file or self._open()
            end = file.seek(0, os.SEEK_END)
            try:
                data = line.encode("utf-8", "replace")
                while data:
                    data = data[file.write(data) :]
            except OSError as error:
                os.truncate(self.path, end)  # or the next line would be joined to what was written of this one
                raise UserError(
                    f"can't write {self.path}: {error.strerror}; its {self.count} samples are kept: mend that and run "
                    "the same command again"
                ) from error
            self._answers[key] = sample.answer
            self.count += 1
        return True


def _repair(path: Path) -> int:
    """End the last line, or cut it off when it is torn; returns the bytes that were cut off."""
    data = path.read_bytes()
    start = data.rfind(b"\n") + 1
    tail = data[start:]
    if not tail:
        return 0
    try:
        _parse_line(tail, str(path))
    except UserError:
        os.truncate(path, start)
        return len(tail)
    with path.open("ab") as file:
        file.write(b"\n")
    return 0
