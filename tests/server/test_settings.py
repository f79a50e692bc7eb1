"""Settings: flags, variables, ranges, and a complete help."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest

from server.settings import Settings, parse


def test_without_anything_the_server_is_on_loopback_with_an_embedded_store() -> None:
    settings = parse([], {}).settings
    assert (settings.host, settings.port, settings.http_port) == ("127.0.0.1", 50051, 9464)
    assert (settings.data, settings.max_message_bytes, settings.credit_events) == (Path("bptt-data"), 4 * 2**20, 1024)


def test_flags_win_over_variables_and_variables_over_defaults() -> None:
    environ = {"BPTT_PORT": "1234", "BPTT_DATA": "/x", "BPTT_BACKEND": "", "PORT": "9"}
    settings = parse(["--port", "5"], environ).settings
    assert (settings.port, settings.data, settings.backend) == (5, Path("/x"), "auto")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--port", "65536"], "--port is '65536'; allowed: 0..65535"),
        (["--port", "-1"], "0..65535"),
        (["--port", "x"], "0..65535"),
        (["--port", "1.5"], "0..65535"),
        (["--drain-timeout-s", "nan"], "0..3600"),
        (["--backend", "tpu"], "auto, numpy, numba, cupy"),
        (["--max-message-bytes", "1000"], "262144..268435456"),
        (["--data", ""], "not empty"),
        (["--nonsense", "1"], "unrecognized"),
    ],
)
def test_a_bad_value_names_what_is_allowed(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments, {})
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


def test_a_bad_variable_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([], {"BPTT_PORT": "no"})
    assert "BPTT_PORT is 'no'" in capsys.readouterr().err


def test_the_help_has_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], {})
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for entry in fields(Settings):
        assert f"--{entry.name.replace('_', '-')} " in text
    assert text.count("(default ") == len(fields(Settings))
    assert "BPTT_" in text


def test_streams_fit_the_memory_they_are_given() -> None:
    settings = parse(["--stream-memory-mib", "100", "--max-message-bytes", str(2**20)], {}).settings
    assert settings.max_streams == 20
    assert parse(["--stream-memory-mib", "1"], {}).settings.max_streams == 1


def test_the_log_lists_every_setting() -> None:
    lines = "\n".join(parse([], {}).settings.lines())
    for entry in fields(Settings):
        assert f"--{entry.name.replace('_', '-')} " in lines


def test_as_many_threads_compute_as_there_are_cores_unless_told_otherwise() -> None:
    assert parse([], {}).settings.threads == min(16, len(os.sched_getaffinity(0)))
    assert parse(["--threads", "3"], {}).settings.threads == 3
    assert parse([], {"BPTT_THREADS": "5"}).settings.threads == 5
