"""The configuration file: what it may say, and that each complaint names its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from conversing import Caller, harness
from hypothesis import given
from hypothesis import strategies as st

from mailsrv import config
from mailsrv.config import Config, ConfigError, parse_address, parse_resolvers, settings_from
from mailsrv.settings import Settings


def loaded(tmp_path: Path, text: str | bytes) -> Config:
    file = tmp_path / "mailsrv.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return config.load(file)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert loaded(tmp_path, "") == Config(Settings(), ("127.0.0.1:2525",), "maildir=mail")


def test_settings_listen_and_delivery_are_read(tmp_path: Path) -> None:
    text = """
        listen = ["127.0.0.1:25", "[::1]:25"]
        delivery = "discard"
        resolvers = ["192.0.2.53:53"]
        hostname = "mx.example.test"
        idle_timeout_s = 0.5
        connections = 0
        greylist = true
        trusted_networks = ["192.0.2.0/24", "2001:db8::/32"]
    """
    wanted = Settings(
        hostname="mx.example.test",
        idle_timeout_s=0.5,
        greylist=True,
        trusted_networks=("192.0.2.0/24", "2001:db8::/32"),
    )
    assert loaded(tmp_path, text) == Config(
        wanted, ("127.0.0.1:25", "[::1]:25"), "discard", ("192.0.2.53:53",)
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("idel_timeout_s = 1", "idel_timeout_s: no such setting; did you mean idle_timeout_s"),
        ("[section]\nx = 1", "section: no such setting"),
        ("idle_timeout_s = 0", "idle_timeout_s: .*above 0"),
        ("idle_timeout_s = -1", "idle_timeout_s: .*above 0"),
        ("idle_timeout_s = nan", "idle_timeout_s: .*out of range"),
        ("idle_timeout_s = inf", "idle_timeout_s: .*out of range"),
        ('idle_timeout_s = "1"', "idle_timeout_s: takes a number"),
        ("session_timeout_s = 1e11", "session_timeout_s: .*out of range"),
        ("recipients = 1.5", "recipients: takes a whole number"),
        ("recipients = true", "recipients: takes a whole number"),
        ("recipients = 0x" + "f" * 5000, "recipients: .*out of range"),
        ("recipients = " + "9" * 5000, "not TOML"),
        ("greet_wait_s = -1", "greet_wait_s: .*not below 0"),
        ("greylist = 1", "greylist: takes true or false"),
        ('hostname = ""', "hostname: takes a name"),
        ("hostname = 5", "hostname: takes a name"),
        ('hostname = "a b"', "hostname: takes a name"),
        ('hostname = "bücher.example"', "hostname: takes a name"),
        ('hostname = "a\\r\\nX-Forged: b"', "hostname: takes a name"),
        ('hostname = "a\\u0000"', "hostname: takes a name"),
        ('hostname = "' + "a" * 256 + '"', "hostname: takes a name"),
        ('trusted_networks = "192.0.2.0/24"', "trusted_networks: takes a list"),
        ("trusted_networks = [5]", "trusted_networks: takes a list"),
        ("trusted_networks = [[]]", "trusted_networks: takes a list"),
        ('trusted_networks = ["192.0.2.1/24"]', "trusted_networks: .*host bits"),
        ('trusted_networks = ["nonsense"]', "trusted_networks: "),
        ('listen = "127.0.0.1:25"', "listen: takes a list"),
        ("listen = [25]", "listen: takes a list"),
        ('resolvers = "127.0.0.1:53"', "resolvers: takes a list"),
        ("resolvers = [53]", "resolvers: takes a list"),
        ("delivery = 1", "delivery: takes a text"),
        ("idle_timeout_s", "not TOML: .*at end of document"),
        ("a = 1\na = 2", "not TOML: "),
        ("x = " + "[" * 100_000, "not TOML"),
        (b"\xff", "not TOML"),
    ],
)
def test_a_complaint_names_file_and_key_in_one_line(
    tmp_path: Path, text: str | bytes, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        loaded(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "mailsrv.toml"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read: No such file"):
        config.load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config.load(tmp_path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="larger than"):
        loaded(tmp_path, "#" * (config.FILE_MAX_OCTETS + 1))


def test_the_longest_times_allowed_can_be_kept() -> None:
    names = [name for name in Settings.__dataclass_fields__ if name.endswith("_s")]
    longest = {name: 10**9 for name in names if "octets" not in name and name != "greet_wait_s"}
    settings = settings_from(longest, "x")
    with harness(**{name: getattr(settings, name) for name in longest}) as run:
        assert Caller(run).news


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:2525", ("127.0.0.1", 2525)),
        ("localhost:0", ("127.0.0.1", 0)),
        ("[::1]:25", ("::1", 25)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_an_address_is_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "25", ":25", "127.0.0.1", "127.0.0.1:", "127.0.0.1:-1", "127.0.0.1:65536", "a.example:25",
     "127.0.0.1:x", "127.0.0.1:\u0665", "[::1:25", "127.0.0.1:" + "9" * 5000, "127.0.0.1 :25"],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"takes ADDRESS:PORT, such as 127\.0\.0\.1:2525"):
        parse_address(text)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        _, port = parse_address(text)
    except ConfigError:
        return
    assert 0 <= port <= 65535


def test_name_servers_are_addresses_with_a_port_and_not_many() -> None:
    servers = parse_resolvers(["127.0.0.1:53", "[2001:db8::53]:5353"])
    assert servers == (("127.0.0.1", 53), ("2001:db8::53", 5353))
    assert parse_resolvers([]) == ()
    for texts, complaint in (
        (["192.0.2.53"], "192.0.2.53: takes ADDRESS:PORT"),
        (["192.0.2.53:0"], "resolvers: 192.0.2.53:0: a name server has a port"),
        (["192.0.2.53:53"] * 5, "resolvers: takes 4 name servers at most"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            parse_resolvers(texts)
