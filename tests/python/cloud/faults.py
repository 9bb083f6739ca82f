"""Fault injection: errors that tests request, and calls that are held until a test releases them."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from calls import AwsError, Call, Record

HOLD_SECONDS = 120
KINDS = ("lost", "unreachable", "error", "no_capacity", "dies", "hold")
# Kinds of faults that affect launches, not calls.
OF_LAUNCHES = ("no_capacity", "dies")
DEFAULTS = {
    "dies": ("Server.InsufficientInstanceCapacity", "Insufficient capacity to satisfy instance request"),
    "error": ("InternalError", "This error was requested by a test."),
}


@dataclass
class Fault:
    """A fault for matching calls: it skips the first `skip`, and strikes the next `times` (None: all)."""

    kind: str
    service: str = "*"
    operation: str = "*"
    times: int | None = 1
    skip: int = 0
    probability: float = 1.0
    seed: int = 0
    # For kind "error", the error; for kind "dies", why launched instances end at once.
    code: str = ""
    status: int = 400
    message: str = ""
    # For kinds "no_capacity" and "dies": which launches it affects (None: all), and how many instances still
    # start in each zone, or survive of each launch.
    zones: list[str] | None = None
    types: list[str] | None = None
    market: str | None = None
    most: int = 0
    # For kind "hold": before the call takes effect, or after.
    when: str = "before"

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.when not in ("before", "after"):
            raise ValueError(f"unknown fault: {self}")
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
        """Whether the fault strikes this matching call; counts the call."""
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
    """All faults. The first one that strikes a call decides; later ones do not count the call."""

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
        """The fault that strikes this call, if any; for faults of launches, see `capacity` and `dying`."""
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
        """The fault that ends instances of this launch at once, if any."""
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
        """Waits until the call is released, its client is gone or the time is over; returns whether to drop it."""
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
        """Waits for a held call; returns the one that is held longest."""
        with self._changed:
            if self._changed.wait_for(lambda: self._held, timeout):
                return self._held[0].record
            return None

    def release(self, drop: bool) -> None:
        """Releases all held calls."""
        with self._changed:
            for held in self._held:
                held.released, held.drop = True, drop
            self._held.clear()
            self._changed.notify_all()
