"""``replay run --target`` as its users meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from real_server import closed_port, handled_by, mailsrv, read_all
from running import GOODBYE, HELLO, replay, write

FAKED = '[world.dns]\n"example.org MX" = { records = ["10 mx.example.org."] }\n'


def run(path: Path, target: str, *arguments: str | Path) -> tuple[int, str, str]:
    return replay("run", path, "--target", target, *arguments, COLUMNS="100")


def test_a_transcript_is_as_expected_at_a_real_server(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp")
    with mailsrv() as target:
        status, out, err = run(path, target.name)
    assert (status, err) == (0, "")
    assert "as expected" in out
    assert "4 departures, later than due by " in out
    assert out.splitlines()[-1].startswith(f"1 capture at {target.name}, ")


def test_what_differs_is_told_with_line_and_both_sides(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp")
    with mailsrv(hostname="mx.other.test") as target:
        status, out, _ = run(path, target.name)
    assert status == 1
    assert "reply 1: text differs (line 5)" in out
    assert r"observed @" in out
    assert r" 220 mx.other.test ESMTP mailsrv\r\n" in out
    assert "1 not as expected" in out


def test_texts_may_differ_where_only_codes_count_or_a_file_of_masks_says_so(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "x.smtp")
    masks = tmp_path / "masks"
    masks.write_text("# greetings\n220 <host> ESMTP <*>\n250 <host>\n")
    for arguments, status in (
        (("--codes-only",), 0),
        (("--masks", masks), 0),
        ((), 1),
    ):
        with mailsrv(hostname="mx.other.test") as target:
            assert run(path, target.name, *arguments)[0] == status


def test_a_mask_in_the_file_does_not_excuse_another_line(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", HELLO.replace("250 mx", "250 my") + GOODBYE)
    masks = tmp_path / "masks"
    masks.write_text("220 <*>\n251 <*>\n250 x<*>\n")
    with mailsrv() as target:
        status, out, _ = run(path, target.name, "--masks", masks)
    assert status == 1
    assert "reply 2: text differs" in out


def test_an_instant_is_held_to_the_tolerance(tmp_path: Path) -> None:
    any_time = (HELLO + GOODBYE).replace("@0        S:", "*         S:").replace("@2ms", "*   ")
    path = write(tmp_path / "x.smtp", any_time.replace("@1ms      S: 250", "@2s       S: 250"))
    with mailsrv() as target:
        status, out, _ = run(path, target.name)
    assert status == 1
    assert " too early (100ms allowed; --tolerance allows more)" in out
    with mailsrv() as target:
        assert run(path, target.name, "--tolerance", "3s")[0] == 0
    with mailsrv() as target:
        assert run(path, target.name, "--tolerance", "1s", "--tolerance", "101%")[0] == 0


def test_the_help_says_that_codes_only_still_compares_instants() -> None:
    assert "instants are compared still" in " ".join(replay("run", "--help").out.split())


def test_machines_get_lateness_what_was_left_out_and_what_was_cut_short(tmp_path: Path) -> None:
    body = HELLO + GOODBYE.replace("reply+1ms", "reply+1h").replace("@2ms", "*   ")
    path = write(tmp_path / "a.smtp", body)
    faked = write(tmp_path / "b.smtp", header=FAKED)
    with mailsrv() as target:
        status, out, _ = run(tmp_path, target.name, "--json", "-", "--max-wait", "0.005")
    assert status == 0
    document = json.loads(out)
    assert document["target"] == target.name
    assert [one["path"] for one in document["scenarios"]] == [str(path)]
    assert document["scenarios"][0]["verdict"] == "as expected"
    assert document["left_out"][0].startswith(f"{faked}: its world is faked")
    assert document["real_lateness_us"]["departures"] == 4
    assert document["real_lateness_us"]["p99"] > 0
    (cut,) = document["cut_short"]
    assert (cut["path"], cut["line"]) == (str(path), 9)
    assert 3_599_000_000_000 < cut["skipped_ns"] < 3_600_000_000_000


def test_what_is_cut_short_and_left_out_is_told_to_people_too(tmp_path: Path) -> None:
    body = HELLO + GOODBYE.replace("reply+1ms", "reply+1h").replace("@2ms", "*   ")
    write(tmp_path / "a.smtp", body)
    write(tmp_path / "b.smtp", header="[server]\nidle_timeout_s = 5\n")
    with mailsrv() as target:
        _, out, _ = run(tmp_path, target.name, "--max-wait", "0.005")
    assert "a.smtp, line 9: waited 59 min 59 s less than it says" in out
    assert "b.smtp: it needs settings of its own" in out
    assert out.splitlines()[-1].endswith("; 1 left out")


def test_all_plays_what_else_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "x.smtp", header=FAKED)
    with mailsrv() as target:
        assert run(tmp_path, target.name, "--all")[0] == 0


def test_where_everything_is_left_out_nothing_was_shown(tmp_path: Path) -> None:
    write(tmp_path / "x.smtp", header=FAKED)
    with closed_port() as target:
        status, _, err = run(tmp_path, target.name)
    assert status == 2
    assert "every transcript was left out" in err


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with closed_port() as target:
        status, out, err = run(write(tmp_path / "x.smtp"), target.name)
    assert (status, out) == (2, "")
    assert err == f"replay: cannot connect to {target.name}: Connection refused\n"


def test_an_unreadable_transcript_does_not_stop_the_others(tmp_path: Path) -> None:
    write(tmp_path / "a.smtp").write_text("+++\n")
    write(tmp_path / "b.smtp")
    with mailsrv() as target:
        status, out, err = run(tmp_path, target.name)
    assert status == 2
    assert "as expected" in out
    assert "a.smtp:" in err


def test_patience_is_an_option(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp")
    with handled_by(read_all) as target:
        status, out, _ = run(path, target.name, "--timeout", "0.02")
    assert status == 1
    assert "the script could not go on: it waited for reply 1" in out


def test_tls_with_anybody_is_told(tmp_path: Path) -> None:
    body = r"""
