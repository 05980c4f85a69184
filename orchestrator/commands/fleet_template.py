"""The commented FLEET.toml that `mpsl plan --new` writes: every key with its default and its meaning.

An example that `mpsl plan` reads as it stands. A test compares it with the fields of `mpsl/planning/fleet.py`.
"""

FLEET_TEMPLATE = """\
# A fleet to plan for: `mpsl plan --profile PROFILE.json --fleet THIS_FILE`. docs/planner.md says what is made of it.
# Units: GiB = 2^30 bytes, mbps = 10^6 bit/s in each direction, MB/s = 10^6 bytes/s, ms. Unknown keys are refused.
# A key behind a '#' shows an example; what happens without it is said beside it.

[[devices]]                   # required; one table for each kind of device
id = "pi"                     # required; 1 to 32 of a-z, 0-9 and '-'. With count > 1 the devices are pi-1, pi-2, ...
hardware = "pi"               # required; the name of measured times in PROFILE.json (`mpsl profile --hardware pi`)
samples = 1000                # required; of each device. Batches of a round follow from it and the profile's batch size
count = 8                     # default 1; devices that are all alike
up_mbps = 20.0                # required; its link to the broker
down_mbps = 50.0              # required; its link from the broker
latency_ms = 5.0              # required; one way between it and the broker
# memory_gib = 1.0            # for its parts, without the interpreter and torch; left out: it holds anything
# host = "box"                # the machine of [[hosts]] whose cores it shares; left out: it has a machine of its own

[[nodes]]                     # one table for each kind of compute node; none are needed for --hops 0
id = "server"                 # required; as for devices. Ids are unique over devices and nodes
hardware = "server"           # required; the name of measured times in PROFILE.json
memory_gib = 4.0              # required; for its part, copies and activations, without the interpreter and torch
cost_per_hour = 0.0           # required; in any currency. What --objective cost minimises; 0 is free
count = 2                     # default 1; nodes that are all alike
link_mbps = 1000.0            # required; its link to and from the broker
# host = "box"                # as for devices

[broker]                      # required
link_mbps = 1000.0            # required; the broker's own link, shared by everyone
latency_ms = 0.5              # required; one way between it and a node
# max_mb_per_s = 300.0        # what its process passes on in all (`mpsl profile` prints it); left out: no limit
# host = "box"                # as for devices

# [[hosts]]                   # machines whose cores are shared by the processes that name them
# name = "box"                # required
# cores = 4                   # required

[job]                         # what a round does; this table and all of its keys can be left out
local_epochs = 1              # passes over its own samples that a device makes in a round
micro_batches = 1             # pieces of a batch that travel one by one
optimizer = "sgd"             # or momentum, adam, adamw, rmsprop; it sets the memory of its state
activations = "fp32"          # codec of what travels forward: fp32, fp16, bf16, int8, int4, affine:4 to :2,
                              # huffman:4 to :2, topk:P with P the share of the values that is sent, as in topk:0.05
gradients = "fp32"            # codec of what travels back; the same ones
# batches_per_epoch = 10      # of every device; left out: its samples divided by the batch size, rounded up
# first_cut = 1               # fixes the device's first part, blocks 0 to first_cut - 1; left out: chosen
# last_cut = 8                # fixes the device's last part, from block last_cut on; left out: chosen
# max_hops = 3                # the most stages that --hops auto may take; left out: no limit
# admit = 4                   # devices in their round at once; left out: chosen
"""
