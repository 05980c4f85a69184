"""JOB.toml as facts: the contract's defaults, and every mistake refused with its place and what would be right."""

import copy
import tomllib
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from mpsl import facts
from mpsl.errors import UsageError
from mpsl.job import FleetSection, Job, ModelSection, OptimizerSection, RunSection, WireSection, read_job
from mpsl.link.channel import CHUNK_BYTES

LEAST = tomllib.loads("""
[run]
name = "digits"
rounds = 3
batch_size = 32
[model]
name = "digits-cnn"
[optimizer]
name = "sgd"
lr = 0.05
[fleet]
devices = 4
nodes = 2
""")


def with_values(**values: Any) -> dict[str, Any]:
    """The least job with some values more or other; `run__rounds=5` sets rounds of [run], `...` takes a key out."""
    data = copy.deepcopy(LEAST)
    for path, value in values.items():
        section, _, key = path.partition("__")
        if not key:
            data[section] = value
        elif value is ...:
            del data[section][key]
        else:
            data.setdefault(section, {})[key] = value
    return data


def refusal(**values: Any) -> str:
    with pytest.raises(UsageError) as caught:
        read_job(with_values(**values), "JOB.toml")
    text = str(caught.value)
    assert text.startswith("JOB.toml: "), text
    return text


def test_every_default_of_the_contract() -> None:
    job = read_job(LEAST, "JOB.toml")
    assert job == Job(
        RunSection("digits", 3, 32, 1, 1, 0, True, "splitfed-v1", 1, False),
        ModelSection("digits-cnn", {}, None),
        OptimizerSection("sgd", 0.05, 0.0, 0.0),
        FleetSection(4, 2, None, None, None, 300.0),
        WireSection("fp32", "fp32", CHUNK_BYTES),
    )
    assert job.hops == 2
    assert job.quorum == 4, "everybody"


def test_every_key_of_the_contract() -> None:
    job = read_job(
        {
            "run": {
                "name": "a-1", "rounds": 1, "batch_size": 1, "local_epochs": 2, "micro_batches": 3, "seed": 4,
                "shuffle": False, "algorithm": "other", "evaluate_every": 5,
                "deterministic": True,
            },
            "model": {"name": "mlp", "args": {"hidden": [3, 4], "dropout": 0.5}, "cuts": [1, 3]},
            "optimizer": {"name": "sgd", "lr": 1, "momentum": 0.9, "weight_decay": 1e-4},
            "wire": {"activations": "fp16", "gradients": "bf16", "chunk_bytes": 98304},
            "fleet": {"devices": 3, "nodes": 5, "quorum": 2, "admit": 1, "round_timeout_s": 9, "start_timeout_s": 8.5},
        },
        "JOB.toml",
    )  # fmt: skip
    assert job.model.cuts == (1, 3)
    assert job.hops == 1
    assert job.quorum == 2
    assert job.run.deterministic
    assert isinstance(job.optimizer.lr, float)
    assert read_job(facts.plain(job), "again") == job, "it travels in the plan and comes back"


@pytest.mark.parametrize("key", ["run", "model", "optimizer", "fleet"])
def test_missing_sections(key: str) -> None:
    data = {name: section for name, section in LEAST.items() if name != key}
    with pytest.raises(UsageError, match=f"JOB.toml: .*`{key}`"):
        read_job(data, "JOB.toml")


