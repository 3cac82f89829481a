"""Logging of the daemons: one line per event, as JSON in a cluster, as text for people. Standard library only.

Context (model, node, revision, trace) goes in through `modelcache.logs.about` and `extra=`; in JSON every such field is a key
of its own, in text it follows the message as `key=value`.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum

from modelcache.logs import AddFields

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class LogFormat(StrEnum):
    """How log lines look."""

    json = "json"
    text = "text"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then the fields of `extra=`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for `record`."""
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= context_of(record)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """`time LEVEL logger: message key=value`, a traceback behind it where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for `record`."""
        context = "".join(f" {key}={value}" for key, value in context_of(record).items())
        line = f"{_time(record)} {record.levelname:<7} {record.name}: {record.getMessage()}{context}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def context_of(record: logging.LogRecord) -> dict[str, object]:
    """What was passed as `extra=`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def configure_logging(log_format: LogFormat, level: str) -> None:
    """Send the log of the whole process to stderr. Raises ValueError for a level that does not exist."""
    if level.lower() not in _LEVELS:
        raise ValueError(
            f"log_level (--log-level or MODELCACHE_LOG_LEVEL) is {level!r}; use one of {', '.join(_LEVELS)}"
        )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.json else TextFormatter())
    handler.addFilter(AddFields())
    logging.basicConfig(level=_LEVELS[level.lower()], handlers=[handler], force=True)
    # Libraries report every request at these levels; what matters of it we say ourselves. That of botocore includes headers.
    for chatty in (
        "botocore",
        "boto3",
        "httpx2",
        "httpcore2",
        "urllib3",
        "huggingface_hub",
        "kubernetes",
        "grpc",
        "asyncio",
    ):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, _LEVELS[level.lower()]))


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
