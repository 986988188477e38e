"""What pytest users see: transcripts as tests, clear complaints, fixtures that clean up."""

from __future__ import annotations

import gc
import subprocess
import sys
from xml.etree import ElementTree

import pytest

pytest_plugins = ["pytester"]

IN_FULL = "-vv"
"""Makes pytest's summary say all of its lines, however narrow the terminal."""

SLEEPY = r"""
+++
story = "A sender falls asleep and is told so."
[server]
idle_timeout_s = 60
+++
@0    open from 192.0.2.1
@0    S: 220 mx.example.test ESMTP mailsrv\r\n
# Nothing more is said.
@60s  S? 421
@60s  S eof
+0    until-closed
""".lstrip()


def test_loading_the_plugin_imports_nothing_but_pytest_and_the_standard_library() -> None:
    program = (
        "import sys, pytest\n"
        "before = set(sys.modules)\n"
        "import replay.pytest_plugin\n"
        "print(*sorted(set(sys.modules) - before - set(sys.stdlib_module_names)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["replay", "replay.pytest_items", "replay.pytest_plugin"]


def test_a_whole_pytest_run_without_transcripts_loads_none_of_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_loaded():
            names = {name.partition(".")[0] for name in sys.modules}
            assert not names & {"mailsrv", "dpkt", "rich", "hdrh"}
            loaded = {name for name in sys.modules if name.startswith("replay")}
            assert loaded == {"replay", "replay.pytest_items", "replay.pytest_plugin"}
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_a_transcript_is_collected_under_a_stable_name_and_passes(
    pytester: pytest.Pytester,
) -> None:
    folder = pytester.mkdir("captures")
    (folder / "sleepy.smtp").write_text(SLEEPY)
    (folder / "sleepy.pcap").write_bytes(b"somebody else's")
    result = pytester.runpytest("-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["captures/sleepy.smtp::transcript PASSED*"])


TELLS_WHAT_IS_FROZEN = """
    import gc

    def pytest_sessionfinish():
        print("frozen", gc.get_freeze_count() > 1000)
"""


def test_no_collection_of_garbage_looks_at_what_is_loaded_where_all_tests_are_transcripts(
    pytester: pytest.Pytester,
) -> None:
    (pytester.path / "sleepy.smtp").write_text(SLEEPY)
    pytester.makeconftest(TELLS_WHAT_IS_FROZEN)
    result = pytester.runpytest_subprocess()
    result.stdout.fnmatch_lines(["*frozen True*"])


def test_the_memory_of_other_tests_beside_transcripts_is_left_alone(
    pytester: pytest.Pytester,
) -> None:
    (pytester.path / "sleepy.smtp").write_text(SLEEPY)
    pytester.makepyfile("def test_other(): pass")
    pytester.makeconftest(TELLS_WHAT_IS_FROZEN)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*frozen False*"])


def test_a_run_of_transcripts_within_a_process_leaves_nothing_frozen_in_it(
    pytester: pytest.Pytester,
) -> None:
    (pytester.path / "sleepy.smtp").write_text(SLEEPY)
    before = gc.get_freeze_count()
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    assert gc.get_freeze_count() <= before


def test_transcripts_can_be_selected_by_their_marker(pytester: pytest.Pytester) -> None:
    (pytester.path / "sleepy.smtp").write_text(SLEEPY)
    pytester.makepyfile("def test_other(): pass")
    result = pytester.runpytest("--strict-markers", "-m", "smtp_replay")
    result.assert_outcomes(passed=1, deselected=1)


def test_another_timeout_fails_with_the_line_the_reply_and_both_times(
    pytester: pytest.Pytester,
) -> None:
    text = SLEEPY.replace("idle_timeout_s = 60", "idle_timeout_s = 45")
    (pytester.path / "sleepy.smtp").write_text(text)
    result = pytester.runpytest(IN_FULL)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "_* transcript sleepy.smtp _*",
            "sleepy.smtp:9: reply 2: 15s too early",
            "  expected @60s *421*",
            "  observed @45s *421*",
            "sleepy.smtp:10: the server's end: 15s too early",
            "sleepy.smtp: A sender falls asleep and is told so.",
            "*Captured server log call*",
            "*event=timeout*",
            "FAILED sleepy.smtp::transcript - Failed: sleepy.smtp:9: reply 2: 15s too early",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")
    result.stdout.no_fnmatch_line("*pytest_items.py*")


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("@60s  S? 421", "@60s  S? soon", "sleepy.smtp:9:*"),
        ("idle_timeout_s", "idle_timeuot_s", "sleepy.smtp*idle_timeuot_s*idle_timeout_s*"),
        ("story =", "[world.dns]\n'a' = 1\n[x]\nstory =", "sleepy.smtp*"),
        ("Nothing more", "Nothing\udcff more", "sleepy.smtp:8:10: a transcript is *"),
    ],
)
def test_a_broken_transcript_fails_in_one_sentence_and_stops_no_other_test(
    pytester: pytest.Pytester, before: str, after: str, complaint: str
) -> None:
    broken = SLEEPY.replace(before, after).encode("utf-8", "surrogateescape")
    (pytester.path / "sleepy.smtp").write_bytes(broken)
    pytester.makepyfile("def test_other(): pass")
    result = pytester.runpytest(IN_FULL)
    result.assert_outcomes(passed=1, failed=1)
    shown = ["_* transcript sleepy.smtp _*", complaint, "*short test*", f"*Failed: {complaint}"]
    result.stdout.fnmatch_lines(shown)
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*.py:[0-9]*")
    result.stdout.no_fnmatch_line("*During handling*")


