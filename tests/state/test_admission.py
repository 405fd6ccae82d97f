"""Who may run: first come, first served, whole gangs, GPUs by slot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kfasync.state import Admission, Claim, Grant


def machine(gpus: tuple[str, ...] = (), memory: int | None = None) -> Admission:
    return Admission(cpus=2.0, memory=memory, gpus=gpus, max_ranks=8)


def uids(grants: list[Grant]) -> list[str]:
    return [grant.uid for grant in grants]


def test_a_claim_without_resources_takes_only_places_for_its_ranks() -> None:
    place = machine()
    assert uids(place.want("a", Claim(ranks=8))) == ["a"]
    assert place.want("b", Claim(ranks=1)) == []
    assert place.queued == ("b",)
    assert uids(place.release("a")) == ["b"]


def test_cpu_and_memory_decide_who_waits() -> None:
    place = machine(memory=100)
    assert uids(place.want("a", Claim(cpu=1.5, memory=10))) == ["a"]
    assert place.want("b", Claim(cpu=1.0)) == []
    assert uids(place.release("a")) == ["b"]
    assert uids(place.want("c", Claim(memory=100))) == ["c"]
    assert place.want("d", Claim(memory=1)) == []


def test_fractions_of_cores_add_up_to_the_whole() -> None:
    place = Admission(cpus=0.3, memory=None, gpus=(), max_ranks=8)
    place.want("a", Claim(cpu=0.1))
    assert uids(place.want("b", Claim(cpu=0.2))) == ["b"]


def test_a_small_gang_does_not_overtake_a_large_one() -> None:
    place = machine()
    place.want("a", Claim(cpu=1.0))
    assert place.want("large", Claim(cpu=2.0)) == []
    assert place.want("small", Claim(cpu=0.5)) == []
    assert uids(place.release("a")) == ["large"]
    assert uids(place.release("large")) == ["small"]


def test_taking_the_first_off_the_queue_lets_the_next_start() -> None:
    place = machine()
    place.want("a", Claim(cpu=1.0))
    place.want("large", Claim(cpu=2.0))
    place.want("small", Claim(cpu=0.5))
    assert uids(place.release("large")) == ["small"]


def test_a_gang_that_exceeds_the_machine_runs_alone() -> None:
    place = machine()
    place.want("a", Claim(ranks=1))
    assert place.want("huge", Claim(cpu=6.0, ranks=3)) == []
    [grant] = place.release("a")
    assert grant == Grant(uid="huge", oversized=True)
    assert place.want("b", Claim(ranks=1)) == []
    assert uids(place.release("huge")) == ["b"]


def test_more_ranks_than_places_run_alone() -> None:
    [grant] = machine().want("wide", Claim(ranks=9))
    assert grant.oversized


def test_gpus_are_handed_out_whole_and_lowest_first() -> None:
    place = machine(gpus=("0", "1", "2"))
    assert place.want("a", Claim(gpus=(1, 1), ranks=2))[0].devices == (("0",), ("1",))
    assert place.want("b", Claim(gpus=(1,)))[0].devices == (("2",),)
    assert place.want("c", Claim(gpus=(2,))) == []
    assert place.release("b") == []
    assert place.release("a")[0].devices == (("0", "1"),)


def test_more_gpus_than_the_machine_has_means_none() -> None:
    [grant] = machine(gpus=("0",)).want("a", Claim(gpus=(1, 1), ranks=2))
    assert (grant.devices, grant.lacks_gpus, grant.oversized) == ((), True, False)


def test_wanting_and_releasing_twice_changes_nothing() -> None:
    place = machine()
    place.want("a", Claim(cpu=2.0))
    place.want("b", Claim(cpu=2.0))
    assert place.want("a", Claim(cpu=2.0)) == []
    assert place.want("b", Claim(cpu=2.0)) == []
    assert place.queued == ("b",)
    assert uids(place.release("a")) == ["b"]
    assert place.release("a") == []


def test_an_adopted_gang_keeps_its_devices_and_takes_its_room() -> None:
    place = machine(gpus=("0", "1"))
    place.adopt("old", Claim(cpu=2.0, gpus=(1,)), devices=(("1",),))
    assert place.want("new", Claim(gpus=(1,)))[0].devices == (("0",),)
    assert place.want("more", Claim(cpu=0.5)) == []
    assert uids(place.release("old")) == ["more"]


_claims = st.builds(
    Claim,
    cpu=st.none() | st.sampled_from([0.5, 1.0, 2.0, 5.0]),
    memory=st.none() | st.sampled_from([10, 200]),
    gpus=st.lists(st.integers(0, 2), max_size=2).map(tuple),
    ranks=st.integers(1, 10),
)


@given(st.lists(_claims | st.integers(0, 12), max_size=40))
def test_no_order_of_calls_overcommits_shares_a_gpu_overtakes_or_forgets(steps: list[Claim | int]) -> None:
    place = machine(gpus=("0", "1", "2"), memory=100)
    claims: dict[str, Claim] = {}
    running: dict[str, Grant] = {}
    asked = 0
    for step in steps:
        if isinstance(step, int):
            running.pop(str(step), None)
            grants = place.release(str(step))
            claims.pop(str(step), None)
        else:
            uid, asked = str(asked), asked + 1
            claims[uid] = step
            queued = place.queued
            grants = place.want(uid, step)
            # Whoever starts was first in the queue.
            assert uids(grants) == [*queued, uid][: len(grants)]
        running |= {grant.uid: grant for grant in grants}
        devices = [name for grant in running.values() for node in grant.devices for name in node]
        assert len(devices) == len(set(devices))
        if any(grant.oversized for grant in running.values()):
            assert len(running) == 1
        else:
            assert sum(claims[uid].cpu or 0 for uid in running) <= 2.0
            assert sum(claims[uid].ranks for uid in running) <= 8
        assert running or not place.queued
