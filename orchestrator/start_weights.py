"""Starts a model from the weights in a safetensors file, whose names are those of the model's state dict.

A tensor of a wrong shape is never loaded in part. Without `strict`, what the file lacks or has in another shape keeps
the values that the model was built with: a new head, for instance.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from mpsl.errors import UsageError
from mpsl.job import ModelSection
from mpsl.names import nearest
from mpsl.nn.block_model import block_model, build_model

SHOWN = 5
"""The number of names that an error lists."""


@dataclass(frozen=True)
class Match:
    """How the tensors of a file fit a model, by name."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """Of the model, and not in the file."""
    unexpected: tuple[str, ...]
    """In the file, and not of the model."""
    other_shape: tuple[str, ...]
    """In both, with another shape or dtype."""

    def in_words(self) -> str:
        """What does not fit, for people; empty where everything does."""
        parts = (
            ("missing in the file", self.missing),
            ("of another shape", self.other_shape),
            ("unknown to the model", self.unexpected),
        )
        return "; ".join(f"{len(names)} {what}: {_listed(names)}" for what, names in parts if names)


def match_of(section: ModelSection) -> Match | None:
    """Compare the job's file with its model, without building it. None where the job names no file.

    Raises UsageError if the file cannot be read, or does not fit.
    """
    if section.weights is None:
        return None
    model = block_model(section)
    found = _match(section, model.part(0, len(model)).state_dict(), dict(model.aliases))
    _refuse(section, found)
    return found


def load_start(section: ModelSection, model: nn.Module) -> None:
    """Load the job's file into the built model. Raises UsageError as `match_of` does."""
    if section.weights is None:
        return
    state = model.state_dict()
    found = _match(section, state, dict(block_model(section).aliases))
    _refuse(section, found)
    try:
        with safe_open(section.weights, "pt") as file, torch.no_grad():
            for name in found.loaded:
                state[name].copy_(file.get_tensor(name))
    except (OSError, SafetensorError) as error:
        raise _unreadable(section, error) from None


def built_and_loaded(section: ModelSection) -> nn.Module:
    """Build the job's model with the weights that it starts from."""
    model = build_model(section)
    load_start(section, model)
    return model


def _match(section: ModelSection, state: dict[str, torch.Tensor], aliases: dict[str, str]) -> Match:
    assert section.weights is not None
    try:
        with safe_open(section.weights, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(section, error) from None
    known = {name: tuple(tensor.shape) for name, tensor in state.items()}
    known |= {alias: known[name] for alias, name in aliases.items()}
    fitting = tuple(name for name in known if shapes.get(name) == known[name])
    # A weight with several names is here if one of them is.
    here = {aliases.get(name, name) for name in fitting}
    missing = tuple(name for name in known if name not in shapes and aliases.get(name, name) not in here)
    other = tuple(name for name in known if name in shapes and shapes[name] != known[name])
    return Match(fitting, missing, tuple(name for name in shapes if name not in known), other)


def _refuse(section: ModelSection, found: Match) -> None:
    where = f"model.weights: {section.weights}"
    if not found.loaded:
        known = [*found.missing, *found.other_shape]
        hint = nearest(found.unexpected[0], known) if found.unexpected and known else "is it a file of this model?"
        raise UsageError(f"{where} has no tensor of model {section.name}; {hint}")
    if section.strict and (found.missing or found.unexpected or found.other_shape):
        raise UsageError(
            f"{where} does not fit model {section.name}: {found.in_words()}; strict = false loads the others"
        )


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _unreadable(section: ModelSection, error: Exception) -> UsageError:
    hint = "" if Path(section.weights or "").exists() else "; a path is relative to the working directory"
    return UsageError(f"model.weights: {section.weights}: cannot be read as safetensors: {error}{hint}")
