"""The log: one event is one line, whatever is in it."""

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server import log


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()


def logger(form: str, level: str = "info") -> tuple[Any, io.StringIO]:
    lines = io.StringIO()
    log.configure(level, form, lines)
    return structlog.get_logger("sharding.membership"), lines


def words(line: str) -> dict[str, str]:
    """The words of a text line that need no quotes."""
    return dict(each.split("=", 1) for each in line.split() if "=" in each)


def test_a_text_line_names_time_level_event_logger_process_and_values() -> None:
    logged, lines = logger("text")
    logged.info("member_joined", slot=0, boot="ab12cd34", epoch=17, host=None, mine=True)
    line = lines.getvalue()
    assert line.startswith("time=20")
    assert "level=info event=member_joined logger=sharding.membership pid=" in line
    assert line.endswith(" slot=0 boot=ab12cd34 epoch=17 host=none mine=true\n")


def test_a_json_line_is_one_object_that_keeps_types() -> None:
    logged, lines = logger("json")
    logged.info("member_joined", slot=0, host=None, mine=True, late_s=0.5, others=[1, {"a": b"x"}])
    found = json.loads(lines.getvalue())
    assert found["event"] == found["message"] == "member_joined"
    assert (found["level"], found["logger"]) == ("info", "sharding.membership")
    assert (found["slot"], found["host"], found["mine"], found["late_s"]) == (0, None, True, 0.5)
    assert found["others"] == [1, {"a": "b'x'"}]


def test_numbers_that_json_cannot_say_become_text() -> None:
    logged, lines = logger("json")
    logged.info("odd", value=float("nan"), other=float("inf"))
    assert json.loads(lines.getvalue(), parse_constant=pytest.fail)["value"] == "nan"


@pytest.mark.parametrize("form", ["text", "json"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(user=st.text())
def test_no_value_can_break_a_line_or_move_the_cursor(form: str, user: str) -> None:
    logged, lines = logger(form)
    logged.info("login", user=user)
    logging.getLogger("aiohttp.server").error("Error handling request from %s", user)
    text = lines.getvalue()
    assert len(text.splitlines()) == 2
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_lone_surrogate_can_be_written(form: str) -> None:
    logged, lines = logger(form)
    logged.info("login", user="a\udc80")
    assert lines.getvalue().encode()


def test_a_value_cannot_pass_for_another_key() -> None:
    logged, lines = logger("text")
    logged.info("login", user='ada" level=error', empty="")
    line = lines.getvalue().strip()
    assert line.endswith(r'user="ada\" level=error" empty=""')


def test_an_exception_stays_on_its_line() -> None:
    logged, lines = logger("text")
    try:
        int("a\nb")
    except ValueError:
        logged.exception("failed")
    assert lines.getvalue().count("\n") == 1
    assert "ValueError: invalid literal" in lines.getvalue()


def test_a_very_long_value_is_cut() -> None:
    logged, lines = logger("json")
    logged.info("body", body="x" * 1_000_000)
    assert len(lines.getvalue()) < 2 * log.VALUE_CHARS
    assert json.loads(lines.getvalue())["body"].endswith("… (983616 more)")


def test_what_is_below_the_level_is_not_logged() -> None:
    logged, lines = logger("text", "warning")
    logged.info("quiet")
    logging.getLogger("aiohttp").info("quiet")
    logged.warning("loud")
    assert [words(line)["event"] for line in lines.getvalue().splitlines()] == ["loud"]


def test_warnings_are_logged() -> None:
    _, lines = logger("text")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("be careful", stacklevel=1)
    assert "logger=py.warnings" in lines.getvalue()


def test_configuring_twice_does_not_log_twice() -> None:
    logger("text")
    logged, lines = logger("text")
    logged.info("once")
    assert lines.getvalue().count("once") == 1


def test_gunicorns_own_lines_go_the_same_way_and_there_is_no_access_log() -> None:
    program = (
        "from gunicorn.config import Config; from server import log; log.configure('info', 'json');"
        "made = log.GunicornLog(Config()); made.info('Listening at: %s', 'a\\nb'); made.debug('hidden');"
        "made.setup(Config()); made.warning('again'); assert not made.access_log_enabled"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["event"] for each in found] == ["Listening at: a\nb", "again"]
    assert {each["logger"] for each in found} == {"gunicorn.error"}
    assert done.stderr == ""
