"""A kernel's life as its owner sees it: one test for each thing that can happen, and one for every order of them."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kernels.lifecycle import FRESH, HOPELESS, RESTART_LIMIT, STABLE_S, Action, Fail, Lifecycle, Request, Restart, Tell


def request(msg_id: str, client: str = "ann") -> Request:
    return Request({"msg_id": msg_id, "msg_type": "execute_request"}, "shell", client)


def living(now_s: float = 0.0) -> Lifecycle:
    life = Lifecycle()
    life.alive(now_s)
    return life


def running(*msg_ids: str) -> Lifecycle:
    life = living()
    for msg_id in msg_ids:
        life.sent(msg_id, request(msg_id))
        life.status(msg_id, "busy")
    return life


def test_a_kernel_starts_and_is_idle_once_it_has_answered() -> None:
    life = Lifecycle()
    assert life.execution_state == "starting"
    life.alive(0.0)
    assert life.execution_state == "idle"


def test_it_is_busy_from_the_first_busy_to_the_last_idle() -> None:
    life = living()
    life.status("m1", "busy")
    life.status("m2", "busy")
    life.status("m1", "idle")
    assert life.execution_state == "busy"
    life.status("m2", "idle")
    assert life.execution_state == "idle"


def test_it_runs_a_cell_from_the_request_to_the_reply_and_other_requests_do_not_count() -> None:
    life = living()
    seen = [life.runs_cell]
    life.sent("m1", Request({"msg_id": "m1", "msg_type": "a_request_without_a_reply"}, "shell", "ann"))
    seen.append(life.runs_cell)
    life.sent("m2", request("m2"))
    seen.append(life.runs_cell)
    life.replied("m2")
    seen.append(life.runs_cell)
    assert seen == [False, False, True, False]


def test_one_that_was_taken_over_counts_as_running_a_cell_until_it_is_known() -> None:
    life = Lifecycle()
    life.adopted(0.0)
    before = life.runs_cell
    life.probe_answered()
    assert (before, life.runs_cell) == (True, False)


def test_one_that_is_ended_answers_what_runs_and_says_why() -> None:
    life = running("m1")
    assert life.ended("It was idle.") == [Fail(request("m1"), "It was idle."), Tell("dead", "It was idle.")]
    assert not life.runs_cell


def test_an_idle_without_a_busy_and_unknown_states_change_nothing() -> None:
    life = living()
    life.status("m1", "idle")
    life.status("m1", "starting")
    assert life.execution_state == "idle"


def test_an_adopted_kernel_is_busy_until_it_has_answered_the_probe() -> None:
    life = Lifecycle()
    life.adopted(0.0)
    assert life.execution_state == "busy"
    life.probe_answered()
    assert life.execution_state == "idle"


def test_an_adopted_kernel_stays_busy_with_what_its_probe_has_overtaken() -> None:
    life = Lifecycle()
    life.adopted(0.0)
    life.status("m1", "busy")
    life.probe_answered()
    assert life.execution_state == "busy"


def test_a_reply_names_its_request_once() -> None:
    life = running("m1")
    assert life.replied("m1") == request("m1")
    assert life.replied("m1") is None
    assert life.pending == {}


def test_a_reply_to_nothing_is_nobodys() -> None:
    assert living().replied("m1") is None


def test_requests_of_unknown_fate_are_failed_and_those_with_a_reply_are_not() -> None:
    life = running("m1", "m2", "m3")
    life.replied("m1")
    assert life.unknown_fate(["m1", "m2"], "lost") == [Fail(request("m2"), "lost")]
    assert list(life.pending) == ["m3"]


def test_a_restart_asked_for_fails_what_runs_and_tells_once() -> None:
    life = running("m1", "m2")
    expected = [Fail(request("m1"), "why"), Fail(request("m2"), "why"), Tell("restarting", "why")]
    assert life.restarting("why") == expected
    assert life.execution_state == "restarting"
    life.alive(1.0)
    assert life.execution_state == "idle"


def test_a_death_fails_what_runs_then_tells_then_restarts() -> None:
    life = running("m1")
    assert life.exited("killed", 1.0) == [
        Fail(request("m1"), "killed"),
        Tell("restarting", f"killed {FRESH}"),
        Restart(),
    ]
    assert life.pending == {}


def test_a_kernel_that_dies_while_it_starts_is_dead() -> None:
    life = Lifecycle()
    life.sent("m1", request("m1"))
    assert life.exited("no such module", 1.0) == [
        Fail(request("m1"), "no such module"),
        Tell("dead", f"no such module {HOPELESS}"),
    ]
    assert life.execution_state == "dead"


def test_a_kernel_that_keeps_dying_is_given_up_after_the_limit() -> None:
    life = living()
    for _ in range(RESTART_LIMIT):
        assert life.exited("crash", 1.0)[-1] == Restart()
        life.alive(1.0)
    assert life.exited("crash", 1.0) == [Tell("dead", f"crash {HOPELESS}")]


def test_a_kernel_that_dies_before_it_answers_again_is_given_up_after_the_limit_too() -> None:
    life = living()
    told = [life.exited("crash", 1.0)[-1] for _ in range(RESTART_LIMIT + 1)]
    assert told == [Restart()] * RESTART_LIMIT + [Tell("dead", f"crash {HOPELESS}")]


def test_a_long_life_makes_earlier_deaths_forgotten() -> None:
    life, now_s = living(), 0.0
    for _ in range(3 * RESTART_LIMIT):
        now_s += STABLE_S + 0.1
        assert life.exited("crash", now_s)[-1] == Restart()
        life.alive(now_s)


def test_a_restart_asked_for_makes_earlier_deaths_forgotten() -> None:
    life = living()
    for _ in range(RESTART_LIMIT + 1):
        life.exited("crash", 1.0)
        life.alive(1.0)
    life.restarting("asked for")
    life.alive(2.0)
    assert life.exited("crash", 3.0)[-1] == Restart()


def test_the_end_of_a_kernel_that_was_given_up_is_no_news_and_no_reason_to_start_it() -> None:
    life = living()
    assert life.gave_up("does not answer") == [Tell("dead", f"does not answer {HOPELESS}")]
    assert life.exited("killed", 1.0) == []
    assert life.execution_state == "dead"


def test_giving_up_fails_what_waits() -> None:
    life = running("m1")
    assert life.gave_up("why") == [Fail(request("m1"), "why"), Tell("dead", f"why {HOPELESS}")]
    assert life.pending == {}


def test_a_new_process_is_not_busy_with_what_the_old_one_ran() -> None:
    for end in (Lifecycle.restarting, lambda life, why: life.exited(why, 1.0)):
        life = running("m1")
        end(life, "why")
        life.alive(1.0)
        assert life.execution_state == "idle"


class LifecycleMachine(RuleBasedStateMachine):
    """Every order of events. `outcomes` collects what became of each request that was sent."""

    @initialize()
    def begin(self) -> None:
        self.life = Lifecycle()
        self.now_s = 0.0
        self.born_s = 0.0
        self.deaths = 0
        self.count = 0
        self.outcomes: dict[str, list[str]] = {}
        self.busy: set[str] = set()

    def act(self, actions: list[Action]) -> None:
        fails = [action for action in actions if isinstance(action, Fail)]
        assert actions[: len(fails)] == fails, "what waits is answered before anything else is told"
        for fail in fails:
            self.outcomes[fail.request.header["msg_id"]].append("failed")
        for action in actions:
            if isinstance(action, Tell):
                assert action.state == self.life.phase
                self.busy.clear()  # what ran has ended with the process
        assert sum(isinstance(action, Tell) for action in actions) <= 1

    def some(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.outcomes)))

    @rule(passed_s=st.sampled_from([0.0, 1.0, STABLE_S, STABLE_S + 1]))
    def time_passes(self, passed_s: float) -> None:
        self.now_s += passed_s

    @rule()
    def sent(self) -> None:
        self.count += 1
        msg_id = f"m{self.count}"
        self.outcomes[msg_id] = []
        self.life.sent(msg_id, request(msg_id))

    @precondition(lambda self: self.outcomes)
    @rule(data=st.data())
    def replied(self, data: st.DataObject) -> None:
        msg_id = self.some(data)
        found = self.life.replied(msg_id)
        assert (found is None) == bool(self.outcomes[msg_id])
        if found:
            assert found == request(msg_id)
            self.outcomes[msg_id].append("replied")

    @precondition(lambda self: self.outcomes)
    @rule(data=st.data(), state=st.sampled_from(["busy", "idle"]))
    def status(self, data: st.DataObject, state: str) -> None:
        msg_id = self.some(data)
        self.life.status(msg_id, state)
        (self.busy.add if state == "busy" else self.busy.discard)(msg_id)

    @precondition(lambda self: self.outcomes)
    @rule(data=st.data())
    def unknown_fate(self, data: st.DataObject) -> None:
        msg_ids = data.draw(st.lists(st.sampled_from(sorted(self.outcomes)), max_size=4))
        self.act(self.life.unknown_fate(msg_ids, "lost"))
        assert not set(msg_ids) & self.life.pending.keys()

    @precondition(lambda self: self.life.phase in ("starting", "restarting"))
    @rule()
    def alive(self) -> None:
        self.life.alive(self.now_s)
        self.born_s = self.now_s

    @precondition(lambda self: self.life.phase == "starting")
    @rule()
    def adopted(self) -> None:
        self.life.adopted(self.now_s)
        self.born_s = self.now_s
        self.busy.add("the probe")

    @rule()
    def probe_answered(self) -> None:
        self.life.probe_answered()
        self.busy.discard("the probe")

    @rule()
    def restarting(self) -> None:
        self.deaths = 0
        self.act(self.life.restarting("asked for"))
        assert (self.life.phase, self.life.pending) == ("restarting", {})

    @rule()
    def exited(self) -> None:
        before = self.life.phase
        stable = before == "alive" and self.now_s - self.born_s > STABLE_S
        self.deaths = 1 if stable else self.deaths + 1
        actions = self.life.exited("crash", self.now_s)
        self.act(actions)
        again = before in ("alive", "restarting") and self.deaths <= RESTART_LIMIT
        assert (Restart() in actions) == again
        assert self.life.phase == ("restarting" if again else "dead")
        assert self.life.pending == {}

    @rule()
    def gave_up(self) -> None:
        self.act(self.life.gave_up("hopeless"))
        assert (self.life.phase, self.life.pending) == ("dead", {})

    @invariant()
    def each_request_has_exactly_one_fate(self) -> None:
        for msg_id, outcome in self.outcomes.items():
            assert len(outcome) + (msg_id in self.life.pending) == 1, (msg_id, outcome)

    @invariant()
    def the_state_is_what_clients_should_see(self) -> None:
        alive = self.life.phase == "alive"
        assert self.life.execution_state == (("busy" if self.busy else "idle") if alive else self.life.phase)


TestLifecycle = LifecycleMachine.TestCase
TestLifecycle.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
