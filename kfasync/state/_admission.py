"""Who may run on this machine now: first come, first served, whole gangs only. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Admission", "Claim", "Grant"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a gang needs in order to run, all its nodes together.

    Attributes:
        cpu: Cores; None claims none, so that such a gang needs only places for its ranks.
        memory: Bytes; None claims none.
        gpus: Whole GPUs of each node.
        ranks: Processes.
    """

    cpu: float | None = None
    memory: int | None = None
    gpus: Sequence[int] = ()
    ranks: int = 1


@dataclass(frozen=True, kw_only=True)
class Grant:
    """A gang may run now.

    Attributes:
        uid: The job.
        devices: Names of the GPUs for each node; empty when it gets none.
        oversized: It asks for more than the machine has, and runs alone.
        lacks_gpus: It asks for more GPUs than the machine has, and runs without any.
    """

    uid: str
    devices: tuple[tuple[str, ...], ...] = ()
    oversized: bool = False
    lacks_gpus: bool = False


class Admission:
    """The queue of a machine. No gang overtakes another, so that a large one is never starved by small ones.

    Args:
        cpus: Cores of the machine.
        memory: Bytes of the machine; None does not limit it.
        gpus: Names of its GPUs, in the order in which they are handed out.
        max_ranks: How many ranks may run at once.

    Example:
        >>> machine = Admission(cpus=2, memory=None, gpus=("0", "1"), max_ranks=8)
        >>> machine.want("a", Claim(gpus=(1, 1), ranks=2))
        [Grant(uid='a', devices=(('0',), ('1',)), oversized=False, lacks_gpus=False)]
        >>> machine.want("b", Claim(gpus=(1,)))
        []
        >>> machine.release("a")
        [Grant(uid='b', devices=(('0',),), oversized=False, lacks_gpus=False)]
    """

    def __init__(self, *, cpus: float, memory: int | None, gpus: Sequence[str], max_ranks: int) -> None:
        self._cpus = cpus
        self._memory = memory
        self._gpus = tuple(gpus)
        self._max_ranks = max_ranks
        self._waiting: dict[str, Claim] = {}
        self._running: dict[str, tuple[Claim, Grant]] = {}

    @property
    def queued(self) -> tuple[str, ...]:
        """The jobs that wait, first come first."""
        return tuple(self._waiting)

    def want(self, uid: str, claim: Claim) -> list[Grant]:
        """Queue a gang; a no-op for one that waits or runs already.

        Returns:
            Who may start now.
        """
        if uid not in self._running:
            self._waiting.setdefault(uid, claim)
        return self._advance()

    def adopt(self, uid: str, claim: Claim, devices: Sequence[Sequence[str]] = ()) -> None:
        """Count a gang that runs already, whether or not there is room for it.

        Args:
            uid: The job.
            claim: What it asked for.
            devices: The GPUs that its nodes have.
        """
        self._waiting.pop(uid, None)
        held = tuple(tuple(node) for node in devices)
        self._running[uid] = claim, Grant(uid=uid, devices=held, oversized=self._is_oversized(claim))

    def release(self, uid: str) -> list[Grant]:
        """Take a gang off the machine or off the queue; a no-op for an unknown one.

        Returns:
            Who may start now.
        """
        self._running.pop(uid, None)
        self._waiting.pop(uid, None)
        return self._advance()

    def _advance(self) -> list[Grant]:
        grants = []
        while self._waiting:
            uid, claim = next(iter(self._waiting.items()))
            grant = self._try(uid, claim)
            if grant is None:
                break
            del self._waiting[uid]
            self._running[uid] = claim, grant
            grants.append(grant)
        return grants

    def _try(self, uid: str, claim: Claim) -> Grant | None:
        lacks = sum(claim.gpus) > len(self._gpus)
        free = self._free_gpus()
        wanted = () if lacks else claim.gpus
        oversized = self._is_oversized(claim)
        alone = not self._running
        crowded = any(grant.oversized for _, grant in self._running.values())
        if crowded or sum(wanted) > len(free) or not (alone if oversized else self._fits(claim)):
            return None
        names = iter(free)
        devices = tuple(tuple(next(names) for _ in range(count)) for count in wanted)
        return Grant(uid=uid, devices=devices, oversized=oversized, lacks_gpus=lacks)

    def _free_gpus(self) -> list[str]:
        taken = {name for _, grant in self._running.values() for node in grant.devices for name in node}
        return [name for name in self._gpus if name not in taken]

    def _fits(self, claim: Claim) -> bool:
        return self._is_within((*(running for running, _ in self._running.values()), claim))

    def _is_oversized(self, claim: Claim) -> bool:
        return not self._is_within((claim,))

    def _is_within(self, claims: Iterable[Claim]) -> bool:
        claims = tuple(claims)
        # A millionth of a core is the noise of adding floats (0.1 + 0.2), not a reason to wait.
        return (
            sum(claim.cpu or 0.0 for claim in claims) <= self._cpus + 1e-6
            and (self._memory is None or sum(claim.memory or 0 for claim in claims) <= self._memory)
            and sum(claim.ranks for claim in claims) <= self._max_ranks
        )
