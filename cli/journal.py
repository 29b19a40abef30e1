"""The log of a process of ours: structured lines on standard error, nothing secret in them."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

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


def configure(*, level: str = "INFO") -> None:
    """Write lines of this level and above: for people on a terminal, as JSON otherwise."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # As text: the renderers' own tracebacks show local variables, and those hold bodies and keys.
            structlog.processors.format_exc_info,
            redact,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=True,
    )
