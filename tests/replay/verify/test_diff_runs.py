"""Whom a tighter configuration would hurt: each sender's verdict under two of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import CAPTURES, transcript_text

from replay.transcript import transcript
from replay.verify import suite
from replay.verify.diff_runs import OWN, ComparedPolicy, PolicyError, diff_policies, read_policy
from replay.verify.divergence import DiffVerdict, Divergence

MAILING = r"""
{at}       {c}open from {client}
*          {c}S? 220
reply+1ms  {c}C: HELO me.example\r\n
*          {c}S? 250
reply+1ms  {c}C: MAIL FROM:<ann@example.org>\r\n
*          {c}S? 250
reply+1ms  {c}C: RCPT TO:<bob@example.test>\r\n
*          {c}S? 250
reply+1ms  {c}C: DATA\r\n
*          {c}S? 354
reply+{pause} {c}C: Subject: {subject}\r\n
           {c}C: \r\n
           {c}C: .\r\n
*          {c}S? 250
reply+1ms  {c}C: QUIT\r\n
*          {c}S? 221
reply+1ms  {c}close
"""


def mailing(
    at: str = "@0",
    name: str = "",
    client: str = "192.0.2.1",
    pause: str = "1ms",
    subject: str = "x",
) -> str:
    """One connection that delivers one message."""
    column = f"{name}| " if name else ""
    return MAILING.format(at=at, c=column, client=client, pause=pause, subject=subject)


def parted(body: str, *policies: str, header: str = "", keep_own: bool = False) -> list[Divergence]:
    """The senders of a transcript, under A and B; with one policy it is B."""
    scenario = transcript.parse(transcript_text(body, header), "x.smtp")
    read = [read_policy(one) for one in policies]
    a, b = read if len(read) == 2 else (OWN, read[0])
    return diff_policies("x", scenario, a, b, keep_own=keep_own)


def on_file(folder: str, a: ComparedPolicy, b: ComparedPolicy) -> dict[str, Divergence]:
    """The senders of captures/FOLDER."""
    found = {}
    for path in suite.find([CAPTURES / folder]):
        scenario = transcript.parse(transcript.read_text(path), str(path))
        for one in diff_policies(path.stem, scenario, a, b):
            found[f"{one.scenario}{one.connection and '/'}{one.connection}"] = one
    return found


def verdicts(partings: list[Divergence]) -> list[DiffVerdict]:
    return [one.verdict for one in partings]


# -- timeouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pause_ms", "cut"), [(1, False), (59_999, False), (60_000, False), (60_002, True)]
)
def test_an_idle_timeout_cuts_off_exactly_those_who_pause_longer(pause_ms: int, cut: bool) -> None:
    body = f"""
@0 open from 192.0.2.1
*  S? 220
reply+{pause_ms}ms C: NOOP\\r\\n
*  S? 250
reply+0 close
"""
    (one,) = parted(body, "idle_timeout_s = 300", "idle_timeout_s = 60")
    assert one.verdict is (DiffVerdict.CUT_OFF if cut else DiffVerdict.SAME)
    assert one.why == ("limit: idle" if cut else "")


def test_who_is_cut_off_is_told_with_the_limit_and_how_far_it_had_come() -> None:
    (one,) = parted(mailing(pause="90s"), "content_start_timeout_s = 20")
    assert (one.verdict, one.why) == (DiffVerdict.CUT_OFF, "limit: content start")
    assert (one.loses_mail, one.lost, one.messages_a, one.messages_b) == (True, 1, 1, 0)
    assert (one.reply, one.replies_before) == (6, 5)
    said = rb"HELO me.example..MAIL FROM:<ann@example.org>..RCPT TO:<bob@example.test>..DATA.."
    assert one.octets_before == len(said)
    assert (one.a.text[:3], one.a.at_ns) == ("250", 90_004_000_000)
    assert (one.b.text[:3], one.b.at_ns) == ("421", 20_004_000_000)


def test_of_the_captures_on_file_an_idle_timeout_hurts_those_who_pause() -> None:
    a, b = (ComparedPolicy("", {"idle_timeout_s": seconds}) for seconds in (300, 60))
    slow = on_file("slow", a, b)
    assert {name for name, one in slow.items() if one.loses_mail} == {"silent-for-ninety-seconds"}
    sooner = {name for name, one in slow.items() if one.verdict is DiffVerdict.CUT_OFF_SOONER}
    assert sooner == {"idle-until-421", "never-says-a-word"}
    assert slow["idle-until-421"].gap_ns == -240_000_000_000
    for folder in ("mta", "client"):
        assert {one.verdict for one in on_file(folder, a, b).values()} == {DiffVerdict.SAME}


# -- greet wait -----------------------------------------------------------------------------------

EARLY = r"""
@0         open from 192.0.2.66
@100ms     C: EHLO spam.example\r\n
           C: MAIL FROM:<a@example.org>\r\n
           C: RCPT TO:<b@example.test>\r\n
           C: DATA\r\n
           C: x\r\n
           C: .\r\n
