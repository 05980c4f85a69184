"""How many bytes a seat and a device need at once, on top of the interpreter and torch; nothing is measured here.

A seat that admits `copies` devices: global part + fp32 accumulator + one set of gradients
+ copies × (a copy + its optimizer state + its stored activations + the input of its batch).
"""

GIB = 2**30


def seat_fixed_bytes(parameter_bytes: int) -> int:
    """Bytes of a seat without any device: global part, accumulator, one set of gradients."""
    return 3 * parameter_bytes


def seat_copy_bytes(parameter_bytes: int, stored_bytes: int, input_bytes: int, optimizer_states: int) -> int:
    """Bytes of a seat for each device that it admits; `optimizer_states` counts states of the parameters' size."""
    return (1 + optimizer_states) * parameter_bytes + stored_bytes + input_bytes


def device_bytes(parameter_bytes: int, stored_bytes: int, input_bytes: int, optimizer_states: int) -> int:
    """Bytes of a device that holds its first and last part: one copy with gradients and state, its activations.

    `input_bytes` counts the batch and, where there are hops, the activation that comes back.
    """
    return (2 + optimizer_states) * parameter_bytes + stored_bytes + input_bytes
