"""How many bytes a seat and a device need at once: section by section what the processes hold, nothing measured here.

A seat that admits `copies` devices: base + global part + fp32 accumulator + one set of gradients
+ copies × (a copy + its optimizer state + its stored activations + the input of its batch).
"""

BASE_BYTES = 400_000_000
"""A process before it holds a part: interpreter, torch and the scratch space of its operators."""

GIB = 2**30


def seat_fixed_bytes(parameter_bytes: int) -> int:
    """Bytes of a seat without any device: base, global part, accumulator, one set of gradients."""
    return BASE_BYTES + 3 * parameter_bytes


def seat_copy_bytes(parameter_bytes: int, stored_bytes: int, input_bytes: int, optimizer_states: int) -> int:
    """Bytes of a seat for each device that it admits; `optimizer_states` counts states of the parameters' size."""
    return (1 + optimizer_states) * parameter_bytes + stored_bytes + input_bytes


def device_bytes(parameter_bytes: int, stored_bytes: int, input_bytes: int, optimizer_states: int) -> int:
    """Bytes of a device that holds its first and last part: base, one copy with gradients and state, its activations.

    `input_bytes` counts the batch and, where there are hops, the activation that comes back.
    """
    return BASE_BYTES + (2 + optimizer_states) * parameter_bytes + stored_bytes + input_bytes
