"""The protocol: what goes in comes out, and nothing else is accepted."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smallplan_training.simulators.igibson.worker import protocol
from smallplan_training.simulators.igibson.worker.protocol import (
    Channel,
    ConnectionClosed,
    Message,
    ProtocolError,
    ProtocolTimeout,
)

SECRET = "a secret"


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel, and the bare socket at its other end."""
    one, other = socket.socketpair()
    with Channel(one) as channel, other:
        yield channel, other


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.arange(12, dtype=">u2").reshape(3, 4)[:, ::2],
        np.zeros((0, 5), dtype=np.int64),
        np.array(True),
    ],
)
def test_arrays_come_out_as_they_went_in(pair: tuple[Channel, socket.socket], array: np.ndarray) -> None:
    channel, other = pair
    Channel(other).send(Message("frames", {"text": "Küche", "none": None}, {"array": array}), 5)
    got = channel.receive(5)
    assert (got.kind, got.fields) == ("frames", {"text": "Küche", "none": None})
    np.testing.assert_array_equal(got.arrays["array"], array)
    assert got.arrays["array"].dtype.name == array.dtype.name


def test_a_message_larger_than_the_sockets_buffer(pair: tuple[Channel, socket.socket]) -> None:
    channel, other = pair
    array = np.random.default_rng(0).random((2000, 1000))
    sender = threading.Thread(target=Channel(other).send, args=(Message("big", {}, {"array": array}), 30))
    sender.start()
    np.testing.assert_array_equal(channel.receive(30).arrays["array"], array)
    sender.join()


def header(text: str | bytes, arrays: int = 0) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("!II", len(data), arrays) + data


def described(**changes: Any) -> str:
    array = {"name": "a", "dtype": "uint8", "shape": [2], **changes}
    return json.dumps({"kind": "k", "fields": {}, "arrays": [array]})


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (struct.pack("!II", protocol.MAX_HEADER + 1, 0), "at most"),
        (struct.pack("!II", 2, protocol.MAX_ARRAYS + 1), "at most"),
        (header("not JSON"), "not JSON"),
        (header(b"\xff\xfe"), "not JSON"),
        (header("[" * 100_000), "not JSON"),
        (header("[]"), "no object with a 'kind'"),
        (header('{"kind": 3}'), "no object with a 'kind'"),
        (header('{"kind": "k"}'), "no 'fields' or 'arrays'"),
        (header(described(dtype="object"), 16) + b"x" * 16, "expected a name and one of"),
        (header(described(name=7), 2) + b"xx", "expected a name and one of"),
        (header(described(shape=[-1]), 2) + b"xx", "expected a list of sizes"),
        (header(described(shape=[1 << 40]), 2) + b"xx", "expected a list of sizes"),
        (header(described(shape="2"), 2) + b"xx", "expected a list of sizes"),
        (header(described(shape=[0] * 100)), "at most 8 dimensions"),
        (header(described(shape=[0, 1 << 28, 1 << 28])), "at most 8 dimensions"),
        (header(described(), 3) + b"xxx", "don't fill the 3 bytes"),
    ],
)
def test_what_is_no_message_is_refused(pair: tuple[Channel, socket.socket], sent: bytes, error: str) -> None:
    channel, other = pair
    threading.Thread(target=other.sendall, args=(sent,)).start()
    with pytest.raises(ProtocolError, match=error):
        channel.receive(5)


def test_objects_can_not_be_sent(pair: tuple[Channel, socket.socket]) -> None:
    with pytest.raises(ValueError, match="of type object"):
        pair[0].send(Message("k", {}, {"a": np.array([{}])}), 5)
    with pytest.raises(ValueError, match="Out of range"):
        pair[0].send(Message("k", {"x": float("nan")}), 5)


def test_waiting_has_an_end(pair: tuple[Channel, socket.socket]) -> None:
    channel, other = pair
    with pytest.raises(ProtocolTimeout):
        channel.receive(0.05)
    other.sendall(b"\0\0")  # half a message
    with pytest.raises(ProtocolTimeout):
        channel.receive(0.05)
    with pytest.raises(ProtocolTimeout):
        channel.send(Message("k", {}, {"a": np.zeros(1 << 22)}), 0.05)  # nobody reads
    other.close()
    with pytest.raises(ConnectionClosed):
        channel.receive(5)


def shake_hands(folder: Path, secret: str, accept: Callable[[socket.socket], Any]) -> tuple[Any, Any]:
    """What the worker's and the adapter's side of a handshake return or raise."""
    results: dict[str, Any] = {}
    address = str(folder / "socket")

    def connect() -> None:
        try:
            results["worker"] = protocol.connect(address, secret, 5)
        except ProtocolError as error:
            results["worker"] = error

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen(1)
        thread = threading.Thread(target=connect)
        thread.start()
        try:
            results["adapter"] = accept(listener.accept()[0])
        except ProtocolError as error:
            results["adapter"] = error
        thread.join(20)
    return results["worker"], results["adapter"]


def test_who_knows_the_secret_is_let_in(tmp_path: Path) -> None:
    worker, adapter = shake_hands(tmp_path, SECRET, lambda connection: protocol.accept(connection, SECRET, 5))
    with worker, adapter:
        worker.send(Message("hi"), 5)
        assert adapter.receive(5).kind == "hi"


def test_a_worker_leaves_an_adapter_that_does_not_know_the_secret(tmp_path: Path) -> None:
    worker, adapter = shake_hands(tmp_path, SECRET, lambda connection: protocol.accept(connection, "another", 5))
    assert "does not know the secret" in str(worker)
    assert isinstance(adapter, ConnectionClosed)


def hello(**changes: Any) -> Message:
    return Message("hello", {"version": protocol.VERSION, "nonce": "0", **changes})


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ([hello(), Message("proof", {"version": protocol.VERSION, "proof": "0" * 64})], "does not know the secret"),
        ([hello(), Message("proof", {"version": protocol.VERSION, "proof": "\u00e9"})], "does not know the secret"),
        ([hello(nonce="\ud800"), Message("proof", {"version": protocol.VERSION})], "does not know the secret"),
        ([hello(version=99)], "speaks version 99 of the protocol"),
        ([Message("look")], "said 'look'; expected 'hello'"),
        ([hello(nonce="x" * 5000)], "at most"),
    ],
)
def test_an_adapter_refuses_strangers(pair: tuple[Channel, socket.socket], said: list[Message], error: str) -> None:
    channel, other = pair

    def speak() -> None:
        for message in said:
            channel.send(message, 5)

    thread = threading.Thread(target=speak)
    thread.start()
    with pytest.raises(ProtocolError, match=error):
        protocol.accept(other, SECRET, 5)
    thread.join(20)
