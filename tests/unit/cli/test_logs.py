"""Log lines: JSON that a collector can read, text that a person can."""

import json
import logging

import pytest

from cli.logs import JsonFormatter, LogFormat, TextFormatter, configure_logging


def record(**extra: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "agent", "levelno": logging.INFO, "levelname": "INFO", "msg": "published %s", "args": ("x",),
         "created": 0.25, **extra}
    )  # fmt: skip


def test_json_carries_the_context_as_keys() -> None:
    entry = json.loads(JsonFormatter().format(record(model="n/m", revision="abc")))
    assert entry == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "info",
        "logger": "agent",
        "message": "published x",
        "model": "n/m",
        "revision": "abc",
    }


def test_text_puts_the_context_behind_the_message() -> None:
    assert (
        TextFormatter().format(record(model="n/m")) == "1970-01-01T00:00:00.250Z INFO    agent: published x model=n/m"
    )


def test_a_traceback_is_part_of_the_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        failed = record(exc_info=(type(error), error, error.__traceback__))
    assert "ValueError: broken" in json.loads(JsonFormatter().format(failed))["exception"]
    assert "ValueError: broken" in TextFormatter().format(failed)


def test_an_unknown_level_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"--log-level or MODELCACHE_LOG_LEVEL.*'loud'"):
        configure_logging(LogFormat.text, "loud")
