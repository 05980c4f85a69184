"""Which models the owner of a machine lets it compute: those that are registered here, and the functions he names.

A job's model is a name, and the code behind it is what the owner has installed. But a name such as `os:system` would
call any function of any package, so the names of functions that a plan or a question may call are an allow-list.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mpsl.errors import UsageError

HELP = "Models that are functions and may be computed here, by name or glob: package.module:function, mylab.*:*."


@dataclass(frozen=True)
class AllowedModels:
    """`patterns` of `package.module:function`; a registered name is always allowed."""

    patterns: tuple[str, ...] = ()

    def check(self, name: str, who: str) -> None:
        """Raise UsageError unless `who` may compute the model `name`. Nothing is imported."""
        if ":" not in name or any(fnmatchcase(name, pattern) for pattern in self.patterns):
            return
        shown = ", ".join(self.patterns) or "registered models only"
        raise UsageError(
            f"{who} does not compute the model {name}: its owner allows {shown}; "
            f"start it with --models {name} if you trust that function"
        )


REGISTERED_ONLY = AllowedModels()
"""No functions."""


def options_for(name: str) -> list[str]:
    """The options with which a process of this machine's owner may compute a job's model."""
    return ["--models", name] if ":" in name else []


def allowed_models(patterns: Iterable[str]) -> AllowedModels:
    """Return the models of the options `--models PATTERN`. Raises UsageError for a pattern that names no function."""
    found = tuple(patterns)
    for pattern in found:
        if ":" not in pattern:
            raise UsageError(
                f"--models {pattern}: it names a function, package.module:function, where * stands for anything; "
                "registered models are always allowed"
            )
    return AllowedModels(found)
