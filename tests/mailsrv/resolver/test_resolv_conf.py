"""The machine's name servers, out of whatever stands in /etc/resolv.conf."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mailsrv.resolver.resolv_conf import (
    DEFAULT,
    NAMESERVERS_MAX,
    parse_nameservers,
    read_nameservers,
)


def test_name_servers_come_in_their_order_and_once() -> None:
    text = """# made by hand
        search example.org
        nameserver 192.0.2.1
        nameserver\t2001:db8::1   # a remark
        nameserver 192.0.2.1
        options edns0
        nameserver fe80::1%eth0
    """
    assert parse_nameservers(text) == (
        ("192.0.2.1", 53),
        ("2001:db8::1", 53),
        ("fe80::1%eth0", 53),
    )


def test_what_is_no_address_is_passed_over() -> None:
    assert parse_nameservers("nameserver dns.example\nnameserver\n;nameserver 192.0.2.1") == ()


def test_only_so_many_are_taken() -> None:
    text = "\n".join(f"nameserver 192.0.2.{number}" for number in range(9))
    assert len(parse_nameservers(text)) == NAMESERVERS_MAX


def test_without_a_file_or_a_name_server_the_machine_itself_is_asked(tmp_path: Path) -> None:
    empty = tmp_path / "resolv.conf"
    assert read_nameservers(empty) == DEFAULT
    empty.write_bytes(b"search \xff\xfe\n")
    assert read_nameservers(empty) == DEFAULT


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    parse_nameservers(text)
    parse_nameservers(f"nameserver {text}")