@pytest.mark.parametrize(
    "octets", [b"", b"HELO relay\n", b"[relay]\n+++\n", b"\xff\x00", b"+++x\n", b" +++\n"]
)
def test_somebody_elses_smtp_file_is_none_of_ours(pytester: pytest.Pytester, octets: bytes) -> None:
    (pytester.path / "relay.smtp").write_bytes(octets)
    pytester.makepyfile("def test_other(): pass")
    result = pytester.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*relay.smtp*")


def test_virtual_duration_and_trace_hash_reach_the_junit_report_and_are_the_same_again(
    pytester: pytest.Pytester,
) -> None:
    (pytester.path / "sleepy.smtp").write_text(SLEEPY)
    seen = []
    for name in ("one.xml", "two.xml"):
        pytester.runpytest(f"--junit-xml={name}").assert_outcomes(passed=1)
        properties = ElementTree.parse(pytester.path / name).iter("property")
        seen.append({one.get("name"): one.get("value") for one in properties})
    assert seen[0] == seen[1]
    assert seen[0]["virtual_ns"] == "60000000000"
    assert len(seen[0]["trace_hash"] or "") == 64


# -- fixtures -------------------------------------------------------------------------------------


def test_a_server_and_its_senders_live_in_virtual_time(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_a_sleeper(mail_server):
            server = mail_server(idle_timeout_s=90)
            server.world.dns["example.org MX"] = ["10 mx.example.org."]
            first, second = server.sender(), server.sender("2001:db8::1")
            first.expect(220)
            second.expect(220)
            server.advance(60)
            second.send("NOOP")
            second.expect(250)
            assert first.expect(421).at_ns == 90 * 10**9
            assert server.clock.monotonic_ns() - server.harness.now_ns > 0
            assert any("2001:db8::1" in line for line in server.log) is False
            assert server.messages == []

        def test_a_clock(fake_clock):
            fake_clock.advance(1.5)
            assert fake_clock.monotonic_ns() == 1_500_000_000
        """
    )
    pytester.runpytest().assert_outcomes(passed=2)


def test_what_a_test_leaves_behind_is_an_error_at_its_end(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_leaves_a_timer(mail_server):
            loop = mail_server().harness.server.loop
            loop.timers.schedule(loop.now_ns + 10**18, print)
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E *Leaked: left after the server's shutdown: 1 timer*"])


def test_a_failing_expectation_shows_the_tests_own_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_it(mail_server):
            sender = mail_server().sender()
            sender.expect(220)
            sender.wait(2)
            sender.send("BOGUS")
            sender.expect(250)
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            ">       sender.expect(250)",
            "E *Unexpected: sender 192.0.2.1 expected 250, came at 2s: 500 5.5.2 *",
        ]
    )
    result.stdout.no_fnmatch_line("*/sender.py:*")
    result.stdout.no_fnmatch_line("*virtual_sender.py:*")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("server.sender('nonsense')", "*ValueError: a sender comes from an IPv4 or IPv6 *"),
        ("sender.send('x', pause=-5)", "*ValueError: a pause is a number of seconds *"),
        ("sender.send('x', pause=float('nan'))", "*ValueError: a pause is a number of seconds *"),
        ("sender.wait(-5)", "*ValueError: a pause is a number of seconds *"),
        ("server.advance(-10)", "*ValueError: an advance is a number of seconds *"),
        ("sender.expect('25')", "*TypeError: expect takes a reply code, such as 250 *"),
        ("sender.send('NOOP\\r\\n')", "*ValueError: send('NOOP\\r\\n'): text gets its CRLF *"),
    ],
)
def test_misuse_of_the_fixtures_fails_at_the_tests_own_line_in_one_sentence(
    pytester: pytest.Pytester, line: str, sentence: str
) -> None:
    pytester.makepyfile(
        f"""
        def test_it(mail_server):
            server = mail_server()
            sender = server.sender()
            {line}
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f">       {line.replace('[', '[[]')}", f"E {sentence}"])
    result.stdout.no_fnmatch_line("*sender.py:*")
    result.stdout.no_fnmatch_line("*pytest_plugin.py:*")
    result.stdout.no_fnmatch_line("*During handling*")


