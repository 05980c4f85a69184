"""The options that all commands share, --config with the same names, and how the command `mpsl` ends."""

from pathlib import Path
from typing import Any

import click
import pytest

from broker.command import mpsl, run
from broker.options import NetworkOptions, default_id, network_options, new_boot
from mpsl.errors import BrokerError, UsageError
from mpsl.names import check_id


def called(*arguments: str) -> dict[str, Any]:
    """What a command gets that takes the shared options and some of its own."""
    found: dict[str, Any] = {}

    @click.command()
    @network_options
    @click.option("--data", required=True)
    @click.option("--memory-budget")
    @click.option("--threads", type=click.IntRange(1))
    @click.option("--once", is_flag=True)
    @click.argument("job", required=False)
    def command(*, network: NetworkOptions, **rest: Any) -> None:
        """Take note."""
        found.update(network=network, **rest)

    command.main(list(arguments), "command", standalone_mode=False)
    return found


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPSL_BROKER", raising=False)
    monkeypatch.delenv("MPSL_PASSWORD_FILE", raising=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "mpsl.toml"


def test_defaults() -> None:
    network = called("--data", "x")["network"]
    assert network.address.shown == "mqtt://127.0.0.1:1883"
    assert network.topics.root == "mpsl/v1/main"
    assert (network.as_json, network.verbose, network.address.version) == (False, 0, "5")
    assert not network.named


def test_options_reach_the_network() -> None:
    network = called(
        "--data", "x", "--broker", "mqtts://me@there", "--net", "lab", "--mqtt", "3.1.1", "--json", "-vv"
    )["network"]  # fmt: skip
    assert network.address.shown == "mqtts://there:8883"
    assert network.named
    assert (network.address.user, network.address.version) == ("me", "3.1.1")
    assert network.topics.root == "mpsl/v1/lab"
    assert (network.as_json, network.verbose) == (True, 2)


def test_a_file_gives_options_of_the_same_names(config: Path) -> None:
    config.write_text(
        'broker = "mqtt://there:7"\nnet = "lab"\njson = true\nverbose = 1\ndata = "dev-1.npz"\nthreads = 2\n'
        'memory_budget = "1GiB"\nonce = true\ninsecure = true\n'
    )
    found = called("--config", str(config))
    network = found["network"]
    assert network.address.port == 7
    assert network.topics.root == "mpsl/v1/lab"
    assert (network.as_json, network.verbose) == (True, 1)
    assert (found["data"], found["threads"], found["memory_budget"], found["once"]) == ("dev-1.npz", 2, "1GiB", True)
    config.write_text('memory-budget = "2GiB"\ndata = "a"')
    assert called("--config", str(config))["memory_budget"] == "2GiB"


def test_the_command_line_goes_before_the_file_wherever_it_stands(config: Path) -> None:
    config.write_text('net = "lab"\ndata = "a"\nthreads = 3\n')
    for arguments in (("--net", "home", "--config", str(config)), ("--config", str(config), "--net", "home")):
        found = called(*arguments)
        assert found["network"].topics.root == "mpsl/v1/home"
        assert found["threads"] == 3


def test_the_file_goes_before_the_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPSL_BROKER", "mqtt://elsewhere")
    config.write_text('broker = "mqtts://there"\ndata = "a"')
    assert called("--config", str(config))["network"].address.host == "there"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("brokr = 'mqtt://there'", "unknown key 'brokr'; did you mean 'broker'?"),
        ("memory_budgte = '1GiB'", "unknown key 'memory_budgte'; did you mean 'memory-budget'?"),
        ("config = 'other.toml'", "unknown key 'config'"),
        ("v = 1", "unknown key 'v'"),
        ("as_json = true", "unknown key 'as_json'"),
        ("[device]\ndata = 'a'", "unknown key 'device'"),
        ("broker = ", "Invalid value"),
    ],
)
def test_mistakes_in_the_file(config: Path, text: str, says: str) -> None:
    config.write_text(text)
    with pytest.raises(UsageError) as caught:
        called("--config", str(config), "--data", "x")
    assert str(caught.value).startswith(f"--config {config}: ")
    assert says in str(caught.value)


def test_a_file_that_cannot_be_read(config: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--config {config}: cannot be read: No such file"):
        called("--config", str(config), "--data", "x")
    with pytest.raises(UsageError, match=f"--config {tmp_path}: cannot be read: Is a directory"):
        called("--config", str(tmp_path), "--data", "x")
    config.write_bytes('data = "Gerät"'.encode("latin-1"))
    with pytest.raises(UsageError, match=f"--config {config}: line 1: byte 0xe4 is not UTF-8"):
        called("--config", str(config), "--data", "x")


def test_a_value_of_the_wrong_type_in_the_file(config: Path) -> None:
    config.write_text('threads = "many"\ndata = "a"')
    with pytest.raises(click.BadParameter, match="many"):
        called("--config", str(config))


@pytest.mark.parametrize("net", ["", "Lab", "a/b", "+", "#", "a" * 33])
def test_a_net_is_an_id(net: str) -> None:
    with pytest.raises(UsageError, match="--net: "):
        called("--data", "x", "--net", net)


@pytest.mark.parametrize(
    ("host", "device", "node"),
    [
        ("Pi-4.local", "pi-4-device", "pi-4-node"),
        ("büro_pc", "b-ro-pc-device", "b-ro-pc-node"),
        ("a" * 50, f"{'a' * 25}-device", f"{'a' * 27}-node"),
        ("orch", "orch-device", "orch-node"),
        ("", "-device", "-node"),
    ],
)
def test_the_default_id_is_the_hosts_name_and_the_role(
    host: str, device: str, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.options.socket.gethostname", lambda: host)
    assert (default_id("device"), default_id("node")) == (device, node)
    assert check_id(device, "--id") != check_id(node, "--id")


def test_boots_differ() -> None:
    assert len({new_boot() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("error", "status"), [(UsageError, 2), (BrokerError, 1), (click.UsageError, 2), (click.Abort, 1)]
)
def test_exit_statuses(error: type[Exception], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def command() -> None:
        raise error("the reason") if error is not click.Abort else click.Abort

    assert run(with_no_arguments(command), "command") == status
    assert error is click.Abort or "the reason" in capsys.readouterr().err


def with_no_arguments(command: click.Command) -> click.Command:
    """The command as `run` calls it, blind to pytest's own command line."""
    main = command.main
    command.main = lambda **options: main([], **options)  # type: ignore[method-assign, assignment]
    return command


def test_a_commands_own_status_is_the_exit_status() -> None:
    assert run(with_no_arguments(click.Command("command", callback=lambda: 1)), "command") == 1
    assert run(with_no_arguments(click.Command("command", callback=lambda: None)), "command") == 0


def test_an_unknown_command_is_named_with_the_nearest() -> None:
    with pytest.raises(click.UsageError, match="unknown command 'devic'; did you mean 'device'"):
        mpsl.main(["devic"], "mpsl", standalone_mode=False)
