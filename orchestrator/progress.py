"""Shows the progress of a run: a live line in a terminal, plain lines elsewhere. It only reads the machine."""

import asyncio
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from broker.log import Logger
from mpsl.machines.orchestrator import OrchestratorMachine

REFRESH_S = 0.5
LINE_EVERY_S = 5.0


class Progress:
    """The progress of a run; use it as `async with` around the run."""

    def __init__(self, machine: OrchestratorMachine, verbose: int) -> None:
        self._machine = machine
        self._verbose = verbose
        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal and not verbose
        self._task: asyncio.Task[None] | None = None

    def logger(self, plain: Logger) -> Logger:
        """Return a logger that shows rounds, warnings and errors, and everything with -v."""

        def log(level: str, event: str, facts: Mapping[str, object]) -> None:
            if self._verbose:
                plain(level, event, facts)
            elif event == "round":
                self._console.print(round_line(facts))
            elif level in ("warning", "error"):
                plain(level, event, facts)

        return log

    async def __aenter__(self) -> "Progress":
        self._task = asyncio.create_task(self._show(), name="progress")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _show(self) -> None:
        if self._live:
            with Live(console=self._console, transient=True, auto_refresh=False) as live:
                while True:
                    live.update(Text(state_line(self._machine.snapshot())), refresh=True)
                    await asyncio.sleep(REFRESH_S)
        while True:
            print(state_line(self._machine.snapshot()), file=sys.stderr, flush=True)
            await asyncio.sleep(LINE_EVERY_S)


def state_line(state: Mapping[str, Any]) -> str:
    """Return one line about the state of a run and the participants that it waits for."""
    parts = [f"{state['state']}"]
    if state["round"]:
        parts.append(f"round {state['round']}/{state['rounds']}")
        parts.append(f"batches {state['batches']}/{state['batches_in_round']}")
    if state["loss"] is not None:
        parts.append(f"loss {loss_shown(state['loss'])}")
    if state["accuracy"] is not None:
        parts.append(f"accuracy {state['accuracy']:.2%}")
    if state["waiting_for"]:
        shown = state["waiting_for"][:6]
        more = len(state["waiting_for"]) - len(shown)
        parts.append(f"waiting for {', '.join(shown)}" + (f" and {more} more" if more else ""))
    return " · ".join(parts)


def round_line(facts: Mapping[str, Any]) -> str:
    """One line about a committed round."""
    accuracy = facts["accuracy"]
    shown = "" if accuracy is None else f" · accuracy {accuracy:.2%}"
    predicted = f" (predicted {facts['predicted_s']:.2f})" if "predicted_s" in facts else ""
    loss = loss_shown(facts["loss"])
    held = f" · updates held {facts['held_s']:.2f} s for their turn" if "held_s" in facts else ""
    return f"round {facts['round']} · loss {loss}{shown} · {facts['seconds']:.2f} s{predicted}{held}"


def loss_shown(loss: float) -> str:
    """A loss for people: four decimals, or four digits where it is so large that decimals mean nothing."""
    return f"{loss:.4f}" if abs(loss) < 1e5 else f"{loss:.4g}"
