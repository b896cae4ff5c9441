"""The figures of `smallplan bench` as tables in Markdown, to be read in a terminal or put into a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_OPTION_HEADS = {
    "decision_ms_p50": "p50 ms",
    "decision_ms_p95": "p95 ms",
    "times_default": "time, defaults = 1",
    "prompt_tps": "tokens/s read",
    "generation_tps": "tokens/s written",
    "reused_tokens_fraction": "reused",
    "same_commands": "same commands",
    "peak_rss_mb": "peak MB",
}
_SHAPE_HEADS = {
    "file_mb": "file MB",
    "rss_mb": "peak MB",
    "n_ctx": "n_ctx",
    "load_s": "load s",
    "prompt_tps": "tokens/s read",
    "generation_tps": "tokens/s written",
}


def report_table(report: Mapping[str, Any]) -> str:
    """All figures of `run_bench`: first those that are single numbers, then a table for each part that has rows."""
    nested = ("options", "grammar", "shapes", "absent", "llama_bench")
    single = [(key, value) for key, value in report.items() if key not in nested]
    single += [(f"llama_bench.{key}", value) for key, value in report.get("llama_bench", {}).items()]
    single += [(key, f"absent: {reason}") for key, reason in report.get("absent", {}).items()]
    parts = [_table(("figure", "value"), single)]
    if options := report.get("options"):
        rows = [(name, *(figures[key] for key in _OPTION_HEADS)) for name, figures in options.items()]
        parts.append(_table(("options", *_OPTION_HEADS.values()), rows))
    if shapes := report.get("shapes"):
        heads = ("shape", *_SHAPE_HEADS.values(), "in time, deadline", "in time, tight deadline")
        rows = [
            (
                name,
                *(figures[key] for key in _SHAPE_HEADS),
                *(_punctuality(figures[which], figures["decisions"]) for which in ("usual", "tight")),
            )
            for name, figures in shapes.items()
        ]
        parts.append(_table(heads, rows))
    return "\n".join(parts)


def soak_table(report: Mapping[str, Any]) -> str:
    """All figures of a soak."""
    return _table(("figure", "value"), ((key, _joined(value)) for key, value in report.items()))


def _punctuality(figures: Mapping[str, Any], decisions: int) -> str:
    return (
        f"{figures['in_time']} of {decisions} within {figures['deadline_s']:g} s, {figures['cut']} cut, "
        f"longest {figures['longest_s']:g} s"
    )


def _joined(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [_line(heads), _line(["---"] * len(heads)), *(_line(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"
