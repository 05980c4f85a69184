"""Where the broker is: what URLs, options and the environment say, and how mistakes are refused."""

from pathlib import Path

import pytest

from broker.address import BrokerAddress, parse_broker
from mpsl.errors import UsageError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPSL_BROKER", raising=False)
    monkeypatch.delenv("MPSL_PASSWORD_FILE", raising=False)


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "user"),
    [
        (None, "127.0.0.1", 1883, False, None),
        ("mqtt://broker", "broker", 1883, False, None),
        ("mqtts://broker", "broker", 8883, True, None),
        ("mqtt://broker:1234", "broker", 1234, False, None),
        ("mqtts://dev-1@broker.example:99", "broker.example", 99, True, "dev-1"),
        ("mqtt://broker/", "broker", 1883, False, None),
        ("mqtt://[::1]:1884", "::1", 1884, False, None),
        ("mqtt://me%40home@broker", "broker", 1883, False, "me@home"),
    ],
)
def test_urls(url: str | None, host: str, port: int, tls: bool, user: str | None) -> None:
    address = parse_broker(url)
    assert (address.host, address.port, address.tls, address.user) == (host, port, tls, user)
    assert address.password is None
    assert address.version == "5"
    assert parse_broker(address.shown) == BrokerAddress(host, port, tls), "what is shown can be given"


def test_the_environment_names_the_broker_where_no_option_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPSL_BROKER", "mqtt://there:7")
    assert parse_broker(None).port == 7
    assert parse_broker("mqtt://here:8").port == 8


@pytest.mark.parametrize(
    "url",
    [
        "broker", "broker:1883", "http://broker", "mqtt://", "mqtt://:1883", "mqtt://broker:port", "mqtt://broker:0",
        "mqtt://broker:70000", "mqtt://broker:-1", "mqtt://[::1", "mqtt://broker/path", "mqtt://broker?a=b",
        "mqtt://broker#c", "//broker", "mqtt://broker\udcff", f"mqtt://{'a' * 64}.example", "mqtt://a..example",
    ],
)  # fmt: skip
def test_bad_urls_are_refused_with_the_right_form(url: str) -> None:
    with pytest.raises(UsageError, match=r"--broker.*mqtt://\[user@\]host\[:port\]"):
        parse_broker(url)


@pytest.mark.parametrize("url", ["mqtt://me:secret@broker", "http://me:secret@broker", "mqtts://me:secret@broker/x"])
def test_a_password_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match=r"\$MPSL_PASSWORD_FILE") as caught:
        parse_broker(url)
    assert "secret" not in str(caught.value)


def test_the_password_comes_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("a secret \n")
    monkeypatch.setenv("MPSL_PASSWORD_FILE", str(file))
    address = parse_broker("mqtt://me@broker")
    assert address.password == "a secret "
    assert "a secret" not in repr(address) + address.shown
    with pytest.raises(UsageError, match="names no user: mqtt://user@host"):
        parse_broker("mqtt://broker")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=f"MPSL_PASSWORD_FILE = {file}: "):
        parse_broker("mqtt://me@broker")
    monkeypatch.setenv("MPSL_PASSWORD_FILE", str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="missing: cannot be read: No such file"):
        parse_broker("mqtt://me@broker")


def test_tls_files_go_with_tls(tmp_path: Path) -> None:
    for options in ({"ca": "ca.crt"}, {"cert": "me.crt"}, {"cert": "me.crt", "key": "me.key"}):
        with pytest.raises(UsageError, match="--ca, --cert and --key go with mqtts://"):
            parse_broker("mqtt://broker", **options)
    with pytest.raises(UsageError, match="--key goes with --cert"):
        parse_broker("mqtts://broker", key="me.key")
    assert parse_broker("mqtt://broker").context() is None
    assert parse_broker("mqtts://broker").context() is not None
    (tmp_path / "ca.crt").write_text("no certificate")
    for ca in ("ca.crt", "missing.crt"):
        with pytest.raises(UsageError, match=f"--ca {tmp_path / ca}"):
            parse_broker("mqtts://broker", ca=str(tmp_path / ca)).context()


@pytest.mark.parametrize(
    "url",
    ["mqtt://127.0.0.1", "mqtt://[::1]:1884", "mqtts://a%40b%2F@broker.example:18883", "mqtt://dev-1@broker.example"],
)
def test_its_options_lead_another_command_to_the_same_broker(url: str, tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("ca", "cert", "key")} if url.startswith("mqtts") else {}
    address = parse_broker(url, **files, version="3.1.1")
    options = dict(zip(address.options[::2], address.options[1::2], strict=True))
    again = parse_broker(
        options["--broker"],
        options.get("--ca"),
        options.get("--cert"),
        options.get("--key"),
        options["--mqtt"],  # type: ignore[arg-type]
    )
    assert again == address