*          S? 220
*          S? 250
*          S? 250
*          S? 250
*          S? 354
*          S? 250
+1min      close
"""


def test_a_greet_wait_refuses_who_talks_early_and_delays_who_waits() -> None:
    (early,) = parted(EARLY, "greet_wait_s = 5")
    assert (early.verdict, early.why) == (DiffVerdict.REFUSED, "check: early talker")
    assert (early.reply, early.loses_mail, early.unproven) == (1, True, 0)
    (patient,) = parted(mailing(), "greet_wait_s = 5")
    assert (patient.verdict, patient.gap_ns) == (DiffVerdict.SLOWER, 5_000_000_000)
    assert patient.messages_b == 1


def test_who_leaves_before_the_greeting_comes_is_left_without_an_answer() -> None:
    body = "@0 open from 192.0.2.1\n* S? 220\n@1s reset"
    (one,) = parted(body, "greet_wait_s = 5")
    assert one.verdict is DiffVerdict.UNANSWERED
    assert not one.b.text
    assert not one.loses_mail


# -- greylist -------------------------------------------------------------------------------------


def test_a_greylist_defers_who_comes_once_and_says_that_it_would_have_to_come_again() -> None:
    (one,) = parted(mailing(), "greylist = true")
    assert (one.verdict, one.why, one.lost) == (DiffVerdict.DEFERRED, "check: greylist", 1)
    assert one.asked == "to RCPT TO:<bob@example.test>"
    assert not one.loses_mail


def test_who_came_again_with_the_same_message_is_only_deferred() -> None:
    twice = mailing(name="first") + mailing("@10min", "again")
    first, again = parted(twice, "greylist = true")
    assert (first.verdict, first.lost) == (DiffVerdict.CAME_AGAIN, 0)
    assert again.verdict is DiffVerdict.SAME


def test_another_message_between_the_same_two_is_no_second_try() -> None:
    twice = mailing(name="first") + mailing("@10min", "again", subject="another")
    assert verdicts(parted(twice, "greylist = true")) == [DiffVerdict.DEFERRED, DiffVerdict.SAME]


def test_who_comes_again_too_soon_or_never_is_still_deferred() -> None:
    twice = mailing(name="first") + mailing("@1min", "again")
    assert verdicts(parted(twice, "greylist = true")) == [DiffVerdict.DEFERRED] * 2


def test_what_was_said_to_a_server_that_does_not_listen_proves_nothing() -> None:
    """Refused DATA, the script says its message as commands, which are a delivery of their own."""
    smuggling = r"""
@0         open from 192.0.2.1
*          S? 220
reply+0    C: HELO me.example\r\n
*          S? 250
reply+0    C: MAIL FROM:<a@example.org>\r\n
           C: RCPT TO:<b@example.test>\r\n
           C: DATA\r\n
*          S? 250
*          S? 250
*          S? 354
reply+0    C: RSET\r\n
           C: MAIL FROM:<c@example.org>\r\n
           C: .\r\n
*          S? 250
reply+0    C: MAIL FROM:<a@example.org>\r\n
           C: RCPT TO:<d@example.test>\r\n
           C: DATA\r\n
*          S? 250
*          S? 250
*          S? 354
reply+0    C: x\r\n
           C: .\r\n
