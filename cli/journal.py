"""The log of a process of ours: structured lines on standard error, nothing secret in them."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog
from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

REDACTED: Final = "***"
_SECRET_NAMES: Final = re.compile(r"authorization|token|secret|password|cookie|api_?key", re.IGNORECASE)
# API keys, bearer credentials and passwords in addresses, wherever they stand in a text.
_SECRET_TEXT: Final = re.compile(r"\btr_[A-Za-z0-9_-]{43}|(?i:(?<=bearer ))\S+|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")


def redact(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take out what a log must not hold: values with telling names, and credentials within texts."""
    for name, value in line.items():
        if _SECRET_NAMES.search(name):
            line[name] = REDACTED
        elif isinstance(value, str):
            line[name] = _SECRET_TEXT.sub(REDACTED, value)
    return line


def trace(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Name the trace that the line belongs to, if there is one."""
    context = get_current_span().get_span_context()
    if context.is_valid:
        line["trace_id"], line["span_id"] = format_trace_id(context.trace_id), format_span_id(context.span_id)
    return line


class Lines(logging.StreamHandler[Any]):
    """Writes what libraries log."""


def configure(*, level: str = "INFO") -> None:
    """Write lines of this level and above: for people on a terminal, as JSON otherwise; the last call counts.

    What libraries log is written in the same way, from WARNING on.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    known: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        trace,
        # As text: the renderers' own tracebacks show local variables, and those hold bodies and keys.
        structlog.processors.format_exc_info,
    ]
    written: list[structlog.types.Processor] = [
        redact,
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(),
    ]
    structlog.configure(
        processors=known + written,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler, root = Lines(sys.stderr), logging.getLogger()
    without = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=known, processors=[without, *written]))
    for earlier in [each for each in root.handlers if isinstance(each, Lines)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger("uvicorn").setLevel(number)  # it says where it listens
