"""Draws states.md and sending.md, beside this file, from the tables that the server runs on.

python docs/understand/states.py
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TypeVar

from mailsrv.smtp import state_machine
from mailsrv.smtp.handlers import TABLE
from mailsrv.smtp.sending import state_machine as sending
from mailsrv.smtp.sending.handlers import REPLIES

StateT = TypeVar("StateT", bound=Enum)
StepT = TypeVar("StepT", bound=Enum)

RECEIVING_HEAD = """# The states of a session

Drawn from `mailsrv/smtp/state_machine.py` by `python docs/understand/states.py`; do not
edit. A session is in one of these states; each arrow is a step, a command with its outcome.

"""
RECEIVING_STEPS = """
Below is every step: the state that comes next, by the state in which it is taken. An empty cell
means that it cannot be taken there; a command out of order is answered with 503, which is `REFUSED`
(of BDAT `CHUNK_REFUSED` or `NO_CHUNK`). The diagram leaves out the steps that stay, and
`CLOSE`, which leads from every state to CLOSED.

"""
SENDING_HEAD = """# The states of the sending side

Drawn from `mailsrv/smtp/sending/state_machine.py` by `python docs/understand/states.py`; do not
edit. A state is what is waited for; each arrow is a step, a reply of the next hop or something
that is done here. Replies come in the order of the commands, so the states are the same whether
the commands went one by one or in one flight.

A reply whose first digit is not listed is a reply to the wrong command, and so are 220 but as a
greeting or after STARTTLS, and 221 but after QUIT: it ends the connection, and the message is
deferred. So does a 421 in any state, and a reply where none is due.

"""
SENDING_STEPS = """
Below is every step: the state that comes next, by the state in which it is taken. An empty cell
means that it cannot be taken there. The diagram leaves out the steps that stay, and `CLOSE`, which
leads from every state to CLOSED.

"""


def drawing() -> str:
    """The page on the receiving side."""
    read = {state: "yes" if TABLE[state] else "no" for state in state_machine.State}
    steps = state_machine.Step
    return (
        RECEIVING_HEAD
        + _states(read, "commands are read")
        + "\n"
        + _diagram(state_machine.TRANSITIONS, state_machine.State.CONNECTED)
        + RECEIVING_STEPS
        + _steps(state_machine.TRANSITIONS, steps)
    )


def sending_drawing() -> str:
    """The page on the sending side."""
    digits = {
        state: ", ".join(f"{digit}yz" for digit in sorted(REPLIES[state]))
        for state in sending.State
    }
    return (
        SENDING_HEAD
        + _states(digits, "replies that lead on")
        + "\n"
        + _diagram(sending.TRANSITIONS, sending.State.GREETING)
        + SENDING_STEPS
        + _steps(sending.TRANSITIONS, sending.Step)
    )


def _states(notes: Mapping[StateT, str], title: str) -> str:
    lines = [f"| state | what it means | {title} |", "|---|---|---|"]
    lines += [f"| {state.name} | {state.value} | {note} |" for state, note in notes.items()]
    return "\n".join(lines) + "\n"


def _diagram(transitions: Mapping[StateT, Mapping[StepT, StateT]], first: StateT) -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first.name}"]
    for state, steps in transitions.items():
        arrows: dict[StateT, list[str]] = {}
        for step, after in steps.items():
            if after is not state and step.name != "CLOSE":
                arrows.setdefault(after, []).append(step.name)
        for after, names in arrows.items():
            lines.append(f"    {state.name} --> {after.name}: {', '.join(names)}")
    lines += ["    CLOSED --> [*]", "```"]
    return "\n".join(lines) + "\n"


def _steps(transitions: Mapping[StateT, Mapping[StepT, StateT]], steps: type[StepT]) -> str:
    states = list(type(next(iter(transitions))))
    lines = [
        f"| step | what happened | {' | '.join(state.name for state in states)} |",
        "|---|---|" + "---|" * len(states),
    ]
    for step in steps:
        cells = []
        for state in states:
            after = transitions[state].get(step)
            cells.append("" if after is None else "stays" if after is state else after.name)
        lines.append(f"| {step.name} | {step.value} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("states.md").write_text(drawing(), "utf-8")
    Path(__file__).with_name("sending.md").write_text(sending_drawing(), "utf-8")
