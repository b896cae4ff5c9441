"""Messages between the adapter and its worker: a JSON header and raw arrays over a local socket, nothing else.

A message is `!II` (bytes of the header, bytes of all arrays), the header as UTF-8 JSON, and the arrays one after the
other in C order. The header's `kind` says what it is, `arrays` what follows. Nothing is unpickled; sizes, types and
shapes are checked before anything is allocated. Both sides prove that they know a secret before they say anything
else, and that they speak the same version. Every wait has an end.

Runs on Python 3.8 too: the worker lives in iGibson's environment.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

VERSION = 1
MAX_HEADER = 4 << 20  # bytes; a scene of a thousand objects has 0.3 MB
MAX_ARRAYS = 256 << 20  # bytes of all arrays of a message
HANDSHAKE_TIMEOUT = 10.0
"""s for each message of the handshake."""
_BODY_TIMEOUT = 60.0  # s for the rest of a message that has begun
_DTYPES = ("bool", "uint8", "uint16", "int32", "int64", "float32", "float64")
_LENGTHS = struct.Struct("!II")
_MAX_DIMENSIONS = 8
_MAX_HELLO = 4096  # bytes: strangers get no more
_NONCE = 32  # bytes


class ProtocolError(RuntimeError):
    """The other side does not speak this protocol, or not this version of it."""


class ConnectionClosed(ProtocolError):
    """The other side is gone."""


class ProtocolTimeout(ProtocolError):
    """The other side has not answered, or not read, in time."""


@dataclass(frozen=True)
class Message:
    """One message; `fields` hold what JSON can hold."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


