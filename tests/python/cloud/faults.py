"""Errors on demand: what tests order to go wrong, and calls held until a test releases them."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from calls import AwsError, Call, Record

HOLD_SECONDS = 120
KINDS = ("lost", "unreachable", "error", "no_capacity", "dies", "hold")
# Those that strike launches and not calls.
OF_LAUNCHES = ("no_capacity", "dies")
DEFAULTS = {
    "dies": ("Server.InsufficientInstanceCapacity", "Insufficient capacity to satisfy instance request"),
    "error": ("InternalError", "This error was ordered by a test."),
}


@dataclass
class Fault:
    """One order. It strikes matching calls: none of the first `skip`, then `times` of them (None: all)."""

    kind: str
    service: str = "*"
    operation: str = "*"
    times: int | None = 1
    skip: int = 0
    probability: float = 1.0
    seed: int = 0
    # Of kind "error"; and of kind "dies", why instances end at once that were launched.
    code: str = ""
    status: int = 400
    message: str = ""
    # Of kinds "no_capacity" and "dies": where it is so (None: everywhere), and how many still start in each
    # zone, or live on of each launch.
    zones: list[str] | None = None
    types: list[str] | None = None
    market: str | None = None
    most: int = 0
    # Of kind "hold": before the call takes effect, or after.
    when: str = "before"

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.when not in ("before", "after"):
            raise ValueError(f"no such fault: {self}")
        code, message = DEFAULTS.get(self.kind, DEFAULTS["error"])
        self.code, self.message = self.code or code, self.message or message
        self._random = Random(self.seed)
        self.started: Counter[str] = Counter()

    def matches(self, call: Call) -> bool:
        return self.service in ("*", call.service) and self.operation in ("*", call.operation)

    def covers(self, zone: str, instance_type: str, market: str) -> bool:
        return (
            (self.zones is None or zone in self.zones)
            and (self.types is None or instance_type in self.types)
            and self.market in (None, market)
        )

    def strikes(self) -> bool:
        """Whether it strikes a call that it matches; counts it."""
        if self.times == 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self._random.random() >= self.probability:
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Faults:
    """All orders. Of those that match a call, the first that strikes decides; later ones do not count it."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, faults: list[Fault]) -> None:
        with self._lock:
            self._faults += faults

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def strike(self, call: Call) -> Fault | None:
        """The fault that strikes this call, if any; those of launches have their own questions."""
        with self._lock:
            ordered = (fault for fault in self._faults if fault.kind not in OF_LAUNCHES)
            return next((fault for fault in ordered if fault.matches(call) and fault.strikes()), None)

    def capacity(self, zone: str, instance_type: str, market: str, least: int, most: int) -> int:
        """How many of `least` to `most` instances start."""
        with self._lock:
            covering = self._covering("no_capacity", zone, instance_type, market)
            lacking = [fault for fault in covering if fault.strikes()]
            count = min([most, *(fault.most - fault.started[zone] for fault in lacking)])
            if count < max(least, 1):
                raise no_capacity(zone, instance_type)
            for fault in lacking:
                fault.started[zone] += count
            return count

    def dying(self, zone: str, instance_type: str, market: str) -> Fault | None:
        """The fault by which instances of a launch end at once, if any."""
        with self._lock:
            covering = self._covering("dies", zone, instance_type, market)
            return next((fault for fault in covering if fault.strikes()), None)

    def _covering(self, kind: str, zone: str, instance_type: str, market: str) -> list[Fault]:
        return [
            fault
            for fault in self._faults
            if fault.kind == kind and fault.covers(zone, instance_type, market)
        ]


def no_capacity(zone: str, instance_type: str) -> AwsError:
    message = (
        f"We currently do not have sufficient {instance_type} capacity in the Availability Zone you "
        f"requested ({zone}). Our system will be working on provisioning additional capacity."
    )
    return AwsError("InsufficientInstanceCapacity", message, 500)


@dataclass
class Held:
    """A call that waits for its release."""

    record: Record
    released: bool = False
    drop: bool = False


@dataclass
class Holds:
    """The calls that are held now."""

    _held: list[Held] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def hold(self, record: Record, client_gone: Callable[[], bool]) -> bool:
        """Waits until the call is released, its client is gone or the time is over; whether to drop it."""
        held = Held(record)
        deadline = time.monotonic() + HOLD_SECONDS
        with self._changed:
            self._held.append(held)
            self._changed.notify_all()
            while not held.released and time.monotonic() < deadline:
                if client_gone():
                    held.drop = True
                    break
                self._changed.wait(0.05)
            if held in self._held:
                self._held.remove(held)
            return held.drop

    def first(self, timeout: float) -> Record | None:
        """The call that is held longest; waits for one."""
        with self._changed:
            if self._changed.wait_for(lambda: self._held, timeout):
                return self._held[0].record
            return None

    def release(self, drop: bool) -> None:
        """Lets all go that are held now."""
        with self._changed:
            for held in self._held:
                held.released, held.drop = True, drop
            self._held.clear()
            self._changed.notify_all()
