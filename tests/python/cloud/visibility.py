"""The lag of AWS's answers: new resources are not found at once, and deleted ones are visible for a while.

The settings `late_by_id`, `late_by_tag` and `late_gone` say for how long. Reading calls see moto's state with
this lag; changing calls do not find the ids of resources that are too new.
"""

import contextlib
import copy
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from moto.cloudwatch.models import CloudWatchBackend, cloudwatch_backends
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.elastic_block_store import Volume
from moto.ec2.models.instances import Reservation
from moto.sns.models import SNSBackend, sns_backends

from calls import AwsError, Call
from launch import instances_of
from settings import Settings

# A kind of resource, and its id, or its name if it is found by name.
Key = tuple[str, str]
# The errors for a resource that is not found.
NOT_FOUND = {
    "instance": ("InvalidInstanceID.NotFound", "The instance ID '{}' does not exist"),
    "volume": ("InvalidVolume.NotFound", "The volume '{}' does not exist."),
    "security-group": ("InvalidGroup.NotFound", "The security group '{}' does not exist"),
    "key-pair": ("InvalidKeyPair.NotFound", "The key pair '{}' does not exist"),
}
ID_PREFIXES = {"i-": "instance", "vol-": "volume", "sg-": "security-group"}
# Parameters in which an id does not refer to a resource: filters and text.
NO_REFERENCES = ("Filters", "TagSpecifications", "UserData", "ClientToken")
READING = ("Describe", "Get", "List")


@dataclass
class History:
    """When resources of a service were made and deleted, in one region of an account."""

    things: dict[Key, Any]
    made: dict[Key, float] = field(default_factory=dict)
    deleted: dict[Key, tuple[float, Any]] = field(default_factory=dict)

    def note(self, things: dict[Key, Any]) -> None:
        now = time.monotonic()
        for key in things.keys() - self.things.keys():
            self.made[key] = now
            self.deleted.pop(key, None)
        for key in self.things.keys() - things.keys():
            self.deleted[key] = now, self.things[key]
        self.things = things

    def is_young(self, key: Key, seconds: float) -> bool:
        return time.monotonic() - self.made.get(key, -math.inf) < seconds

    def ghosts(self, kind: str, seconds: float) -> dict[str, Any]:
        """The resources that were deleted less than this many seconds ago."""
        since = time.monotonic() - seconds
        return {name: thing for (of, name), (at, thing) in self.deleted.items() if of == kind and at > since}


@dataclass
class Visibility:
    settings: Settings
    _histories: dict[tuple[str, str, str], History] = field(default_factory=dict)

    @contextlib.contextmanager
    def during(self, call: Call, parameters: dict[str, Any]) -> Iterator[None]:
        """Makes moto answer a call with AWS's lag, and notes what the call changed. The caller holds the lock."""
        backend = _backend(call)
        if backend is None:
            yield
            return
        # Resources that exist at the first look at a region count as old.
        where = (call.service, call.account, call.region)
        history = self._histories.setdefault(where, History(_things(backend)))
        history.note(_things(backend))
        if call.operation.startswith(READING):
            by_tag = any(of["Name"].startswith("tag") for of in parameters.get("Filters", []))
            with _replaced(backend, self._view(backend, history, by_tag)):
                yield
        else:
            for key in _references(call, parameters):
                if history.is_young(key, self.settings.late_by_id):
                    code, message = NOT_FOUND[key[0]]
                    raise AwsError(code, message.format(key[1]))
            yield
        history.note(_things(backend))

    def _view(self, backend: Any, history: History, by_tag: bool) -> dict[str, Any]:
        """Replacements for the backend's attributes."""
        settings = self.settings
        late = max(settings.late_by_id, settings.late_by_tag) if by_tag else settings.late_by_id

        def seen(kind: str, things: dict[str, Any]) -> dict[str, Any]:
            old = {name: thing for name, thing in things.items() if not history.is_young((kind, name), late)}
            return history.ghosts(kind, settings.late_gone) | old

        match backend:
            case EC2Backend():
                groups = {group.id: group for some in backend.groups.values() for group in some.values()}
                volumes = seen("volume", backend.volumes)
                gone = volumes.keys() - backend.volumes.keys()
                return {
                    "reservations": _reservations(backend, seen("instance", _by_id(instances_of(backend)))),
                    "volumes": {
                        name: _deleting(one) if name in gone else one for name, one in volumes.items()
                    },
                    "groups": _by_vpc(seen("security-group", groups).values()),
                    "key_pairs": seen("key-pair", backend.key_pairs),
                }
            case CloudWatchBackend():
                return {"alarms": history.ghosts("alarm", settings.late_gone) | backend.alarms}
            case SNSBackend():
                topics = history.ghosts("topic", settings.late_gone) | backend.topics
                young = {arn for arn in topics if history.is_young(("topic", arn), settings.late_by_tag)}
                return {
                    "topics": {arn: _untagged(one) if arn in young else one for arn, one in topics.items()}
                }
        raise TypeError(backend)