*          S? 250
reply+1min close
"""
    (one,) = parted(smuggling, "greylist = true")
    assert (one.verdict, one.reply) == (DiffVerdict.DEFERRED, 4)
    assert (one.lost, one.unproven, one.messages_a) == (1, 1, 2)


# -- what else a policy changes -------------------------------------------------------------------


def test_one_of_two_recipients_refused_is_mail_lost() -> None:
    other = "C: RCPT TO:<joe@example.net>\\r\\n\n*          S? 250\n"
    body = mailing().replace("reply+1ms  C: DATA", f"reply+1ms {other}reply+1ms C: DATA")
    (one,) = parted(body, 'domains = ["example.test"]')
    assert (one.verdict, one.why) == (DiffVerdict.REFUSED, "check: relay")
    assert (one.lost, one.messages_a, one.messages_b) == (1, 1, 1)
    assert one.loses_mail


def test_a_refusal_stands_before_a_deferral_that_came_first() -> None:
    body = mailing().replace(
        "reply+1ms  C: DATA",
        "reply+1ms C: RCPT TO:<joe@example.net>\\r\\n\n* S? 250\nreply+1ms C: DATA",
    )
    (one,) = parted(body, 'greylist = true\ndomains = ["example.test"]')
    assert (one.verdict, one.reply) == (DiffVerdict.REFUSED, 5)


def test_what_only_b_accepts_is_told() -> None:
    (one,) = parted(mailing(), "message_octets = 5", "message_octets = 5000")
    assert (one.verdict, one.messages_a, one.messages_b) == (DiffVerdict.ONLY_B, 0, 1)


def test_the_end_of_a_message_may_be_refused_too() -> None:
    (one,) = parted(mailing(), "message_octets = 5")
    assert (one.verdict, one.why, one.asked) == (
        DiffVerdict.REFUSED,
        "check: size",
        "to the message",
    )


def test_other_words_of_the_same_code_are_text() -> None:
    (one,) = parted(mailing().replace("HELO", "EHLO"), "recipients = 500")
    assert (one.verdict, one.reply) == (DiffVerdict.OTHER_TEXT, 2)


def test_several_connections_are_senders_of_their_own_and_limits_know_them_all() -> None:
    both = mailing(name="first", pause="10s") + mailing("@1s", "second", subject="another")
    first, second = parted(both, "connections_per_client = 1")
    assert (first.verdict, first.connection) == (DiffVerdict.SAME, "first")
    assert (second.verdict, second.why) == (DiffVerdict.CUT_OFF, "limit: 1 from 192.0.2.1")
    assert second.loses_mail


def test_the_connection_that_comes_first_is_the_servers_first_wherever_it_stands() -> None:
    """The reasons come from the server's log, which counts as they come."""
    late = mailing("@5min", "late")
    silent = "@0 silent| open from 192.0.2.7\n* silent| S? 220\n+0 silent| until-closed\n"
    late_one, silent_one = parted(late + silent, "greylist = true\nidle_timeout_s = 60")
    assert late_one.why == "check: greylist"
    assert (silent_one.verdict, silent_one.why) == (DiffVerdict.CUT_OFF_SOONER, "limit: idle")


def test_identical_policies_change_nothing_on_file() -> None:
    policy = read_policy("greylist = true\nidle_timeout_s = 30\ngreet_wait_s = 2")
    for folder in ("greylist", "early", "tls", "client"):
        found = on_file(folder, policy, policy)
        assert {one.verdict for one in found.values()} == {DiffVerdict.SAME}


# -- policies -------------------------------------------------------------------------------------


def test_a_policy_lies_over_the_transcripts_settings_unless_these_are_kept() -> None:
    header = "[server]\nmessage_octets = 5000\n"
    (over,) = parted(mailing(), "message_octets = 5", header=header)
    assert over.verdict is DiffVerdict.REFUSED
    (kept,) = parted(mailing(), "message_octets = 5", header=header, keep_own=True)
    assert kept.verdict is DiffVerdict.SAME


def test_what_a_policy_does_not_say_stays_as_the_transcript_has_it() -> None:
    header = "[server]\nmessage_octets = 5\n"
    (one,) = parted(mailing(), "idle_timeout_s = 200", header=header)
    assert (one.verdict, one.messages_a) == (DiffVerdict.SAME, 0)


def test_a_whole_configuration_is_a_policy_and_what_is_left_out_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mx.toml"
    path.write_text(
        'hostname = "mx.example.org"\nlisten = ["0.0.0.0:25"]\nlog_format = "json"\n'
        'domains = ["*"]\ngreet_wait_s = 5\n'
    )
    policy = read_policy(str(path))
    assert policy.settings == {"domains": ["*"], "greet_wait_s": 5}
    assert policy.ignored == ("hostname", "listen", "log_format")
    assert policy.described(OWN) == f'{path} (domains = ["*"], greet_wait_s = 5)'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("idle_timout_s = 60", "--policy: idle_timout_s: no such setting; did you mean"),
        ("idle_timeout_s = 'x'", "--policy: idle_timeout_s: takes"),
        ("idle_timeout_s = ", "--policy: is not TOML"),
        ("a = " + "[" * 5000, "--policy: is not TOML"),
        ("nowhere.toml", "nowhere.toml: cannot be read: No such file"),
        ("x" * 5000, "cannot be read: File name too long"),
        ("a\0b", "cannot be read: no file can have this name"),
        (
            "errors_hard = 3\nerrors_soft = 5",
            "--policy: errors_soft: takes errors_hard (3) at most",
        ),
    ],
)
def test_a_policy_that_cannot_be_is_refused_with_a_word(text: str, complaint: str) -> None:
    with pytest.raises(PolicyError) as error:
        read_policy(text)
    assert complaint in str(error.value)


def test_a_policy_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path) -> None:
    for octets, complaint in ((b"\xff\xfe", "not UTF-8"), (b"#" * 2_000_000, "larger than")):
        path = tmp_path / "x.toml"
        path.write_bytes(octets)
        with pytest.raises(PolicyError, match=complaint):
            read_policy(str(path))
