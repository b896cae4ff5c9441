"""The worker's side of the conversation: one request after the other, each answered, until the adapter hangs up.

Where to connect and the secret come as one line of JSON on the standard input: neither the command line nor the
environment of a process is a place for a secret.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Callable, TextIO

from .protocol import Channel, ConnectionClosed, Message, connect

log = logging.getLogger(__name__)

SEND_TIMEOUT = 60.0
"""s for an answer to be taken by the adapter."""

Handler = Callable[[Message], Message]


class RequestError(Exception):
    """A request that can't be carried out; the message goes to the adapter."""


def serve_from_stdin(handlers: dict[str, Handler], stdin: TextIO | None = None) -> int:
    """Connect to where the line on the standard input says, and answer requests; returns the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    told = json.loads((stdin or sys.stdin).readline())
    with connect(told["socket"], told["secret"]) as channel:
        serve(channel, handlers)
    return 0


def serve(channel: Channel, handlers: dict[str, Handler]) -> None:
    """Answer requests until the adapter has closed the connection. A request that fails is answered by an `error`."""
    while True:
        try:
            request = channel.receive(None)
        except ConnectionClosed:
            return
        channel.send(_answer(request, handlers), SEND_TIMEOUT)


def _answer(request: Message, handlers: dict[str, Handler]) -> Message:
    handler = handlers.get(request.kind)
    if handler is None:
        known = ", ".join(sorted(handlers))
        return _error(f"there is no request {request.kind!r}; expected one of {known}")
    try:
        return handler(request)
    except RequestError as error:
        return _error(str(error))
    except (Exception, SystemExit) as error:  # iGibson exits where it can't read a file; the adapter is to be told
        log.exception("the request %r failed", request.kind)
        return _error(f"{type(error).__name__}: {error}")


def _error(message: str) -> Message:
    return Message("error", {"message": message})
