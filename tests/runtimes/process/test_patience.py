from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtimes.process.patience import STRIKES, Look, Patience, Silence, judge

LIMIT_S = 30.0


def silent(at: float, *, cpu_s: float = 0.0, in_flight: int = 0) -> Look:
    return Look(at=at, answered=False, cpu_s=cpu_s, in_flight=in_flight)


def after(*looks: Look, limit_s: float = LIMIT_S) -> Silence | None:
    silence: Silence | None = None
    for look in looks:
        silence = judge(silence, look, limit_s=limit_s)
    return silence


def lost(*looks: Look) -> bool:
    silence = after(*looks)
    return silence is not None and silence.lost


def test_a_silence_is_a_loss_only_after_the_whole_limit() -> None:
    assert not lost(silent(0), silent(10), silent(20), silent(29.9))
    assert lost(silent(0), silent(10), silent(20), silent(30))


def test_one_look_after_a_long_pause_of_ours_proves_nothing() -> None:
    assert not lost(silent(0), silent(3600))
    assert lost(silent(0), silent(3600), silent(3601))


def test_a_silence_says_since_when_and_how_often_it_was_looked_at() -> None:
    looks = silent(5), silent(6, cpu_s=1), silent(8, cpu_s=1, in_flight=2)
    first = after(looks[0])
    assert first == Silence(since=5, strikes=1, last=looks[0], lost=False)
    third = after(*looks)
    assert third == Silence(since=5, strikes=3, last=looks[2], lost=False)
    assert third.seconds == 3


def test_an_answer_starts_anew() -> None:
    answered = Look(at=20, answered=True)
    assert after(silent(0), silent(10), answered) is None
    assert not lost(silent(0), silent(10), answered, silent(21), silent(31), silent(41))


def test_requests_in_flight_and_computing_each_earn_four_times_the_limit() -> None:
    idle = [silent(at) for at in range(0, 41, 10)]
    serving = [silent(at, in_flight=1) for at in range(0, 111, 10)]
    computing = [silent(at, cpu_s=0.2 * at) for at in range(0, 111, 10)]
    assert lost(*idle)
    assert not lost(*serving) and lost(*serving, silent(120, in_flight=1))
    assert not lost(*computing) and lost(*computing, silent(120, cpu_s=24.0))
    assert lost(*computing, silent(120, cpu_s=22.0)), "it has stopped computing"


def test_the_threads_of_an_idle_server_are_no_work() -> None:
    assert lost(*(silent(at, cpu_s=0.02 * at) for at in range(0, 31, 10)))


def test_computing_is_more_than_a_tenth_of_a_processor_since_the_look_before() -> None:
    def looks(last_s: float) -> list[Look]:
        return [silent(0, cpu_s=70), silent(10, cpu_s=90), silent(30, cpu_s=90 + last_s)]

    assert lost(*looks(2.0))
    assert not lost(*looks(2.01))


def test_three_looks_are_enough_and_two_are_not() -> None:
    assert [lost(*[silent(40.0 * at) for at in range(count)]) for count in (1, 2, 3, 4)] == [
        *(False, False, True, True)
    ]


@given(st.lists(st.tuples(st.floats(0.01, 20), st.booleans()), max_size=30))
def test_no_server_is_lost_that_answered_within_the_limit(
    looks: list[tuple[float, bool]],
) -> None:
    now, answered_at, strikes = 0.0, 0.0, 0
    silence: Silence | None = None
    for passed, answered in looks:
        now += passed
        silence = judge(silence, Look(at=now, answered=answered), limit_s=LIMIT_S)
        strikes = 0 if answered else strikes + 1
        if answered:
            answered_at = now
        if silence is not None and silence.lost:
            assert now - answered_at >= LIMIT_S and strikes >= STRIKES


def test_servers_are_judged_apart_and_a_new_one_starts_anew() -> None:
    patience = Patience(limit_s=LIMIT_S)
    for at in (0.0, 15.0, 30.0):
        first = patience.look("a", silent(at))
    assert first is not None and first.lost and first.seconds == 30
    second = patience.look("b", silent(30))
    assert second is not None and not second.lost
    patience.forget("a")
    again = patience.look("a", silent(31))
    assert again is not None and not again.lost and again.strikes == 1
    assert patience.look("b", silent(31)) == judge(second, silent(31), limit_s=LIMIT_S)
    assert patience.look("b", Look(at=32, answered=True)) is None
    anew = patience.look("b", silent(33))
    assert anew is not None and anew.since == 33
    patience.forget("never seen")