class Channel:
    """Sends and receives messages over a connected socket, which it owns."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """May be called again."""
        self._connection.close()

    def send(self, message: Message, timeout: float) -> None:
        """Send a message within `timeout` s. Raises ValueError for one that is too large, `ProtocolError`."""
        described, buffers = _describe(message.arrays)
        header = json.dumps(
            {"kind": message.kind, "fields": dict(message.fields), "arrays": described}, allow_nan=False
        ).encode()
        size = sum(len(buffer) for buffer in buffers)
        if len(header) > MAX_HEADER or size > MAX_ARRAYS:
            raise ValueError(
                f"a message of {len(header)} and {size} bytes; at most {MAX_HEADER} and {MAX_ARRAYS} are allowed"
            )
        deadline = time.monotonic() + timeout
        for part in [_LENGTHS.pack(len(header), size) + header, *buffers]:
            self._send_all(part, deadline)

    def receive(self, timeout: float | None, max_header: int = MAX_HEADER, max_arrays: int = MAX_ARRAYS) -> Message:
        """The next message. `timeout`: s until it has arrived whole; None waits for its beginning without end.

        Raises `ProtocolTimeout`, `ConnectionClosed`, and `ProtocolError` for what is no message.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        lengths = self._receive_exactly(_LENGTHS.size, deadline)
        if deadline is None:
            deadline = time.monotonic() + _BODY_TIMEOUT
        header_size, arrays_size = _LENGTHS.unpack(lengths)
        if header_size > max_header or arrays_size > max_arrays:
            raise ProtocolError(
                f"a message of {header_size} and {arrays_size} bytes was announced; at most {max_header} and "
                f"{max_arrays} are accepted"
            )
        kind, fields, described = _parse_header(bytes(self._receive_exactly(header_size, deadline)))
        if sum(size for *_, size in described) != arrays_size:
            raise ProtocolError(f"the arrays of a {kind!r} message don't fill the {arrays_size} bytes")
        arrays = {}
        for name, dtype, shape, size in described:
            data = self._receive_exactly(size, deadline)
            arrays[name] = np.frombuffer(data, dtype=dtype).reshape(shape) if size else np.zeros(shape, dtype)
        return Message(kind, fields, arrays)

    def _send_all(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            self._connection.settimeout(_remaining(deadline))
            try:
                view = view[self._connection.send(view) :]
            except socket.timeout as error:
                raise ProtocolTimeout("the other side reads nothing") from error
            except OSError as error:
                raise ConnectionClosed(f"the connection was closed: {error}") from error

    def _receive_exactly(self, size: int, deadline: float | None) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            self._connection.settimeout(None if deadline is None else _remaining(deadline))
            try:
                count = self._connection.recv_into(view)
            except socket.timeout as error:
                raise ProtocolTimeout("no answer in time") from error
            except OSError as error:
                raise ConnectionClosed(f"the connection was closed: {error}") from error
            if not count:
                raise ConnectionClosed("the connection was closed by the other side")
            view = view[count:]
        return data


def connect(address: str, secret: str, timeout: float = HANDSHAKE_TIMEOUT) -> Channel:
    """The worker's side: connect to the Unix socket `address`, prove and check the secret."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    channel = Channel(connection)
    try:
        nonce = secrets.token_hex(_NONCE)
        channel.send(Message("hello", {"version": VERSION, "nonce": nonce}), timeout)
        answer = _receive_hello(channel, "welcome", timeout)
        _check_proof(answer, secret, "adapter", nonce)
        proof = _proof(secret, "worker", str(answer.fields.get("nonce", "")))
        channel.send(Message("proof", {"version": VERSION, "proof": proof}), timeout)
    except BaseException:
        channel.close()
        raise
    return channel


def accept(connection: socket.socket, secret: str, timeout: float = HANDSHAKE_TIMEOUT) -> Channel:
    """The adapter's side: take a connection on, once the other side has proved that it knows the secret."""
    channel = Channel(connection)
    try:
        hello = _receive_hello(channel, "hello", timeout)
        nonce = secrets.token_hex(_NONCE)
        proof = _proof(secret, "adapter", str(hello.fields.get("nonce", "")))
        channel.send(Message("welcome", {"version": VERSION, "nonce": nonce, "proof": proof}), timeout)
        _check_proof(_receive_hello(channel, "proof", timeout), secret, "worker", nonce)
    except BaseException:
        channel.close()
        raise
    return channel


def _receive_hello(channel: Channel, kind: str, timeout: float) -> Message:
    message = channel.receive(timeout, max_header=_MAX_HELLO, max_arrays=0)
    if message.kind != kind:
        raise ProtocolError(f"the other side said {message.kind[:40]!r}; expected {kind!r}")
    if message.fields.get("version") != VERSION:
        raise ProtocolError(
            "the other side speaks version {!r} of the protocol, this one {}; use the worker of the same "
            "smallplan_training".format(message.fields.get("version"), VERSION)
        )
    return message


def _proof(secret: str, side: str, nonce: str) -> str:
    return hmac.new(secret.encode(), f"{side}/{nonce}".encode("utf-8", "backslashreplace"), hashlib.sha256).hexdigest()


def _check_proof(message: Message, secret: str, side: str, nonce: str) -> None:
    told = str(message.fields.get("proof", "")).encode("utf-8", "backslashreplace")
    if not hmac.compare_digest(told, _proof(secret, side, nonce).encode()):
        raise ProtocolError("the other side does not know the secret")


def _remaining(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise ProtocolTimeout("no answer in time")
    return left


def _describe(arrays: Mapping[str, np.ndarray]) -> tuple[list[dict[str, Any]], list[bytes]]:
    described, buffers = [], []
    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES:
            raise ValueError(f"array {name!r} is of type {array.dtype}; expected one of {_DTYPES}")
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        described.append({"name": name, "dtype": array.dtype.name, "shape": list(array.shape)})
        buffers.append(little.tobytes())
    return described, buffers


def _parse_header(
    data: bytes,
) -> tuple[str, dict[str, Any], list[tuple[str, np.dtype, tuple[int, ...], int]]]:
    """Kind, fields, and for each array (name, type, shape, bytes)."""
    try:
        header = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a header is not JSON: {error}") from error
    if not isinstance(header, dict) or not isinstance(header.get("kind"), str):
        raise ProtocolError("a header is no object with a 'kind'")
    fields, arrays = header.get("fields"), header.get("arrays")
    if not isinstance(fields, dict) or not isinstance(arrays, list):
        raise ProtocolError("the header of a {!r} message has no 'fields' or 'arrays'".format(header["kind"]))
    return header["kind"], fields, [_parse_array(item) for item in arrays]


def _parse_array(item: Any) -> tuple[str, np.dtype, tuple[int, ...], int]:
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(name, str) or item.get("dtype") not in _DTYPES:
        raise ProtocolError(f"an array is described as {item!r}; expected a name and one of {_DTYPES}")
    shape = item.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n <= MAX_ARRAYS for n in shape):
        raise ProtocolError(f"array {name!r} has the shape {shape!r}; expected a list of sizes")
    dtype = np.dtype(item["dtype"]).newbyteorder("<")
    size = dtype.itemsize * math.prod(extent or 1 for extent in shape)  # numpy refuses huge ones without elements, too
    if len(shape) > _MAX_DIMENSIONS or size > MAX_ARRAYS:
        raise ProtocolError(
            f"array {name!r} has the shape {shape!r}; expected at most {_MAX_DIMENSIONS} dimensions and {MAX_ARRAYS} "
            "bytes"
        )
    return name, dtype, tuple(shape), 0 if 0 in shape else size