def _backend(call: Call) -> Any:
    match call.service:
        case "ec2":
            return ec2_backends[call.account][call.region]
        case "cloudwatch":
            return cloudwatch_backends[call.account][call.region]
        case "sns":
            return sns_backends[call.account][call.region]
    return None


def _things(backend: Any) -> dict[Key, Any]:
    match backend:
        case EC2Backend():
            groups = (group for some in backend.groups.values() for group in some.values())
            by_kind = {
                "instance": _by_id(instances_of(backend)),
                "volume": backend.volumes,
                "security-group": _by_id(groups),
                "key-pair": backend.key_pairs,
            }
        case CloudWatchBackend():
            by_kind = {"alarm": backend.alarms}
        case SNSBackend():
            by_kind = {"topic": backend.topics}
        case _:
            raise TypeError(backend)
    return {(kind, name): thing for kind, things in by_kind.items() for name, thing in things.items()}


def _references(call: Call, parameters: dict[str, Any]) -> Iterator[Key]:
    """The resources that a changing call names."""
    if call.operation == "RunInstances" and "KeyName" in parameters:
        yield "key-pair", parameters["KeyName"]
    for name, value in parameters.items():
        if name not in NO_REFERENCES:
            yield from _ids(value)


def _ids(value: Any) -> Iterator[Key]:
    match value:
        case dict():
            for of in value.values():
                yield from _ids(of)
        case list():
            for of in value:
                yield from _ids(of)
        case str():
            kind = next((kind for prefix, kind in ID_PREFIXES.items() if value.startswith(prefix)), None)
            if kind:
                yield kind, value


@contextlib.contextmanager
def _replaced(backend: Any, attributes: dict[str, Any]) -> Iterator[None]:
    before = {name: getattr(backend, name) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(backend, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(backend, name, value)


def _by_id(things: Iterable[Any]) -> dict[str, Any]:
    return {thing.id: thing for thing in things}


def _by_vpc(groups: Iterable[Any]) -> defaultdict[str, dict[str, Any]]:
    by_vpc: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for group in groups:
        by_vpc[group.vpc_id][group.id] = group
    return by_vpc


def _reservations(backend: EC2Backend, instances: dict[str, Any]) -> dict[str, Reservation]:
    """The reservations, with only these instances."""
    seen = {}
    for key, reservation in backend.reservations.items():
        seen[key] = copy.copy(reservation)
        seen[key].instances = [one for one in reservation.instances if one.id in instances]
    return {key: reservation for key, reservation in seen.items() if reservation.instances}


class Deleting(Volume):
    """A deleted volume that is still shown."""

    __module__ = Volume.__module__  # Where moto's metaclass reads the name of the service.

    @property
    def status(self) -> str:
        return "deleting"


def _deleting(volume: Volume) -> Volume:
    shown = copy.copy(volume)
    shown.__class__, shown.attachment = Deleting, None
    return shown


def _untagged(topic: Any) -> Any:
    shown = copy.copy(topic)
    shown._tags = {}
    return shown
