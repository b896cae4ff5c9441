"""The node's state for /diagnostics, as the messages that diagnostic tools read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header


@dataclass(frozen=True)
class Status:
    """One line of a diagnostic tool. `problem` is '' when all is well; `fatal` makes it an error."""

    name: str
    summary: str
    values: Mapping[str, object]
    problem: str = ""
    fatal: bool = False


def diagnostics_to_msg(node_name: str, statuses: list[Status], stamp: Time) -> DiagnosticArray:
    return DiagnosticArray(
        header=Header(stamp=stamp),
        status=[
            DiagnosticStatus(
                level=_level(status),
                name=f"{node_name}: {status.name}",
                message=status.problem or status.summary,
                hardware_id="",
                values=[KeyValue(key=key, value=str(value)) for key, value in status.values.items()],
            )
            for status in statuses
        ],
    )


def _level(status: Status) -> bytes:
    if not status.problem:
        return bytes(DiagnosticStatus.OK)
    return bytes(DiagnosticStatus.ERROR if status.fatal else DiagnosticStatus.WARN)