@0       open from 192.0.2.10
*        S? 220
reply+0  C: STARTTLS\r\n
*        S? 220
reply+0  starttls
*        S tls
+1ms     C: QUIT\r\n
*        S? 221
*        S eof
+0       until-closed
"""
    body = body.replace(
        "C: STARTTLS", r"C: EHLO me\r\n" + "\n*        S? 250\nreply+0  C: STARTTLS"
    )
    path = write(tmp_path / "x.smtp", body, "[world]\ntls = true\n")
    with mailsrv() as target:
        status, out, _ = run(path, target.name)
    assert status == 0
    assert "1 TLS handshakes, with whoever answered: no certificate was verified" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--speed", "2"), "--speed goes with --target"),
        (("--all",), "--all goes with --target"),
        (("--target", "127.0.0.1:25", "--update"), "leave out --target"),
        (("--target", "127.0.0.1:25", "--cuts"), "leave out --target"),
        (("--target", "nowhere"), "a target is HOST:PORT"),
        (("--target", "127.0.0.1:25", "--speed", "0"), "takes a number from 0.001"),
        (("--target", "127.0.0.1:25", "--tolerance", "5"), "or a percentage, as in 5%"),
        (("--target", "127.0.0.1:25", "--ca", "/nowhere.pem"), "/nowhere.pem: No such file"),
        (("--target", "127.0.0.1:25", "--masks", "/nowhere"), "/nowhere: No such file"),
    ],
)
def test_wrong_use_is_one_sentence(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    ran = replay("run", write(tmp_path / "x.smtp"), *arguments)
    assert ran.status == 2
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_a_mistake_in_a_file_of_masks_has_line_and_column(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.write_text("220 <*>\n\n250 <id:(>\n")
    ran = replay("run", write(tmp_path / "x.smtp"), "--target", "127.0.0.1:25", "--masks", masks)
    assert ran.status == 2
    assert f"{masks}:3:9: a pattern takes" in ran.err


def test_a_line_without_a_mask_in_a_file_of_masks_is_refused(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.write_text("220 <*>\n221 2.0.0 Bye\n")
    ran = replay("run", write(tmp_path / "x.smtp"), "--target", "127.0.0.1:25", "--masks", masks)
    assert ran.status == 2
    assert f"{masks}:2:1: a line without a mask excuses nothing" in ran.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--listen", "127.0.0.1:1", "--target", "127.0.0.1:1"), "give one of them"),
        (("--listen", "127.0.0.1:1", "--proxy", "v1"), "--proxy and --ca are about a server"),
        (("--listen", "127.0.0.1:1", "--update"), "leave out --listen"),
        (("--listen", "here"), "a target is HOST:PORT"),
        (("--listen", "192.0.2.1:2525"), "cannot listen on 192.0.2.1:2525"),
    ],
)
def test_a_place_to_listen_goes_with_no_server(
    options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "hop.smtp"
    path.write_text(
        '+++\nstory = "x"\n+++\n@0 listen at 192.0.2.25\n* C open\n+0 close\n', encoding="utf-8"
    )
    done = replay("run", path, *options)
    assert (done.status, said in done.err) == (2, True), done.err
