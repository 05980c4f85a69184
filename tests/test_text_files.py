"""Text and key files as people's editors, shells and key tools make them: read, or refused with what mends them."""

import ast
import codecs
import contextlib
import json
import os
import re
import ssl
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
from driving import PATIENCE_S
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.address import parse_broker
from broker.options import network_options
from broker.tls_files import tls_context
from mpsl.errors import UsageError
from mpsl.text_file import read_json, read_text, read_toml
from orchestrator.job_file import load_job
from orchestrator.plan_option import load_plan

JOB = """# Männer, 日本
[run]
name = "a"
rounds = 1
batch_size = 2
[model]
name = "mlp"
cuts = []
[optimizer]
name = "sgd"
lr = 0.1
[fleet]
devices = 1
nodes = 0
"""
READ = {
    "plain": JOB.encode(),
    "bom": codecs.BOM_UTF8 + JOB.encode(),
    "crlf": JOB.replace("\n", "\r\n").encode(),
    "cr": JOB.replace("\n", "\r").encode(),
    "bom-crlf": codecs.BOM_UTF8 + JOB.replace("\n", "\r\n").encode(),
    "no-newline-at-the-end": JOB.rstrip("\n").encode(),
    "utf-16": JOB.encode("utf-16"),
    "utf-16-le": codecs.BOM_UTF16_LE + JOB.encode("utf-16-le"),
    "utf-16-be": codecs.BOM_UTF16_BE + JOB.encode("utf-16-be"),
    "powershell": codecs.BOM_UTF16_LE + JOB.replace("\n", "\r\n").encode("utf-16-le"),
    "utf-32": JOB.encode("utf-32"),
}


@pytest.mark.parametrize("name", READ)
def test_a_job_is_read_as_editors_and_shells_write_it(name: str, tmp_path: Path) -> None:
    path, plain = tmp_path / "job.toml", tmp_path / "plain.toml"
    path.write_bytes(READ[name])
    plain.write_bytes(READ["plain"])
    assert load_job(path) == load_job(plain)
    assert read_text(path).rstrip("\n") == JOB.rstrip("\n")


