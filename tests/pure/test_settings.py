"""Settings: defaults, what is refused, and what the sentence says."""

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server import bind
from server.settings import Settings, SettingsError, table

SECRET = "s" * 32


def refusal(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ(environ)
    return str(caught.value)


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_environ({}) == Settings()
    assert Settings().web_concurrency == 4
    assert Settings().runtime_dir == Path(f"/tmp/kernelring-{os.getuid()}")
    assert Settings().jwt_secret is None


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.from_environ({row.variable: " " for row in table()}) == Settings()


def test_each_field_is_one_variable_and_each_variable_once() -> None:
    variables = [row.variable for row in table()]
    assert len(set(variables)) == len(variables) == len(dataclasses.fields(Settings))
    for name, row in zip((each.name for each in dataclasses.fields(Settings)), table(), strict=True):
        assert row.variable.removeprefix("KERNELRING_").lower() == name


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_given_values_are_read() -> None:
    settings = Settings.from_environ(
        {
            "REDIS_URL": "rediss://:pw@redis.example:6380/2",
            "PORT": "9000",
            "KERNELRING_NOTEBOOKS": "books",
            "KERNELRING_KERNEL_ENV": "LANG, TZ,",
            "KERNELRING_ALLOW_ORIGIN": "https://a.example, http://127.0.0.1:8080 https://a.example,http://[::1]:1",
            "KERNELRING_LOG_FORMAT": "JSON",
            "KERNELRING_SESSION_HOURS": "0.5",
        }
    )
    assert settings.redis_url == "rediss://:pw@redis.example:6380/2"
    assert settings.port == 9000
    assert settings.notebooks == Path.cwd() / "books"
    assert settings.kernel_env == ("LANG", "TZ")
    assert settings.allow_origin == ("https://a.example", "http://127.0.0.1:8080", "http://[::1]:1")
    assert settings.log_format == "json"
    assert settings.session_hours == 0.5


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "http"),
        ("PORT", "0"),
        ("PORT", "70000"),
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "65"),
        ("WEB_CONCURRENCY", "4.0"),
        ("WEB_CONCURRENCY", "٤"),
        ("KERNELRING_GUESTS", "yes"),
        ("KERNELRING_LEASE_S", "nan"),
        ("KERNELRING_LEASE_S", "inf"),
        ("KERNELRING_BEAT_S", "-1"),
        ("KERNELRING_JWKS_URL", "file:///etc/keys"),
        ("KERNELRING_LOG_LEVEL", "loud"),
        ("KERNELRING_LOG_FORMAT", "xml"),
        ("KERNELRING_KERNEL_ENV", "A B"),
        ("KERNELRING_KERNEL_ENV", "REDIS_URL"),
        ("KERNELRING_KERNEL_ENV", "LANG,KERNELRING_JWT_SECRET"),
        ("KERNELRING_KERNEL_ENV", "JPY_PARENT_PID"),
        ("KERNELRING_ALLOW_ORIGIN", "*"),
        ("KERNELRING_ALLOW_ORIGIN", "null"),
        ("KERNELRING_ALLOW_ORIGIN", "https://*.school.example"),
        ("KERNELRING_ALLOW_ORIGIN", "https://school.example/"),
        ("KERNELRING_ALLOW_ORIGIN", "https://School.example"),
        ("KERNELRING_ALLOW_ORIGIN", "https://school.example:443"),
        ("KERNELRING_ALLOW_ORIGIN", "http://school.example:80000"),
        ("KERNELRING_ALLOW_ORIGIN", "https://a@school.example"),
        ("KERNELRING_ALLOW_ORIGIN", "https://good.example school.example"),
        ("KERNELRING_RUNTIME_DIR", "/run/\0"),
        ("KERNELRING_NOTEBOOKS", "~nobody-of-that-name/x"),
    ],
)
def test_a_bad_value_is_named_with_its_variable_in_one_line(variable: str, value: str) -> None:
    sentence = refusal(**{variable: value})
    assert sentence.startswith(f"{variable}={value!r}: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize("value", ["http://host", "redis://", "redis://u:hunter2@h:p/w", "redis://[hunter2", "hunter2"])
def test_a_bad_redis_url_is_refused_without_showing_its_password(value: str) -> None:
    sentence = refusal(REDIS_URL=value)
    assert sentence.startswith("REDIS_URL=(not shown): ")
    assert "hunter2" not in sentence


@pytest.mark.parametrize("variable", ["KERNELRING_JWT_SECRET", "KERNELRING_SESSION_SECRET"])
def test_a_short_secret_is_refused_by_its_length_alone(variable: str) -> None:
    sentence = refusal(**{variable: "hunter2"})
    assert sentence == f"{variable}=(not shown): it is 7 bytes long and must have at least 32."


def test_a_repr_shows_no_secret() -> None:
    settings = Settings(redis_url="redis://:hunter2@h", jwt_secret="hunter2", session_secret="hunter2")
    assert "hunter2" not in repr(settings)


def test_a_lease_of_less_than_two_beats_is_refused() -> None:
    assert "KERNELRING_LEASE_S=1" in refusal(KERNELRING_LEASE_S="1", KERNELRING_BEAT_S="0.8")


def test_guests_need_a_secret_that_signs_their_tokens() -> None:
    assert "KERNELRING_JWT_SECRET" in refusal(KERNELRING_GUESTS="1")
    assert Settings.from_environ({"KERNELRING_GUESTS": "1", "KERNELRING_JWT_SECRET": SECRET}).guests


@given(st.sampled_from([row.variable for row in table()]), st.text(max_size=60))
def test_any_text_is_either_read_or_refused_in_one_line(variable: str, text: str) -> None:
    sentence = variable
    try:
        Settings.from_environ({variable: text})
    except SettingsError as problem:
        sentence = str(problem)
    assert variable in sentence
    assert sentence.isprintable()


def test_the_server_listens_on_loopback_only_by_default() -> None:
    listening = bind.addresses(Settings(port=8001))
    assert "127.0.0.1:8001" in listening
    assert all(bind.is_loopback(bind.host_of(each)) for each in listening)


def test_trusting_everyone_opens_all_interfaces() -> None:
    (listening,) = bind.addresses(Settings(unconfined=True))
    assert listening in {"[::]:8000", "0.0.0.0:8000"}


@pytest.mark.parametrize(
    "address", ["0.0.0.0:8000", "[::]:8000", "10.1.2.3:80", "::", "example.org:80", "fd://3", ":80"]
)
def test_other_machines_are_refused_while_kernels_are_not_confined(address: str) -> None:
    with pytest.raises(SettingsError) as caught:
        bind.addresses(Settings(bind=("127.0.0.1:1", address)))
    assert "KERNELRING_BIND=" in str(caught.value)
    assert "not confined" in str(caught.value)
    assert "KERNELRING_UNCONFINED=1" in str(caught.value)
    assert bind.addresses(Settings(bind=(address,), unconfined=True))


@pytest.mark.parametrize(
    "settings",
    [Settings(bind=("0.0.0.0:1",), unconfined=True, guests=True), Settings(unconfined=True, guests=True)],
)
def test_guests_are_refused_from_other_machines_even_so(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="KERNELRING_GUESTS=1"):
        bind.addresses(settings)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("localhost", "localhost:8000"),
        ("127.0.0.2:81", "127.0.0.2:81"),
        ("::1", "[::1]:8000"),
        ("[::1]", "[::1]:8000"),
        ("[::1]:82", "[::1]:82"),
        ("unix:/run/k.sock", "unix:/run/k.sock"),
    ],
)
def test_an_address_without_a_port_gets_the_port(given: str, used: str) -> None:
    assert bind.addresses(Settings(bind=(given,))) == [used]
