"""A participant's self-measurement: asked for on its `cmd` topic, made by its worker, published in its `info`.

The question is repeated until `info` answers it. A participant in a run measures nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mpsl import facts
from mpsl.errors import UsageError
from mpsl.machines.jobs import BlocksMeasured, MeasureBlocks, Result
from mpsl.profile_questions import Answer, Question

COMMAND = "profile"
"""The value of `do` in the command."""


def command(boot: str, question: Question) -> dict[str, Any]:
    """The command that asks the process `boot`."""
    return {"do": COMMAND, "boot": boot, "question": facts.plain(question)}


class SelfProfile:
    """Holds the question that is being measured, and the last answer; `measure` asks the worker."""

    def __init__(self, boot: str, measure: Callable[[MeasureBlocks], None]) -> None:
        self._boot = boot
        self._measure = measure
        self._measuring = ""
        self._answer: Answer | None = None

    def info(self) -> dict[str, Any]:
        """Return the content of `info` about it."""
        return {} if self._answer is None else {"profile": facts.plain(self._answer)}

    def commanded(self, content: Mapping[str, Any], where: str) -> bool:
        """Take a command. Returns whether `info` answers it already. Raises UsageError if it is for another process."""
        if content.get("do") != COMMAND or content.get("boot") != self._boot:
            raise UsageError(f"{where}: the command is for another process")
        question = facts.read(Question, content.get("question"), where)
        if self._answer is not None and self._answer.question == question.digest:
            return True
        if not self._measuring:
            self._measuring = question.digest
            self._measure(MeasureBlocks(question))
        return False

    def done(self, result: Result) -> None:
        """The worker has measured."""
        assert isinstance(result, BlocksMeasured)
        self._answer, self._measuring = Answer(self._measuring, result.times), ""

    def failed(self, reason: str) -> None:
        """The worker has failed to measure."""
        self._answer, self._measuring = Answer(self._measuring, error=reason), ""
