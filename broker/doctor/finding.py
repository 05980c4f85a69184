"""What a check finds: that something is as it should be, what is wrong and what helps, or why it was not checked."""

from dataclasses import dataclass
from typing import Any, Literal

COPY_AGAIN = "copy ca.pem, cert.pem and key.pem of one member's folder again"
"""What helps where a file is missing, damaged or of another folder."""
Status = Literal["ok", "problem", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One line of the report. `cause` and `remedy` belong to a problem."""

    check: str
    status: Status
    text: str
    cause: str = ""
    remedy: str = ""

    @property
    def line(self) -> str:
        """The line for people."""
        steps = [self.text, self.cause, self.remedy]
        return f"{self.status:<8} {self.check:<13} {' → '.join(step for step in steps if step)}"

    @property
    def facts(self) -> dict[str, Any]:
        """The same for a program."""
        found = {"check": self.check, "status": self.status, "text": self.text}
        return found | ({"cause": self.cause, "remedy": self.remedy} if self.status == "problem" else {})


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", text)


def skipped(check: str, why: str) -> Finding:
    """Nothing is known."""
    return Finding(check, "skipped", why)


def problem(check: str, text: str, cause: str, remedy: str) -> Finding:
    """Something is wrong."""
    return Finding(check, "problem", text, cause, remedy)


def explained_problem(check: str, text: str, explanation: str, otherwise: str) -> Finding:
    """A problem whose cause and remedy stand in one text, as errors have them: `cause; remedy`.

    `otherwise` is the remedy where the text has none.
    """
    cause, _, remedy = explanation.partition("; ")
    return Finding(check, "problem", text, cause, remedy or otherwise)
