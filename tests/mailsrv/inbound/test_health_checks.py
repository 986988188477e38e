"""Health checks of load balancers: those from configured addresses stay out of the log."""

from __future__ import annotations

import pytest
from conversing import HELLO, Caller, harness

BALANCER = "198.51.100.9"
CHECKS = (f"{BALANCER}/32",)


@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
@pytest.mark.parametrize(
    ("client", "said", "lines"),
    [(BALANCER, b"", 0), ("192.0.2.1", b"", 1), (BALANCER, HELLO, 1)],
)
def test_a_connection_without_a_command_is_logged_unless_it_is_a_check(
    how: str, client: str, said: bytes, lines: int
) -> None:
    with harness(health_check_networks=CHECKS) as run:
        caller = Caller(run, client)
        if said:
            caller.say(said)
        getattr(caller, how)()
        assert sum("event=disconnect" in line for line in run.log) == lines