def convert(error: str) -> bytes:
    """What the command in an error makes of the file."""
    command = re.search(r"iconv .*$", error)
    assert command is not None, error
    subprocess.run(command[0], shell=True, check=True, timeout=PATIENCE_S)
    target = re.search(r"> '(.*)'$", command[0])
    assert target is not None
    return Path(target[1]).read_bytes()


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "utf-16-be"])
def test_what_could_mean_several_things_is_refused_with_the_command_that_converts_it(
    encoding: str, tmp_path: Path
) -> None:
    text = JOB.replace(", 日本", "")
    path = tmp_path / "a job.toml"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(UsageError) as caught:
        load_job(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert convert(str(caught.value)).decode() == text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\3\4\0\0\0\0" * 9, "is not a text file: it holds null bytes"),
        (codecs.BOM_UTF8 + b"a = '\xfc'", "begins like UTF-8, but is damaged"),
        (codecs.BOM_UTF16_LE + b"a\0b", "begins like UTF-16, but is damaged"),
        ("[run]\nname = “a”\n".encode(), "line 2 has the typographic character '“' (U+201C) where \" may be meant"),
        ("[run]\nrounds\u00a0= 1\n".encode(), "line 2 has the typographic character '\\xa0' (U+00A0) where a space"),
        (b"a = " + b"[" * 5000, "is not TOML"),
        (b"a = " + b"1" * 5000, "is not TOML"),
    ],
)
def test_a_file_that_is_no_text_or_no_toml(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"^{re.escape(f'{path}: {says}')}|{re.escape(says)}"):
        read_toml(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(content)
    for read in (read_toml, read_json):
        with contextlib.suppress(UsageError):
            read(path)


def test_a_file_that_never_ends_is_refused() -> None:
    with pytest.raises(UsageError, match="/dev/zero: has more than 67108864 bytes"):
        read_text(Path("/dev/zero"))


def test_the_other_readers_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "options.toml"
    config.write_bytes(codecs.BOM_UTF16_LE + 'data = "x"\r\nnet = "lab"\r\n'.encode("utf-16-le"))
    found: dict[str, Any] = {}

    @click.command()
    @network_options
    @click.option("--data")
    def command(**options: Any) -> None:
        found.update(options)

    command.main(["--config", str(config)], "command", standalone_mode=False)
    assert (found["network"].topics.root, found["data"]) == ("mpsl/v1/lab", "x")
    plan = tmp_path / "plan.json"
    seat = {"stage": 1, "replica": 0, "node": "n", "blocks": [1, 2]}
    text = json.dumps({"cuts": [1, 2], "seats": [seat], "devices": {"d": [0]}, "admit": 1})
    plan.write_bytes(text.encode("utf-16"))
    assert load_plan(plan).cuts == (1, 2)
    password = tmp_path / "password"
    monkeypatch.setenv("MPSL_PASSWORD_FILE", str(password))
    for content in (b"s\xc3\xbc\xc3\x9f\r\n", codecs.BOM_UTF8 + "süß".encode(), "süß\r\n".encode("utf-16")):
        password.write_bytes(content)
        assert parse_broker("mqtt://me@there").password == "süß"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"s\xfc\xdf\n", "iconv -f LATIN1"),
        (b"", "is empty; it must hold the password"),
        (b"\r\n", "is empty"),
        (b"user\nsecret\n", "has 2 lines"),
    ],
)
def test_a_password_file_that_is_none(
    content: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = tmp_path / "password"
    password.write_bytes(content)
    monkeypatch.setenv("MPSL_PASSWORD_FILE", str(password))
    with pytest.raises(UsageError, match=says) as caught:
        parse_broker("mqtt://me@there")
    assert str(caught.value).startswith(f"$MPSL_PASSWORD_FILE = {password}: ")
    assert "secret" not in str(caught.value)


# Certificates and keys, made by the tool that people make them with


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem signs own.pem, whose key is own.key; the same in the formats that tools make of them."""
    directory = tmp_path_factory.mktemp("keys")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(directory, "req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "9")
    openssl(directory, "req", *new_key, "-keyout", "own.key", "-out", "own.csr", "-subj", "/CN=dev-1")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "9")
    openssl(directory, "x509", "-req", "-in", "own.csr", *signing, "-out", "own.pem")
    openssl(directory, "x509", "-in", "own.pem", "-outform", "DER", "-out", "own.der")
    openssl(directory, "x509", "-in", "ca.pem", "-outform", "DER", "-out", "ca.der")
    openssl(directory, "genrsa", "-out", "of-another-kind.key", "2048")
    openssl(directory, "pkey", "-in", "own.key", "-outform", "DER", "-out", "own-key.der")
    openssl(directory, "pkey", "-in", "own.key", "-aes256", "-passout", "pass:secret", "-out", "encrypted.key")
    openssl(directory, "ec", "-in", "own.key", "-aes256", "-passout", "pass:secret", "-out", "encrypted-old.key")
    pkcs12 = ("pkcs12", "-export", "-in", "own.pem", "-inkey", "own.key", "-passout", "pass:secret")
    openssl(directory, *pkcs12, "-out", "own.p12")
    openssl(directory, "crl2pkcs7", "-nocrl", "-certfile", "ca.pem", "-out", "ca.p7b")
    own, ca, key = ((directory / name).read_bytes() for name in ("own.pem", "ca.pem", "own.key"))
    (directory / "chain.pem").write_bytes(own + ca)
    (directory / "wrong-chain.pem").write_bytes(ca + own)
    (directory / "both.pem").write_bytes(own + key)
    (directory / "crlf.pem").write_bytes(own.replace(b"\n", b"\r\n"))
    (directory / "bom.pem").write_bytes(codecs.BOM_UTF8 + own)
    (directory / "utf16.pem").write_bytes(own.decode().encode("utf-16"))
    (directory / "empty.pem").write_bytes(b"")
    (directory / "ssh.key").write_bytes(
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
    )
    return directory


def context(keys: Path, ca: str | None, cert: str | None = None, key: str | None = None) -> ssl.SSLContext:
    return tls_context(*(None if name is None else str(keys / name) for name in (ca, cert, key)))


@pytest.mark.parametrize(
    ("ca", "cert", "key"),
    [
        ("ca.pem", None, None),
        ("ca.pem", "own.pem", "own.key"),
        ("ca.pem", "chain.pem", "own.key"),
        ("ca.pem", "both.pem", None),
        ("crlf.pem", "crlf.pem", "own.key"),
        (None, "own.pem", "both.pem"),
    ],
)
def test_certificates_and_keys_that_are_read(keys: Path, ca: str | None, cert: str | None, key: str | None) -> None:
    assert context(keys, ca, cert, key).verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("ca", "cert", "key", "says"),
    [
        ("ca.pem", "own.pem", "encrypted.key", "--key {}/encrypted.key: the key is encrypted"),
        ("ca.pem", "own.pem", "encrypted-old.key", "--key {}/encrypted-old.key: the key is encrypted"),
        ("ca.pem", "wrong-chain.pem", "own.key", "cat own.pem intermediate.pem > chain.pem"),
        ("ca.pem", "own.pem", "ca.key", "certificate and key do not match"),
        ("ca.pem", "own.pem", "of-another-kind.key", "certificate and key do not match"),
        ("ca.pem", "own.key", "own.pem", "holds no certificate but a private key; is it the file for --key?"),
        ("ca.pem", "own.pem", None, "--cert {}/own.pem: holds no private key; name its file with --key"),
        ("ca.pem", "own.pem", "own.pem", "--key {}/own.pem: holds no private key"),
        ("ca.pem", "own.key", "own.key", "--cert {}/own.key: holds no certificate"),
        ("ca.pem", "own.csr", "own.key", "--cert {}/own.csr: is a certificate request"),
        (
            "ca.pem",
            "own.p12",
            None,
            "--cert {}/own.p12: is a PKCS#12 file; take certificate and key out of it: openssl",
        ),
        ("ca.pem", "own.pem", "ssh.key", "convert it: ssh-keygen -p -m PEM -f '{}/ssh.key'"),
        ("ca.pem", "bom.pem", "own.key", "--cert {}/bom.pem: begins with a byte order mark"),
        ("utf16.pem", None, None, "--ca {}/utf16.pem: is UTF-16"),
        ("ca.der", None, None, "--ca {}/ca.der: is DER, not PEM; convert it: openssl x509"),
        ("ca.pem", "own.pem", "own-key.der", "--key {}/own-key.der: is DER, not PEM; convert it: openssl pkey"),
        ("ca.p7b", None, None, "--ca {}/ca.p7b: is a PKCS#7 file"),
        ("empty.pem", None, None, "--ca {}/empty.pem: holds no certificate"),
        ("missing.pem", None, None, "--ca {}/missing.pem: No such file or directory"),
        ("ca.pem", "own.pem", ".", "--key {}: Is a directory"),
    ],
)
def test_files_that_openssl_cannot_use_are_named_with_what_mends_them(
    keys: Path, ca: str, cert: str | None, key: str | None, says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        context(keys, ca, cert, key)
    assert says.format(keys) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "mended"),
    [
        (("ca.pem", "own.pem", "own-key.der"), ("ca.pem", "own.pem", "own-key.der.pem")),
        (("ca.der", None, None), ("ca.der.pem", None, None)),
        (("ca.p7b", None, None), ("ca.p7b.pem", None, None)),
        (("utf16.pem", None, None), ("utf16.pem.pem", None, None)),
        (("ca.pem", "bom.pem", "own.key"), ("ca.pem", "bom.pem", "own.key")),
        (("ca.pem", "own.pem", "encrypted.key"), ("ca.pem", "own.pem", "encrypted.key.plain")),
        (("ca.pem", "own.p12", None), ("ca.pem", "own.p12.pem", None)),
    ],
)
def test_the_command_in_the_error_mends_the_file(
    keys: Path, arguments: tuple[str, str | None, str | None], mended: tuple[str, str | None, str | None]
) -> None:
    content = (keys / "bom.pem").read_bytes()
    with pytest.raises(UsageError) as caught:
        context(keys, *arguments)
    command = str(caught.value).rpartition("it: ")[2]
    for program in ("pkey -in", "pkcs12 -in"):  # a person types the passphrase
        command = command.replace(program, program.replace(" -in", " -passin pass:secret -in"))
    subprocess.run(command, shell=True, check=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL, env=dict(os.environ))
    assert context(keys, *mended) is not None
    (keys / "bom.pem").write_bytes(content)


def test_text_files_are_read_and_written_as_utf_8_whatever_the_environment_says() -> None:
    found = []
    for package in ("mpsl", "broker", "device_agent", "compute_node", "orchestrator", "benchmarks"):
        for path in sorted((Path(__file__).parents[1] / package).rglob("*.py")):
            calls = (node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call))
            found += [f"{path.name}:{call.lineno}" for call in calls if _depends_on_the_locale(call)]
    assert found == []


def _depends_on_the_locale(call: ast.Call) -> bool:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if {"text", "universal_newlines"} & keywords.keys():
        return True
    match call.func:
        case ast.Attribute(attr="read_text" | "write_text"):
            return True
        case ast.Name(id="open"):
            mode = call.args[1] if len(call.args) > 1 else keywords.get("mode")
        case ast.Attribute(value=value, attr="open") if not isinstance(value, ast.Name) or value.id not in (
            "os",
            "self",
        ):
            mode = call.args[0] if call.args else keywords.get("mode")
        case _:
            return False
    return not (isinstance(mode, ast.Constant) and "b" in str(mode.value))
