"""Which parameters of a model train: all that the person's own code leaves trainable, less what the job freezes.

A frozen parameter gets no gradient and no optimizer state. It is not copied for a device, not averaged, and not sent
after the start. Buffers are never frozen: in training they change as they do in the unsplit model.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from mpsl.errors import UsageError
from mpsl.job import ModelSection
from mpsl.names import nearest


def freeze(section: ModelSection, model: nn.Module) -> None:
    """Set `requires_grad` of the model's parameters as the job says.

    Raises UsageError for a pattern that matches no parameter, and where nothing is left to train.
    """
    if not section.train and not section.freeze:
        return
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for key, patterns in (("train", section.train), ("freeze", section.freeze)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UsageError(
                    f"model.{key}: {pattern!r} matches no parameter of model {section.name}; {nearest(pattern, names)}"
                )
    trained: dict[int, bool] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        # A weight that has several names trains if one of them does, and is frozen if one of them is.
        train = trained.get(id(parameter), not section.train) or _matches(name, section.train)
        trained[id(parameter)] = train
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if _matches(name, section.freeze):
            trained[id(parameter)] = False
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and trained[id(parameter)])
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"model.train and model.freeze leave model {section.name} nothing to train")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
