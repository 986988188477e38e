"""The configuration file: what it may say, and that each complaint names its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from conversing import Caller, harness
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.config import file as config
from mailsrv.config.deliveries import Discard, ToMaildir
from mailsrv.config.endpoints import Endpoint, parse_endpoint
from mailsrv.config.file import Config
from mailsrv.config.validation import ConfigError, settings_from
from mailsrv.settings import Settings


def loaded(tmp_path: Path, text: str | bytes) -> Config:
    file = tmp_path / "mailsrv.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return config.load(file)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert loaded(tmp_path, "") == Config(
        Settings(), (Endpoint("127.0.0.1", 2525),), ToMaildir(Path("mail"))
    )


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
        wanted,
        (Endpoint("127.0.0.1", 25), Endpoint("::1", 25)),
        Discard(),
        (Endpoint("192.0.2.53", 53),),
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("idel_timeout_s = 1", "idel_timeout_s: no such setting; did you mean idle_timeout_s"),
        ("[section]\nx = 1", "section: no such setting"),
        ("idle_timeout_s = 0", "idle_timeout_s: .*above 0"),
        ("idle_timeout_s = -1", "idle_timeout_s: .*above 0"),
        ("idle_timeout_s = nan", "idle_timeout_s: nan is out of range"),
        ("idle_timeout_s = inf", "idle_timeout_s: .*out of range"),
        ('idle_timeout_s = "1"', 'idle_timeout_s: takes a number above 0; "1" is text in quotes'),
        ('greylist = "yes"', 'greylist: takes true or false; "yes" is text in quotes'),
        ("session_timeout_s = -1", "session_timeout_s: -1 is out of range"),
        ("[smtp]\nport = 25", r"\[smtp\]: there is no section of that name.{0,40}$"),
        ("[dns_list]", "dns_list: no such setting; did you mean dns_lists"),
        ("session_timeout_s = 1e11", "session_timeout_s: .*out of range"),
        ("recipients = 1.5", "recipients: takes a whole number above 0; it is 1.5"),
        ("recipients = true", "recipients: takes a whole number above 0; it is true"),
        ("recipients = 0x" + "f" * 5000, "recipients: 0xf{38}… is out of range"),
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
def test_an_endpoint_is_host_and_port_and_is_shown_as_it_was_written(
    text: str, address: tuple[str, int]
) -> None:
    endpoint = parse_endpoint(text)
    assert (endpoint.host, endpoint.port) == address
    assert str(endpoint) == text


@pytest.mark.parametrize(
    "text",
    ["", "25", ":25", "127.0.0.1", "127.0.0.1:", "127.0.0.1:-1", "127.0.0.1:65536", "a.example:25",
     "127.0.0.1:x", "127.0.0.1:\u0665", "[::1:25", "127.0.0.1:" + "9" * 5000, "127.0.0.1 :25"],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"takes ADDRESS:PORT, such as 127\.0\.0\.1:2525"):
        parse_endpoint(text)


@given(st.text(max_size=40))
def test_any_text_is_an_endpoint_or_refused(text: str) -> None:
    try:
        endpoint = parse_endpoint(text)
    except ConfigError:
        return
    assert 0 <= endpoint.port <= 65535


def test_name_servers_are_addresses_with_a_port_and_not_many(tmp_path: Path) -> None:
    read = loaded(tmp_path, 'resolvers = ["127.0.0.1:53", "[2001:db8::53]:5353"]')
    assert read.resolvers == (Endpoint("127.0.0.1", 53), Endpoint("2001:db8::53", 5353))
    for listed, complaint in (
        (["192.0.2.53"], "resolvers: 192.0.2.53: takes ADDRESS:PORT"),
        (["192.0.2.53:0"], "resolvers: 192.0.2.53:0: a name server has a port"),
        (["192.0.2.53:53"] * 5, "resolvers: takes 4 name servers at most"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            loaded(tmp_path, f"resolvers = {listed}")


# -- the keys that are no settings ----------------------------------------------------------------


def test_every_key_of_the_process_is_read_and_paths_start_from_the_files_folder(
    tmp_path: Path,
) -> None:
    text = """
        listen_tls = ["127.0.0.1:465"]
        delivery = "maildir=mail"
        tls_certificate = "tls/chain.pem"
        tls_key = "/etc/key.pem"
        recipient_table = "recipients"
        greylist_database = "../greylist.sqlite"
        metrics_listen = "127.0.0.1:9025"
        log_file = "log"
        log_format = "json"
        user = "mailsrv"
        group = "mail"
        greylist = true
    """
    assert loaded(tmp_path, text) == Config(
        Settings(greylist=True),
        delivery=ToMaildir(tmp_path / "mail"),
        listen_tls=(Endpoint("127.0.0.1", 465),),
        tls_certificate=tmp_path / "tls" / "chain.pem",
        tls_key=Path("/etc/key.pem"),
        recipient_table=tmp_path / "recipients",
        greylist_database=tmp_path / ".." / "greylist.sqlite",
        metrics_listen=Endpoint("127.0.0.1", 9025),
        log_file=tmp_path / "log",
        log_format="json",
        user="mailsrv",
        group="mail",
    )


@pytest.mark.parametrize(
    ("maildir", "spool"),
    [("/a/mail", "/a/mail.spool"), ("/a/mail/.", "/a/mail.spool"), ("/a/b/..", "/a.spool")],
)
def test_the_spool_is_beside_the_maildir_however_that_is_written(maildir: str, spool: str) -> None:
    assert Config(delivery=ToMaildir(Path(maildir))).spool_folder == Path(spool)
    assert Config(delivery=ToMaildir(Path("."))).spool_folder == Path(f"{Path.cwd()}.spool")
    assert Config(delivery=ToMaildir(Path("/"))).spool_folder == Path("/.spool")


def test_the_key_may_lie_in_the_certificates_file() -> None:
    assert Config().tls_files is None
    certificate, key = Path("/c"), Path("/k")
    assert Config(tls_certificate=certificate).tls_files == (certificate, certificate)
    assert Config(tls_certificate=certificate, tls_key=key).tls_files == (certificate, key)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("listne = []", "listne: no such setting; did you mean listen"),
        ("tls_certificate = true", "tls_certificate: takes a text"),
        ('tls_key = "a\\u0000b"', "tls_key: takes a text"),
        ('tls_key = "key.pem"', "tls_key: needs tls_certificate"),
        ('listen_tls = ["127.0.0.1:465"]', "listen_tls: needs tls_certificate"),
        ('listen_tls = ["here"]', "listen_tls: here: takes ADDRESS:PORT"),
        ('listen = ["127.0.0.1:25", "127.0.0.1:25"]', "127.0.0.1:25: stands there twice"),
        ('metrics_listen = "localhost:2525"', "localhost:2525: stands there twice"),
        ("listen = " + str(["127.0.0.1:0"] * 65), "listen: takes 64 addresses at most"),
        ('metrics_listen = "9025"', "metrics_listen: 9025: takes ADDRESS:PORT"),
        ('log_format = "xml"', 'log_format: takes one of "text", "json"'),
        ("log_format = {}", 'log_format: takes one of "text", "json"'),
        ('group = "mail"', "group: needs user"),
        ('recipient_callout = "take"', "recipient_callout: there is nobody to ask; needs a"),
        (
            'recipient_callout = "defer"\nrecipient_table = "t"\ndelivery = "relay=192.0.2.1"',
            "recipient_callout: recipient_table says who exists; takes one of them",
        ),
        ('greylist_database = "x"', "greylist_database: is not used; needs greylist = true"),
        ("reputation_threshold = 5", "reputation_threshold: nothing adds to the score"),
        ('helo_check = "score"', "reputation_threshold: helo_check adds to a score that nobody"),
        ('[dns_lists]\n"bl.example" = 5', "reputation_threshold: dns_lists adds to a score"),
        ("errors_hard = 5", "errors_soft: takes 5 at most, which is errors_hard; it is 10"),
        (
            "greylist_delay_s = 500\ngreylist_retry_within_s = 500",
            "greylist_retry_within_s: takes more than 500, which is greylist_delay_s; it is 500",
        ),
        ("stress_percent = 101", "stress_percent: 101 is out of range; .*at most 100"),
        ("helo_score = 1001", "helo_score: 1001 is out of range; .*at most 1000"),
        ('domains = ["a b"]', "domains: 'a b' is no domain name"),
        ('domains = ["user@example.org"]', "domains: .* is no domain name"),
        ('domains = ["example.org."]', "domains: .* is no domain name"),
        ('domains = ["*", "example.org"]', r'domains: "\*" takes every domain and stands alone'),
        ('domains = "example.org"', "domains: takes a list of domains"),
        ('greylist_allow_names = ["a b"]', "greylist_allow_names: 'a b' is no domain name"),
        ('greylist_allow_recipients = ["a b"]', "'a b' is neither an address nor a domain"),
        ("greylist_allow_recipients = 5", "takes a list of addresses and domains"),
        ("exceptions = 5", "exceptions: takes a list of at most 1000 tables"),
        ("exceptions = [5]", r"exceptions\[0\]: takes a table with checks"),
        ('[[exceptions]]\nnetworks = ["192.0.2.0/24"]', r"\[0\]: checks: takes one check at least"),
        ('[[exceptions]]\nchecks = ["helo"]', r"\[0\]: needs networks, names or recipients"),
        (
            '[[exceptions]]\nchecks = ["hello"]\nnames = ["x.example"]',
            'checks: takes one of "greylist", "reputation"',
        ),
        (
            '[[exceptions]]\nchecks = ["helo"]\nclients = ["192.0.2.1"]',
            r"\[0\]: clients: no such setting",
        ),
        (
            '[[exceptions]]\nchecks = ["helo"]\nnetworks = ["192.0.2.1/24"]',
            r"\[0\]: networks: .*host bits",
        ),
        (
            '[[exceptions]]\nchecks = ["bare_lf"]\nnames = ["x.example"]',
            "names: bare_lf is decided before names are known",
        ),
        (
            '[[exceptions]]\nchecks = ["pipelining"]\nrecipients = ["x.example"]',
            "recipients: pipelining is decided before recipients are known",
        ),
        ('proxy_networks = ["0.0.0.0/0"]', "proxy_networks: 0.0.0.0/0 is everybody"),
        ('proxy_networks = ["::/0"]', "proxy_networks: ::/0 is everybody"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        loaded(tmp_path, text)
    assert len(caught.value.complaints) == 1
    assert str(caught.value).startswith(f"{tmp_path}/mailsrv.toml: ")


def test_what_makes_sense_is_taken(tmp_path: Path) -> None:
    for text in (
        'listen = ["0.0.0.0:25", "[::]:25"]\ndomains = ["example.org", "b\u00fccher.example"]',
        'listen = ["192.0.2.25:25"]\ndomains = ["*"]',
        'domains = ["[192.0.2.25]", "[IPv6:2001:db8::25]"]',
        'listen = ["127.0.0.1:0", "127.0.0.1:0"]',
        'listen = []\nlisten_tls = ["127.0.0.1:465"]\ntls_certificate = "both.pem"',
        'trusted_networks = ["0.0.0.0/0"]',
        'greylist_allow_names = [".example.org", "b\u00fccher.example"]',
        'greylist_allow_recipients = ["example.org", "@example.net", "ann@example.org"]',
        '[[exceptions]]\nchecks = ["bare_lf", "greylist"]\nrecipients = ["ann@example.org"]',
        '[[exceptions]]\nchecks = ["early_talker"]\nnetworks = ["192.0.2.0/24"]',
        'helo_check = "score"\nreputation_threshold = 5',
        'reputation_threshold = 5\n[dns_lists]\n"bl.example" = 5',
        'metrics_listen = ""\nuser = ""\nlog_file = ""\ntls_certificate = ""',
    ):
        loaded(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('listen = ["127.0.0.1:2525", "0.0.0.0:25"]', "who listens on 0.0.0.0:25"),
        ('listen = ["[::]:25"]', r"who listens on \[::\]:25"),
        ('listen_tls = ["192.0.2.25:465"]\ntls_certificate = "x"', "who listens on 192.0.2.25:465"),
        ('proxy_networks = ["127.0.0.1/32"]', "who is behind a proxy"),
    ],
)
def test_who_is_reachable_must_say_whose_mail_is_taken(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf'domains: {why} must say .*\["example.org"\]'):
        loaded(tmp_path, text)


def test_all_complaints_come_at_once(tmp_path: Path) -> None:
    wrong = 'idle_timeout_s = 0\nlog_format = 1\nnonsense = 2\nlisten = ["x", "y"]'
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, wrong)
    keys = [complaint.split(": ")[1] for complaint in caught.value.complaints]
    assert sorted(keys) == ["idle_timeout_s", "listen", "log_format", "nonsense"]
    unfit = 'listen = ["0.0.0.0:25"]\ngroup = "mail"\nreputation_threshold = 1\ntls_key = "k"'
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, unfit)
    keys = [complaint.split(": ")[1] for complaint in caught.value.complaints]
    assert sorted(keys) == ["domains", "group", "reputation_threshold", "tls_key"]
