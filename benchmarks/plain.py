"""The reference: plain PyTorch training of an unsplit model in one process (`python -m benchmarks.plain`).

It imports nothing of the system except the model's definition.
"""

import argparse
import json
import time

import torch
from torch.nn import functional

from mpsl import strict_json
from mpsl.nn.models import build, input_shape


def main() -> None:
    """Train on random data for a number of seconds after two warm-up batches, and print samples per second."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--args", type=json.loads, default={})
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    model = build(chosen.model, **chosen.args).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    data = torch.randn(chosen.batch_size, *input_shape(chosen.model, **chosen.args))
    labels = torch.randint(0, 10, (chosen.batch_size,))
    batches, started = -2, time.perf_counter()
    while batches < 1 or time.perf_counter() - started < chosen.seconds:
        if batches == 0:
            started = time.perf_counter()
        optimizer.zero_grad()
        functional.cross_entropy(model(data), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        batches += 1
    print(strict_json.dumps({"samples_per_s": batches * chosen.batch_size / (time.perf_counter() - started)}))


if __name__ == "__main__":
    main()