@pytest.mark.parametrize(
    "path",
    [
        "run__name",
        "run__rounds",
        "run__batch_size",
        "model__name",
        "optimizer__name",
        "optimizer__lr",
        "fleet__devices",
    ],
)
def test_missing_keys(path: str) -> None:
    section, _, key = path.partition("__")
    text = refusal(**{path: ...})
    assert section in text
    assert key in text


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("run__round", "rounds"),
        ("run__batchsize", "batch_size"),
        ("run__local_epoch", "local_epochs"),
        ("model__cut", "cuts"),
        ("model__arguments", "args"),
        ("optimizer__weigth_decay", "weight_decay"),
        ("fleet__device", "devices"),
        ("wire__activation", "activations"),
        ("runs", "run"),
        ("optimiser", "optimizer"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(path: str, nearest: str) -> None:
    text = refusal(**{path: 1})
    section, _, key = path.partition("__")
    assert f"unknown key {(key or section)!r}; did you mean {nearest!r}?" in text
    assert not key or section in text


def test_a_key_like_none_lists_all() -> None:
    assert "known: activations, chunk_bytes, gradients" in refusal(wire__zzz=1)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("run__rounds", "3"),
        ("run__rounds", 3.0),
        ("run__rounds", True),
        ("run__shuffle", 1),
        ("run__deterministic", 0),
        ("run__deterministic", "true"),
        ("run__name", 5),
        ("run", []),
        ("run", "text"),
        ("model__args", [1]),
        ("model__cuts", "2,5"),
        ("model__cuts", [2, "5"]),
        ("model__cuts", [2.0, 5]),
        ("optimizer__lr", "0.1"),
        ("optimizer__name", "sgdd"),
        ("fleet__round_timeout_s", "long"),
        ("wire__activations", 16),
    ],
)
def test_wrong_types_are_not_coerced(path: str, value: Any) -> None:
    section, _, key = path.partition("__")
    assert f"{section}.{key}".rstrip(".") in refusal(**{path: value})


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("run__rounds", 0, "rounds = 0 must be at least 1"),
        ("run__batch_size", -1, "batch_size = -1 must be at least 1"),
        ("run__local_epochs", 0, "local_epochs = 0 must be at least 1"),
        ("run__micro_batches", 0, "micro_batches = 0 must be at least 1"),
        ("run__evaluate_every", 0, "evaluate_every = 0 must be at least 1"),
        ("run__seed", -1, "seed = -1 must be from 0 to"),
        ("run__seed", 2**63, "must be from 0 to"),
        ("run__name", "", "name = '' must be 1 to 24"),
        ("run__name", "Digits", "'Digits' must be 1 to 24"),
        ("run__name", "a/b", "'a/b' must be 1 to 24"),
        ("run__name", "a\n", "must be 1 to 24"),
        ("run__name", "d" * 25, "must be 1 to 24"),
        ("optimizer__lr", 0, "lr = 0"),
        ("optimizer__lr", -0.1, "lr = -0.1 must be a positive number"),
        ("optimizer__lr", float("inf"), "lr = inf must be a positive number"),
        ("optimizer__lr", float("nan"), "lr = nan must be a positive number"),
        ("optimizer__momentum", 1.0, "momentum = 1.0 must be at least 0 and below 1"),
        ("optimizer__momentum", float("nan"), "momentum = nan"),
        ("optimizer__weight_decay", -1e-9, "weight_decay = -1e-09"),
        ("wire__chunk_bytes", 4095, "chunk_bytes = 4095 must be from 4096"),
        ("wire__chunk_bytes", 2**27, "must be from 4096 to 67108864"),
        ("fleet__devices", 0, "devices = 0 must be at least 1"),
        ("fleet__nodes", -1, "nodes = -1 must be at least 0"),
        ("fleet__quorum", 0, "quorum = 0 must be at least 1"),
        ("fleet__quorum", 5, "quorum = 5 is more than devices = 4"),
        ("fleet__admit", 0, "admit = 0 must be at least 1"),
        ("fleet__round_timeout_s", 0, "round_timeout_s = 0"),
        ("fleet__start_timeout_s", -5.0, "start_timeout_s = -5.0 must be a positive number"),
    ],
)
def test_ranges(path: str, value: Any, says: str) -> None:
    text = refusal(**{path: value})
    assert says in text
    assert f"JOB.toml: {path.partition('__')[0]}" in text


def test_momentum_belongs_to_sgd() -> None:
    assert "momentum belongs to sgd" in refusal(optimizer={"name": "adam", "lr": 0.1, "momentum": 0.9})


@pytest.mark.parametrize(("cuts", "hops"), [([], 0), ([2, 5], 1), ([2, 5, 8], 2), (None, 2)])
def test_cuts_make_hops(cuts: list[int] | None, hops: int) -> None:
    job = read_job(with_values(**({} if cuts is None else {"model__cuts": cuts})), "JOB.toml")
    assert job.hops == hops


def test_cuts_that_make_no_sense_here() -> None:
    assert "one cut leaves no hop" in refusal(model__cuts=[3])
    assert "nodes = 2, but 4 cuts make 3 hops; name at least 3 nodes" in refusal(model__cuts=[1, 2, 3, 4])


@pytest.mark.parametrize("data", [None, [], "job", 5, {"run": None}, {1: 2}])
def test_no_job_at_all(data: object) -> None:
    with pytest.raises(UsageError, match=r"^JOB\.toml: "):
        read_job(data, "JOB.toml")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("wire__weights", "fp61", "wire.weights: unknown value 'fp61'; did you mean 'fp16'?"),
        ("wire__weights", "half", "wire.weights: unknown value 'half'; known: fp16, fp32, int8"),
    ],
)
def test_a_value_that_is_none_of_several_is_refused_with_the_nearest_or_all(path: str, value: str, says: str) -> None:
    assert says in refusal(**{path: value})


@dataclass(frozen=True)
class Lamp:
    color: Literal["red", "green"]
    size: Literal["big", "small"] | None = None


@dataclass(frozen=True)
class Lamps:
    listed: tuple[Lamp, ...] = ()
    named: dict[str, Lamp] = field(default_factory=dict)
    colors: tuple[Literal["red", "green"], ...] = ()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"listed": [{"color": "red"}, {"color": "gren"}]}, "listed[1].color: unknown value 'gren'; did you mean"),
        ({"named": {"a": {"color": "blue"}}}, "known: green, red"),
        (
            {"listed": [{"color": "red", "size": "huge"}]},
            "listed[0].size: unknown value 'huge'; known: big, small",
        ),
        ({"colors": ["blue"]}, "colors[0]: unknown value 'blue'; known: green, red"),
    ],
)
def test_it_does_not_matter_where_the_value_stands(data: object, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        facts.read(Lamps, data, "FILE")
    assert says in str(caught.value)
