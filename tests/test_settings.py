"""Every setting: what it says of itself, and what it takes."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from service.errors import StartError
from service.settings import Settings, expected_of, flag_of, help_of, variable_of
from service.sources import read

NAMES = list(Settings.model_fields)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_says_what_it_is_and_what_it_takes(name: str) -> None:
    field = Settings.model_fields[name]
    assert field.description
    assert len(field.description) > 30
    assert expected_of(name)
    assert field.description.replace("%", "%%") in help_of(name)
    assert flag_of(name).removeprefix("--") == variable_of(name).removeprefix("LOGITSERVE_").lower().replace(
        "_", "-"
    )


def test_settings_cannot_be_changed_or_added_to() -> None:
    chosen = Settings()
    with pytest.raises(ValidationError):
        chosen.port = 1
    with pytest.raises(ValidationError):
        Settings(prot=1)  # type: ignore[call-arg] # as above


def test_threads_are_the_quota_divided_by_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.settings.cpu_quota", lambda: 8)
    assert Settings(workers=3).thread_count == 2
    assert Settings(workers=16).thread_count == 1
    assert Settings(workers="auto").worker_count == 8
    assert Settings(workers="auto").thread_count == 1
    assert Settings(workers=3, threads=5).thread_count == 5


@pytest.mark.parametrize(
    ("name", "least", "too_little"),
    [
        ("port", "0", "-1"),
        ("workers", "1", "0"),
        ("threads", "1", "0"),
        ("body_limit_bytes", "1", "0"),
        ("rows_limit", "1", "0"),
        ("elements_limit", "1", "0"),
        ("json_depth_limit", "3", "2"),
        ("request_timeout_s", "0.001", "0"),
        ("feedback_ttl_s", "0.001", "0"),
        ("feedback_rows_limit", "1", "0"),
        ("keep_alive_s", "1", "0"),
        ("drain_delay_s", "0", "-0.1"),
        ("watch_interval_s", "0", "-0.1"),
        ("cache_limit_bytes", "1", "0"),
        ("drain_timeout_s", "0.001", "0"),
        ("access_log", "0", "-0.1"),
        ("trace_ratio", "0", "-0.1"),
        ("decision_log_ratio", "0", "1.1"),
        ("decision_log_limit_bytes", "1", "0"),
    ],
)
def test_each_number_has_a_least_value(name: str, least: str, too_little: str) -> None:
    assert float(getattr(read({name: least}, environ={}).settings, name)) == float(least)
    for bad in (too_little, "", "much", "inf", "nan"):
        with pytest.raises(StartError) as caught:
            read({name: bad}, environ={})
        assert str(caught.value) == f"{flag_of(name)}: expected {expected_of(name)}, got {bad!r}"


@pytest.mark.parametrize("name", ["provider", "log_level", "log_format", "decision_log_hash"])
def test_each_choice_is_taken_and_listed(name: str) -> None:
    choices = get_args(Settings.model_fields[name].annotation)
    for choice in choices:
        assert getattr(read({name: choice}, environ={}).settings, name) == choice
        assert choice in expected_of(name)
    with pytest.raises(StartError):
        read({name: choices[0].upper()}, environ={})


@pytest.mark.parametrize("url", ["", "http://collector:4318", "https://host/v1/traces", "http://[::1]:4318/"])
def test_traces_go_to_a_url_of_http(url: str) -> None:
    assert Settings(trace_endpoint=url).trace_endpoint == url


@pytest.mark.parametrize(
    "url", ["http://me:hidden@host", "https://host/?key=hidden", "grpc://hidden:4317", "http:///hidden"]
)
def test_no_url_of_traces_carries_or_shows_credentials(url: str) -> None:
    with pytest.raises(StartError) as caught:
        read({"trace_endpoint": url}, environ={})
    assert str(caught.value).startswith("--trace-endpoint: expected an http:// or https:// URL")
    assert "hidden" not in str(caught.value)


# The admin key


def test_the_admin_key_is_shown_nowhere() -> None:
    chosen = read({"admin_key": "correct-horse"}, environ={}).settings
    assert "correct-horse" not in f"{chosen!r} {chosen} {chosen.model_dump(mode='json')}"


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket",
        "s3://bucket/heads/v1",
        "gs://bucket/a-b",
        "az://container/heads",
        "abfs://container@account.dfs.core.windows.net/heads",
        "file:///srv/heads",
        "http://host:9000/heads",
    ],
)
def test_models_may_lie_at_a_url(url: str) -> None:
    assert Settings(models=url).models == url


@pytest.mark.parametrize("folder", ["models", "/srv/models", "./a:b/c", "C", "a//b", "s3"])
def test_everything_else_is_a_folder(folder: str) -> None:
    assert Settings(models=folder).models == Path(folder)


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:hidden@bucket/heads",
        "https://host/heads?sig=hidden",
        "http://u:1@host/hidden",
        "s3:/hidden",
        "az://container/heads#hidden",
        "s3://bucket/hid den",
    ],
)
def test_a_url_that_carries_credentials_is_refused_without_showing_them(url: str) -> None:
    with pytest.raises(StartError) as raised:
        read({"models": url}, environ={})
    assert str(raised.value).startswith("--models: expected a folder, or a URL without credentials")
    assert "hid" not in str(raised.value) or "://" not in url


@pytest.mark.parametrize("place", ["redis://redis", "redis://10.0.0.1:6379/3", "rediss://a.b.c:1/"])
def test_rows_may_wait_in_redis(place: str) -> None:
    assert Settings(feedback=place).feedback_place == place


@pytest.mark.parametrize(
    "place", ["redis://user:secret@redis:6379", "redis://:secret@redis", "http://redis", "redis://r/0?a=b"]
)
def test_credentials_and_other_urls_are_no_place_for_rows(place: str) -> None:
    with pytest.raises(ValidationError):
        Settings(feedback=place)


def test_rows_wait_in_a_file_by_port_unless_told_otherwise(tmp_path: Path) -> None:
    assert (
        Settings(run_dir=tmp_path, port=9000).feedback_place == tmp_path / "logitserve-feedback-9000.sqlite"
    )
    assert Settings(feedback="off").feedback_place is None
    assert read({"feedback": "rows.sqlite"}, environ={}).settings.feedback_place == Path("rows.sqlite")
