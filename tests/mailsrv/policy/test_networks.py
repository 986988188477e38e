"""Which network a client belongs to, and which lie in a configured one."""

from __future__ import annotations

import pytest

from mailsrv.policy.networks import Networks, client_network


@pytest.mark.parametrize(
    ("client", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("fe80::1%eth0", "fe80::/64"),
        ("somebody", "somebody"),
    ],
)
def test_a_client_is_known_by_its_network(client: str, network: str) -> None:
    assert client_network(client) == network


@pytest.mark.parametrize(
    ("client", "inside"),
    [
        ("192.0.2.0", True),
        ("192.0.2.127", True),
        ("192.0.2.128", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("198.51.100.1", False),
    ],
)
def test_an_address_lies_in_a_network_from_its_first_to_its_last(client: str, inside: bool) -> None:
    assert (client in Networks(("192.0.2.0/25", "2001:db8::/32"))) is inside


def test_nobody_is_in_no_network() -> None:
    assert "192.0.2.1" not in Networks(())
    assert not Networks(())
    assert Networks(("::/0",))


def test_a_text_that_names_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Networks(("nonsense",))
