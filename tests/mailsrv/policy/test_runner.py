"""The counsel: what is asked when, whose answer decides, and what becomes of late ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from advising import (
    NXDOMAIN,
    Advised,
    Asked,
    policy,
    recipient,
    records,
    sender,
)

from mailsrv.policy.effects import AllOf, Deliberation, DnsLookup, ScreeningResult, look_up
from mailsrv.policy.lookups import DnsAnswer, NoReputation, NoResolver, Rating
from mailsrv.policy.policy import ClientStanding, Policy
from mailsrv.policy.runner import PolicyContext, PolicyRunner
from mailsrv.settings import DnsList, Settings
from mailsrv.smtp import reply
from mailsrv.smtp.events import Question
from mailsrv.smtp.reply import Reply

PTR = "10.2.0.192.in-addr.arpa PTR"
LISTED = "10.2.0.192.bl.example A"
BLOCK_LIST = DnsList("bl.example", "127.0.0.0/8", 5)
EVERYTHING = policy(
    reputation_threshold=5,
    dns_lists=(BLOCK_LIST,),
    reverse_name_check="reject",
    helo_check="reject",
    sender_domain_check="reject",
)


def begun(policy: Policy = EVERYTHING) -> tuple[Advised, Asked]:
    asked = Asked()
    one = Advised(policy, asked)
    one.counsel.begin()
    return one, asked


# -- the screening --------------------------------------------------------------------------------


def test_what_needs_only_the_address_is_asked_when_the_client_connects_side_by_side() -> None:
    _, asked = begun()
    assert asked.waiting == ["reputation", LISTED, PTR]


def test_mail_waits_for_the_screening_and_its_own_lookups_run_meanwhile() -> None:
    one, asked = begun()
    assert one.ask(sender()) == []
    assert asked.waiting[-2:] == ["client.example A", "example.org MX"]
    asked.answer("client.example A", records("192.0.2.10"))
    asked.answer("example.org MX", records("10 mx.example.org."))
    asked.answer("reputation", Rating(0))
    asked.answer(LISTED, NXDOMAIN)
    asked.answer(PTR, records("client.example."))
    assert one.verdicts == []
    asked.answer("client.example A", records("192.0.2.10"))
    assert one.verdicts == [None]
    assert asked.waiting == []


def test_a_screening_that_was_faster_is_used_at_once() -> None:
    one, asked = begun(policy(reputation_threshold=5))
    asked.answer("reputation", Rating(5))
    assert one.ask(sender()) == [reply.bad_reputation(5, 5, ())]


def test_a_client_is_screened_once_for_all_its_mail() -> None:
    one, asked = begun(policy(reputation_threshold=5))
    asked.answer("reputation", Rating(4))
    one.ask(sender())
    one.ask(sender("b@example.org"))
    assert (one.verdicts, asked.questions) == ([None, None], ["reputation"])


def test_who_asks_without_having_begun_is_screened_then() -> None:
    asked = Asked()
    one = Advised(policy(reputation_threshold=5), asked)
    one.ask(sender())
    asked.answer("reputation", Rating(9))
    assert one.verdicts == [reply.bad_reputation(9, 5, ())]


# -- time is up -----------------------------------------------------------------------------------


def test_when_time_is_up_what_is_open_counts_as_unanswered() -> None:
    one, asked = begun(policy(sender_domain_check="reject"))
    one.ask(sender())
    one.counsel.expire()
    assert one.verdicts == [reply.RESOLVER_TROUBLE]
    assert one.notes == [("unanswered", {"wanted": "example.org MX"})]
    assert asked.questions == ["example.org MX"]


def test_a_silent_list_and_a_silent_reputation_stop_no_mail() -> None:
    one, _ = begun(policy(reputation_threshold=5, dns_lists=(BLOCK_LIST,)))
    one.ask(sender())
    one.counsel.expire()
    assert one.verdicts == [None]
    assert ("unanswered", {"wanted": f"reputation, {LISTED}"}) in one.notes
    assert ("list does not answer", {"list": "bl.example", "why": "TIMEOUT"}) in one.notes


def test_what_has_answered_counts_when_time_is_up() -> None:
    lists = (BLOCK_LIST, DnsList("dead.example", "127.0.0.0/8", 5))
    one, asked = begun(policy(reputation_threshold=5, dns_lists=lists))
    one.ask(sender())
    asked.answer(LISTED, records("127.0.0.2"))
    asked.answer("1.0.0.127.bl.example A", NXDOMAIN)
    one.counsel.expire()
    assert one.verdicts == [reply.bad_reputation(5, 5, ("+5 bl.example (127.0.0.2)",))]


def test_an_answer_after_time_was_up_is_nobodys() -> None:
    one, asked = begun()
    one.ask(sender())
    one.counsel.expire()
    (verdict,) = one.verdicts
    for question in asked.waiting:
        asked.answer(question, Rating(99) if question == "reputation" else NXDOMAIN)
    assert one.verdicts == [verdict]
    assert asked.waiting == []


def test_the_next_question_has_its_own_time() -> None:
    one, asked = begun(policy(sender_domain_check="reject"))
    one.ask(sender())
    one.counsel.expire()
    one.ask(sender("b@example.net"))
    assert len(one.verdicts) == 1
    asked.answer("example.net MX", records("10 mx.example.net."))
    assert one.verdicts[1:] == [None]


def test_a_question_asked_as_the_last_one_expires_has_its_own_time() -> None:
    asked = Asked()
    verdicts: list[Reply | None] = []
    counsel = PolicyRunner(
        policy(sender_domain_check="reject"), PolicyContext(asked, asked), "192.0.2.10"
    )

    def decided(verdict: Reply | None) -> None:
        verdicts.append(verdict)
        counsel.ask(sender("b@example.net"), verdicts.append)

    counsel.ask(sender(), decided)
    counsel.expire()
    assert verdicts == [reply.RESOLVER_TROUBLE]
    asked.answer("example.net MX", NXDOMAIN)
    assert verdicts[1:] == [reply.SENDER_DOMAIN_UNKNOWN]


def test_expiry_without_anything_open_is_harmless() -> None:
    one, _ = begun(policy(sender_domain_check="reject"))
    one.counsel.expire()
    assert (one.verdicts, one.notes) == ([], [])


def test_after_time_was_up_nothing_more_is_asked() -> None:
    def two() -> Deliberation[Reply]:
        yield from look_up("first.example", "A")
        yield from look_up("second.example", "A")
        return reply.GREYLISTED

    asked = Asked()
    one = Advised(Scripted(two()), asked)
    one.ask(recipient())
    one.counsel.expire()
    assert (one.verdicts, asked.questions) == ([reply.GREYLISTED], ["first.example A"])


# -- the client is gone ---------------------------------------------------------------------------


def test_after_the_client_has_gone_no_question_is_asked_and_nobody_called() -> None:
    one, asked = begun()
    one.ask(sender())
    before = list(asked.questions)
    one.counsel.cancel()
    one.counsel.cancel()
    for question in asked.waiting:
        asked.answer(question, Rating(9) if question == "reputation" else records("x.example."))
    assert (one.verdicts, asked.questions) == ([], before)


def test_a_client_may_go_within_the_verdict() -> None:
    asked = Asked()
    counsel = PolicyRunner(
        policy(sender_domain_check="reject"), PolicyContext(asked, asked), "192.0.2.10"
    )
    verdicts: list[Reply | None] = []

    def decided(verdict: Reply | None) -> None:
        verdicts.append(verdict)
        counsel.cancel()

    counsel.ask(sender(), decided)
    asked.answer("example.org MX", NXDOMAIN)
    assert verdicts == [reply.SENDER_DOMAIN_UNKNOWN]


def test_a_question_asked_anew_drops_the_one_before() -> None:
    one, asked = begun(policy(sender_domain_check="reject"))
    one.ask(sender())
    one.ask(sender("b@example.net"))
    asked.answer("example.org MX", NXDOMAIN)
    assert one.verdicts == []
    asked.answer("example.net MX", records("10 mx.example.net."))
    assert one.verdicts == [None]


# -- a defect in a check --------------------------------------------------------------------------


class Broken(Policy):
    """Asks once and then breaks, at the screening or at the question."""

    def __init__(self, *, screening: bool) -> None:
        super().__init__(Settings())
        self._screening = screening

    def screening(self, client: str) -> Deliberation[ClientStanding] | None:
        return self._break("screening") if self._screening else None

    def deliberate(
        self, question: Question, standing: ClientStanding | None
    ) -> Deliberation[Reply | None]:
        return self._wait() if self._screening else self._break("question")

    def _wait(self) -> Deliberation[Reply | None]:
        standing = yield ScreeningResult()
        assert isinstance(standing, ClientStanding)
        return None

    def _break(self, name: str) -> Deliberation[None]:  # type: ignore[override]
        yield from look_up(f"{name}.example", "A")
        raise RuntimeError(name)


def test_a_question_whose_check_breaks_gets_451_and_the_fault_comes_out() -> None:
    one, asked = begun(Broken(screening=False))
    one.ask(sender())
    with pytest.raises(RuntimeError, match="question"):
        asked.answer("question.example A", NXDOMAIN)
    assert one.verdicts == [reply.LOCAL_ERROR]


def test_a_screening_that_breaks_leaves_nothing_known_and_the_fault_comes_out() -> None:
    one, asked = begun(Broken(screening=True))
    one.ask(sender())
    with pytest.raises(RuntimeError, match="screening"):
        asked.answer("screening.example A", NXDOMAIN)
    assert one.verdicts == [None]


@pytest.mark.parametrize("screening", [False, True])
def test_a_check_that_breaks_as_time_runs_out_hangs_nobody(screening: bool) -> None:
    one, _ = begun(Broken(screening=screening))
    one.ask(sender())
    with pytest.raises(RuntimeError):
        one.counsel.expire()
    assert one.verdicts == [None if screening else reply.LOCAL_ERROR]


def test_a_screening_that_breaks_as_time_runs_out_lets_the_question_be_decided() -> None:
    class BothWait(Broken):
        def deliberate(
            self, question: Question, standing: ClientStanding | None
        ) -> Deliberation[Reply | None]:
            yield from look_up("question.example", "A")
            return reply.GREYLISTED

    one, _ = begun(BothWait(screening=True))
    one.ask(sender())
    with pytest.raises(RuntimeError):
        one.counsel.expire()
    assert one.verdicts == [reply.GREYLISTED]


def test_a_resolver_that_breaks_within_the_call_is_a_fault_of_the_question() -> None:
    class Breaking(NoResolver):
        def lookup(self, name: str, rtype: str, answer: object) -> None:
            raise RuntimeError("resolver")

    verdicts: list[Reply | None] = []
    panel = PolicyContext(Breaking(), NoReputation())
    counsel = PolicyRunner(policy(sender_domain_check="reject"), panel, "192.0.2.10")
    with pytest.raises(RuntimeError):
        counsel.ask(sender(), verdicts.append)
    assert verdicts == [reply.LOCAL_ERROR]


# -- together -------------------------------------------------------------------------------------


class Scripted(Policy):
    """Decides by one generator."""

    def __init__(self, deliberation: Iterator[object]) -> None:
        super().__init__(Settings())
        self._deliberation = deliberation

    def deliberate(
        self, question: Question, standing: ClientStanding | None
    ) -> Deliberation[Reply | None]:
        return self._deliberation  # type: ignore[return-value]


def test_a_long_row_of_immediate_answers_is_no_recursion() -> None:
    def endless(times: int) -> Deliberation[Reply]:
        for _ in range(times):
            answer = yield DnsLookup("example.org", "MX")
            assert isinstance(answer, DnsAnswer)
            assert (yield AllOf(())) == []
        return reply.GREYLISTED

    verdicts: list[Reply | None] = []
    counsel = PolicyRunner(
        Scripted(endless(50_000)), PolicyContext(NoResolver(), NoReputation()), "192.0.2.1"
    )
    counsel.ask(recipient(), verdicts.append)
    assert verdicts == [reply.GREYLISTED]


def test_results_come_in_their_order_whatever_the_order_of_answers() -> None:
    def nested() -> Deliberation[list[object]]:
        return (yield AllOf((look_up("b.example", "A"), look_up("c.example", "A"))))

    def deliberation() -> Deliberation[object]:
        return (yield AllOf((look_up("a.example", "A"), nested())))

    asked = Asked()
    one = Advised(Scripted(deliberation()), asked)
    one.ask(recipient())
    for name in "cab":
        assert one.verdicts == []
        asked.answer(f"{name}.example A", records(name))
    assert one.verdicts == [[records("a"), [records("b"), records("c")]]]
