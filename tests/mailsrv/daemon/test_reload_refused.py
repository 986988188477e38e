"""A reload never opens the defaults: the running configuration stays if the file lost a part."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from process import fields, serving

HUP = signal.SIGHUP
WHOLE = """\
listen = ["127.0.0.1:0"]
domains = ["example.test"]
delivery = "maildir=mail"
"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the file is empty; the running configuration has delivery, domains, listen"),
        ("# to be written\n", "the file is empty"),
        ('listen = ["127.0.0.1:0"]\ndomains = ["example.test"]\n', "delivery: "),
        ('listen = ["127.0.0.1:0"]\ndelivery = "maildir=mail"\n', "domains: "),
        ('domains = ["example.test"]\ndelivery = "maildir=mail"\n', "listen: "),
        ('listen = ["127.0.0.1:0"]\ndomains = ["exam', "is not TOML"),
    ],
)
def test_a_reload_while_the_file_is_empty_or_half_written_changes_nothing(
    tmp_path: Path, text: str, why: str
) -> None:
    with serving(tmp_path, WHOLE, ()) as running:
        (tmp_path / "mailsrv.toml").write_text(text)
        running.ring(HUP)
        assert why in fields(running.log.until('event="reload refused"'))["why"]
        with running.client() as client:
            client.ehlo("client.example")
            client.mail("a@example.org")
            assert client.rcpt("b@example.net")[0] == 550  # our domains are still ours alone
        running.deliver()
        running.log.until("event=delivered")
        assert len(list((tmp_path / "mail" / "new").iterdir())) == 1
        running.end()


def test_what_went_back_to_its_default_is_told(tmp_path: Path) -> None:
    with serving(tmp_path, f"{WHOLE}idle_timeout_s = 60\ngreylist = true\n", ()) as running:
        (tmp_path / "mailsrv.toml").write_text(WHOLE)
        running.ring(HUP)
        line = fields(running.log.until("event=reloaded"))
        assert line["back_to_default"] == "greylist, idle_timeout_s"
        running.end()
