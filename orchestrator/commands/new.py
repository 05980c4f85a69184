"""`mpsl new`: writes a first job, which explains every key and gives its default."""

import re
from pathlib import Path

import click

from mpsl.errors import UsageError

TEMPLATE = """\
# A job of MP-SL. `mpsl check {file}` says whether it is sound, `mpsl train {file} --out DIR` runs it.
# Keys without a value here are chosen by the orchestrator when they are left out. Unknown keys are refused.

[run]
name = "{name}"               # required; a-z, 0-9 and '-', at most 24. The run is called {name}-<six hex digits>
rounds = 10                   # required; each ends with an average of all devices' weights
batch_size = 32               # required; samples of one optimizer step on one device
local_epochs = 1              # passes over its own samples that a device makes in a round
micro_batches = 1             # pieces of a batch that travel one by one; still one step a batch
seed = 0                      # fixes initial weights, order of samples, dropout
shuffle = true                # false: the samples in the order of the shard
algorithm = "splitfed-v1"     # how the devices' weights become one: FedAvg, weighted by samples, of every part
evaluate_every = 1            # rounds between two evaluations; the last round is always evaluated
deterministic = false         # true: updates are added in the roster's order, so that two runs give the same weights,
                              # bit for bit; a device that is ready early then waits for the ones before it

[model]
name = "digits-cnn"           # required; `mpsl models` shows all. Or package.module:function (docs/models.md)
args = {{ num_classes = 10, in_channels = 1, image_size = 8, dropout = 0.1 }}
cuts = [2, 5, 8]              # device: blocks 0-1 and 8 to the end, hop 1: 2-4, hop 2: 5-7. [] means no hops.
                              # Left out: the device keeps first and last block, the rest is planned from measured times
                              # Names of modules also do: cuts = ["layer2", "fc"]; `mpsl models show` lists them
# input = {{ shape = [3, 32, 32], dtype = "float32" }}    # of a function's model: one sample; int64 for tokens
# weights = "start.safetensors" # start from these; names as in the model's state dict
strict = true                 # false: what the file lacks or has in another shape keeps its initial values
train = []                    # parameters that train, by glob: ["head.*", "*.bias"]; empty: all
freeze = []                   # parameters that do not: one copy at a node, sent once, no optimizer state

[optimizer]
name = "sgd"                  # required; sgd, adam, adamw or rmsprop. Starts afresh in every round
lr = 0.05                     # required
momentum = 0.0                # of sgd and rmsprop
weight_decay = 0.0
nesterov = false              # of sgd with momentum
dampening = 0.0               # of sgd with momentum

[schedule]
name = "constant"             # of the learning rate: constant, step, cosine or linear
by = "round"                  # "batch": it changes with every batch
warmup_rounds = 0.0           # it rises linearly for so long; may be a fraction
end = 0.0                     # of cosine and linear: the share of lr that is left at the end
step_rounds = 10              # of step: every so many rounds
gamma = 0.1                   # of step: it is multiplied by this

[wire]
activations = "fp32"          # codec of what travels forward; fp32 is exact, fp16 and bf16 halve the bytes
gradients = "fp32"            # codec of what travels back
chunk_bytes = 1064960         # bytes of one MQTT message; less if the broker's limit is lower
weights = "fp32"              # codec of the devices' parts, both ways: fp16, or int8 for the changes

[fleet]
devices = 4                   # required; the run starts when this many are online
nodes = 2                     # required; at least the hops. Without cuts it is the number of hops; more are standbys
replicas = 1                  # of every stage, each for some of the devices; nodes = hops × replicas
# quorum = 4                  # devices that a round needs, so that it can go on without the others; left out: all
# admit = 2                   # devices in their round at once, which bounds the memory of a node; left out: chosen
# round_timeout_s = 600.0     # slower devices are left out of the round; left out: set by the observed pace
start_timeout_s = 300.0       # how long to wait for devices and nodes
patience_s = 600.0            # how long a run that has begun waits for a node, a quorum, the broker or room on the disk
grace_s = 10.0                # how long the broker's word that someone is lost is doubted: it may reconnect
standby_after_s = 2.5         # how long a lost node has to come back before a standby takes its seat
silence_s = 30.0              # how old the last sign of life of a device or node may be; longer on slow links
stall_s = 90.0                # how long loading and closing may go without any progress; longer on slow links
expected_failure_s = 3600.0   # the time between two faults, before any are seen; sets how often a long round is saved
# elastic = false             # without cuts: nodes that join later get no seats, even if rounds would be shorter
join = "open"                 # "closed": devices that appear during the run do not take part

[security]
# require = "tls"             # nobody takes part who is connected to the broker in the clear, on another machine
"""


@click.command("new")
@click.argument("job", type=click.Path(path_type=Path), metavar="JOB.toml")
def new(*, job: Path) -> None:
    """Write a commented job to JOB.toml, which must not exist yet."""
    write_new(job, template(job))
    click.echo(f"{job}: ready to be changed; then `mpsl check {job}`")


def write_new(path: Path, text: str) -> None:
    """Write a file that must not exist yet. Raises UsageError if it does, or if it cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} already exists; choose another name, or remove it") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def template(job: Path) -> str:
    """Return the text of a new job. Its run is named after the file if the characters allow it."""
    name = re.sub("[^a-z0-9]+", "-", job.stem.lower()).strip("-")[:24].strip("-")
    return TEMPLATE.format(file=job.name, name=name or "job")
