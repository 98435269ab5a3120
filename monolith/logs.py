"""Logs on standard error: one JSON line per event, or readable lines on a terminal. Secrets are masked in both."""

from __future__ import annotations

import logging
import re
import sys
from contextlib import suppress
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from monolith import strict_json
from monolith.config import settings
from monolith.errors import BadSetting

COLOURS = {"run": 36, "redis": 31, "web": 32, "worker": 33, "clock": 35}

_process = ""  # in each line; read when the line is written: a forked child has the loggers of its parent

_MASKS = [
    (re.compile(r"(authorization[\"'\\]*\s*[:=]\s*[\"'\\]*(?:(?:bearer|basic|digest)\s+)?)[^\s\"'\\,}]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"(\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}", re.IGNORECASE), r"\1***"),
    (re.compile(r"\b(sk-)[\w-]{8,}"), r"\1***"),
    (re.compile(r"\b(intray_)[\w-]{8,}"), r"\1***"),
    (re.compile(r"(\w://[^\s:/@\"']*:)[^\s/@\"']+@"), r"\1***@"),
]


def configure(process: str = "web") -> None:
    """Set up logging, ours and that of libraries; `process` is the name in each line. Raises `BadSetting`."""
    global _process
    level, processors = settings().log_level, _processors()
    _process = process
    structlog.configure(
        processors=[*processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=processors, processors=_renderers()))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if level == "INFO":
        logging.getLogger("alembic").setLevel("WARNING")  # it logs two useless lines at every start


def mask(text: str) -> str:
    """The text with passwords and tokens replaced by `***`."""
    for pattern, replacement in _MASKS:
        text = pattern.sub(replacement, text)
    with suppress(BadSetting, ValueError):
        for secret in settings().secrets:  # which may stand anywhere, such as in an error of a library
            text = text.replace(secret, "***")
    return text


def is_readable() -> bool:
    """Whether to write readable lines instead of JSON: LOG_FORMAT (`text` or `json`), else whether standard error is a terminal."""
    return {"json": False, "text": True}.get(settings().log_format, sys.stderr.isatty())


def _processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        _name_process,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
    ]


def _name_process(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    event["process"] = _process
    return event


def _renderers() -> list[Processor]:
    first: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if is_readable():
        return [*first, _prefix_process, _console(), _masked]
    return [*first, structlog.processors.format_exc_info, structlog.processors.JSONRenderer(strict_json.dumps, default=str), _masked]


def _console() -> Processor:
    """Plain tracebacks: where rich is installed, structlog's own would show the values of local variables."""
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)


def _prefix_process(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """`web    | the event`: the name of the process first, in its colour."""
    name = event.pop("process")
    event["timestamp"] = event["timestamp"][11:19]
    prefix = f"{name:<6} |"
    colour = COLOURS.get(name, 37)
    event["event"] = f"\x1b[{colour}m{prefix}\x1b[0m {event['event']}" if sys.stderr.isatty() else f"{prefix} {event['event']}"
    return event


def _masked(logger: WrappedLogger, method: str, rendered: Any) -> str:
    return mask(rendered)


class Fault:
    """An error that comes again and again: logged with its traceback when it begins or becomes another one, and when it is over."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._kind: type[Exception] | None = None

    def occurred(self, error: Exception, **known: Any) -> None:
        """Call it where the error is handled."""
        if type(error) is not self._kind:
            self._kind = type(error)
            structlog.get_logger().exception(self._event, **known)

    def ended(self, **known: Any) -> None:
        """It went well."""
        if self._kind is not None:
            self._kind = None
            structlog.get_logger().info("works_again", after=self._event, **known)