def test_a_failing_test_shows_its_servers_logs_and_a_passing_one_does_not(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        def test_good(mail_server):
            mail_server().sender("192.0.2.9").send("BOGUS good")

        def test_one(mail_server):
            mail_server().sender("192.0.2.1").send("BOGUS one")
            assert False

        def test_two(mail_server):
            mail_server().sender("192.0.2.2").send("BOGUS two")
            mail_server().sender("192.0.2.3").send("BOGUS three")
            assert False
        """
    )
    result = pytester.runpytest("-rA")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "-* Captured server log call -*",
            "*event=refused connection=1 client=192.0.2.1 *",
            "-* Captured server 1 log call -*",
            "*event=refused connection=1 client=192.0.2.2 *",
            "-* Captured server 2 log call -*",
            "*event=refused connection=1 client=192.0.2.3 *",
        ],
        consecutive=False,
    )
    result.stdout.no_fnmatch_line("*client=192.0.2.9 *")


def test_an_unknown_setting_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(mail_server): mail_server(idle_timeout=3)")
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *server.idle_timeout: * did you mean idle_timeout_s*"])


def test_a_transcript_can_be_run_from_a_test(pytester: pytest.Pytester) -> None:
    folder = pytester.mkdir("data")
    (folder / "good.smtp").write_text(SLEEPY)
    (folder / "bad.smtp").write_text(SLEEPY.replace("S? 421", "S? 220"))
    pytester.makepyfile(
        """
        def test_good(smtp_replay):
            assert smtp_replay("data/good.smtp").virtual_ns == 60 * 10**9

        def test_bad(smtp_replay):
            smtp_replay("data/bad.smtp")

        def test_absent(smtp_replay):
            smtp_replay("data/absent.smtp")
        """
    )
    result = pytester.runpytest(IN_FULL, "--deselect", "data", "-k", "test_")
    result.assert_outcomes(passed=1, failed=2, deselected=2)
    result.stdout.fnmatch_lines(
        [
            "data/bad.smtp:9: reply 2: code 421 instead of 220",
            "data/bad.smtp: A sender falls asleep and is told so.",
            "*Captured server log call*",
            "data/absent.smtp: No such file or directory",
            "FAILED *::test_bad - Failed: data/bad.smtp:9: reply 2: *",
            "FAILED *::test_absent - Failed: data/absent.smtp: No such file or directory",
        ]
    )
    result.stdout.no_fnmatch_line("*During handling*")
