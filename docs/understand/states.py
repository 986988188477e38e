"""Draws states.md, beside this file, from the tables that the server runs on.

python docs/understand/states.py
"""

from __future__ import annotations

from pathlib import Path

from mailsrv.smtp.handlers import TABLE
from mailsrv.smtp.state_machine import TRANSITIONS, State, Step

HEAD = """# The states of a session

Drawn from `mailsrv/smtp/state_machine.py` by `python docs/understand/states.py`; do not
edit. A session is in one of these states; each arrow is a step, a command with its outcome.

"""
TABLE_HEAD = """
Below is every step: the state that comes next, by the state in which it is taken. An empty cell
means that it cannot be taken there; a command out of order is answered with 503, which is `REFUSED`
(of BDAT `CHUNK_REFUSED` or `NO_CHUNK`). The diagram leaves out the steps that stay, and
`CLOSE`, which leads from every state to CLOSED.

"""


def drawing() -> str:
    """The whole page."""
    return HEAD + _states() + "\n" + _diagram() + TABLE_HEAD + _steps()


def _states() -> str:
    lines = ["| state | what it means | commands are read |", "|---|---|---|"]
    lines += [
        f"| {state.name} | {state.value} | {'yes' if TABLE[state] else 'no'} |" for state in State
    ]
    return "\n".join(lines) + "\n"


def _diagram() -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.CONNECTED.name}"]
    for state, steps in TRANSITIONS.items():
        arrows: dict[State, list[str]] = {}
        for step, after in steps.items():
            if after is not state and step is not Step.CLOSE:
                arrows.setdefault(after, []).append(step.name)
        for after, names in arrows.items():
            lines.append(f"    {state.name} --> {after.name}: {', '.join(names)}")
    lines += [f"    {State.CLOSED.name} --> [*]", "```"]
    return "\n".join(lines) + "\n"


def _steps() -> str:
    states = list(State)
    lines = [
        f"| step | what happened | {' | '.join(state.name for state in states)} |",
        "|---|---|" + "---|" * len(states),
    ]
    for step in Step:
        cells = []
        for state in states:
            after = TRANSITIONS[state].get(step)
            cells.append("" if after is None else "stays" if after is state else after.name)
        lines.append(f"| {step.name} | {step.value} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("states.md").write_text(drawing(), "utf-8")
