"""The sweep itself: which ways of cutting there are, and that it can tell them apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mailsrv.content import ContentReader
from replay import cli, cuts, transcript

HEADER = '+++\nstory = "x"\n+++\n'
MESSAGE = """\
@0       open from 192.0.2.1
*        S? 220
reply+0  C: HELO a\\r\\n
*        S? 250
reply+0  C: MAIL FROM:<>\\r\\nRCPT TO:<b@c>\\r\\nDATA\\r\\n
*        S? 250
*        S? 250
*        S? 354
reply+2s C: a\\r\\n.\\r\\n
*        S? 250
reply+0  C: QUIT\\r\\n
*        S? 221
reply+0  close
"""


def sweep(steps: str, header: str = HEADER, **options: int) -> cuts.Sweep:
    return cuts.sweep(transcript.parse(header + steps, "x.smtp"), **options)


def test_every_place_is_cut_and_all_at_once_and_octet_by_octet_are_played_too() -> None:
    found = sweep(MESSAGE)
    assert found.good
    assert found.octets == len("HELO a..MAIL FROM:<>..RCPT TO:<b@c>..DATA..a.....QUIT..")
    assert (found.places, found.variants) == (found.octets - 1, found.octets + 1)


def test_fewer_places_are_taken_at_even_distances_and_the_result_says_so() -> None:
    found = sweep(MESSAGE, cuts_max=10)
    assert 2 < found.variants <= 12
    assert list(cuts.told(found)) == [
        f"55 octets in {found.variants} of 56 ways of cutting them: always the same"
    ]


def test_a_server_that_overlooks_an_end_of_data_in_two_pieces_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forgets(self: ContentReader, data: bytes) -> bytes:
        self._kept_back = b""
        return data

    monkeypatch.setattr(ContentReader, "_keep_back", forgets)
    found = sweep(MESSAGE)
    assert not found.good
    assert "cut after octet" in found.cut or "octet by octet" in found.cut
    lines = list(cuts.told(found))
    assert lines[0].startswith("differs: ")
    assert any("as written:" in line and "250 2.0.0" in line for line in lines)


def test_a_message_taken_otherwise_is_found_though_the_replies_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feed = ContentReader.feed

    def loses(self: ContentReader, chunk: bytes) -> tuple[bytes, int]:
        octets, after = feed(self, chunk)
        return (b"" if chunk == b"a" else octets), after

    monkeypatch.setattr(ContentReader, "feed", loses)
    found = sweep(MESSAGE)
    assert not found.good
    assert any("accepted: <> to <b@c>: a" in line for line in cuts.told(found))


def test_policies_about_segmentation_are_let_be() -> None:
    header = '+++\nstory = "x"\n[server]\ngreet_wait_s = 6\nearly_talkers = "reject"\n+++\n'
    assert sweep(MESSAGE.replace("reply+2s", "reply+0"), header).good


def test_pauses_of_the_sender_do_not_count_and_those_of_the_server_do() -> None:
    errors = "@0 open from 192.0.2.1\n* S? 220\n" + 12 * "+90s C: FOO\\r\\n\n* S? 500\n"
    assert sweep(errors + "reply+0 close\n").good


def test_a_half_close_stays_behind_what_was_said() -> None:
    found = sweep(
        "@0 open from 192.0.2.1\n+0 C: HELO a\\r\\nQUIT\\r\\n\n+0 half-close\n"
        "* S? 220\n* S? 250\n* S? 221\n* S eof\n+0 until-closed\n"
    )
    assert found.good
    assert found.octets == 14


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ("@0 open from 192.0.2.1\n* S? 220\nreply+0 close\n", "says nothing"),
        ("@0 open from 192.0.2.1\n+0 stop-reading\n+0 C: A\n+0 close\n", "stops reading"),
        (
            "@0 a| open from 192.0.2.1\n@0 b| open from 192.0.2.1\n"
            "+0 a| C: A\n+0 a| close\n+0 b| close\n",
            "several connections",
        ),
        (
            "@0 open from 192.0.2.1\n* S? 220\n+0 C: A\n* S? 500\n* S? 500\nreply+0 C: B\n+0 close\n",
            "only with its pauses",
        ),
    ],
)
def test_what_cannot_be_swept_is_left_out_with_a_word(steps: str, why: str) -> None:
    found = sweep(steps)
    assert (found.good, found.variants) == (True, 0)
    assert why in found.left_out


def test_the_command_tells_of_each_and_its_status_says_whether_all_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.smtp"
    path.write_text(HEADER + MESSAGE)
    assert cli.main(["run", "--cuts", str(path)]) == 0
    assert "55 octets in 56 ways of cutting them: always the same" in capsys.readouterr().out
    assert cli.main(["run", "--cuts", str(path), "--json", "-"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["scenarios"]
    assert (one["verdict"], one["ways_played"]) == ("always the same", 56)
    monkeypatch.setattr(ContentReader, "_keep_back", lambda self, data: data)
    assert cli.main(["run", "--cuts", str(path)]) == 1
    assert "differs: " in capsys.readouterr().out


def test_the_command_names_a_transcript_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.smtp"
    path.write_text("nothing")
    assert cli.main(["run", "--cuts", str(path)]) == 2
    assert f"{path}:1:1: " in capsys.readouterr().err
