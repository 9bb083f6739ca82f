"""Instances on hosts, whose phases last for a number of DescribeInstances answers."""

import copy
import time
from dataclasses import replace
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.models.instances import Instance, InstanceState, StateReason
from moto.ec2.models.spot_requests import SpotInstanceRequest
from moto.ec2.utils import random_spot_request_id

from hosts import LabHosts, NoHosts
from settings import Settings

PENDING, RUNNING, SHUTTING_DOWN = ("pending", 0), ("running", 16), ("shutting-down", 32)
USER_INITIATED = ("Client.UserInitiatedShutdown", "User initiated shutdown")
INTERRUPTED = ("Server.SpotInstanceTermination", "Spot instance termination")


class CloudInstance(Instance):
    """moto's instance with the phases of an EC2 instance.

    After its launch, the first `unseen` answers do not contain it. After that, it is pending in the first
    `pending` answers, and has no address in the first `no_address`. The settings at its launch apply.
    """

    __module__ = Instance.__module__  # Where moto's metaclass reads the name of the service.
    settings: Settings
    hosts: NoHosts | LabHosts

    def __init__(self, ec2_backend: Any, image_id: str, user_data: Any, security_groups: list, **kwargs: Any):
        self._phases = replace(self.settings)
        self._answers = 0
        self._answers_to_end: int | None = None
        self._reason_to_end: StateReason | None = None
        # On the clock of `time.monotonic`.
        self.ended_at: float | None = None
        self.address = ""
        self.spot_request: FulfilledSpotRequest | None = None
        nics = kwargs.get("nics", [])
        if not security_groups:
            ids = [group for nic in nics for group in nic.get("Groups", [])]
            security_groups = [ec2_backend.get_security_group_from_id(group) for group in ids]
        super().__init__(ec2_backend, image_id, user_data, security_groups, **kwargs)
        self.state_reason = None  # EC2 sets one only when an instance ends.
        if not self.security_groups:
            self.security_groups = [ec2_backend.get_default_security_group(self.vpc_id)]
        if self._phases.unseen or self._phases.pending:
            self._set_state(PENDING)
        key_pair = ec2_backend.key_pairs.get(self.key_name)
        self.address = self.hosts.start(
            self.id,
            user_data.decode() if user_data else "",
            key_pair.public_key if key_pair else None,
            self._phases.boot_seconds,
            self._phases.time_to_live_armed,
        )
        self._adopt_interfaces(nics)

    @property
    def has_ended(self) -> bool:
        return self.ended_at is not None

    @property
    def is_visible(self) -> bool:
        return self._seen > 0

    @property
    def spot_instance_request_id(self) -> str | None:
        return self.spot_request and self.spot_request.id

    @property
    def private_ip_address(self) -> str | None:
        return self.address if self._has_address else None

    @property
    def public_ip_address(self) -> str | None:
        return self.address if self._has_address and self.nics[0].public_ip else None

    @property
    def private_ip(self) -> str | None:
        return self.private_ip_address

    @property
    def public_ip(self) -> str | None:
        return self.public_ip_address

    @property
    def private_dns_name(self) -> str:
        return self.private_ip_address or ""

    @property
    def public_dns_name(self) -> str:
        return self.public_ip_address or ""

    @property
    def network_interfaces(self) -> list:
        return list(self.nics.values()) if self._has_address else []

    @property
    def _seen(self) -> int:
        """The number of answers that contained it."""
        return self._answers - self._phases.unseen

    @property
    def _has_address(self) -> bool:
        return not self.has_ended and self._seen > self._phases.no_address

    def before_answer(self) -> None:
        """Counts a DescribeInstances answer before it is sent."""
        self._answers += 1
        if self._answers_to_end == 0:
            self._end()
        elif self._answers_to_end is not None:
            self._answers_to_end -= 1
        elif self.state == "pending" and self._seen > self._phases.pending:
            self._set_state(RUNNING)

    def terminate(self) -> InstanceState:
        code, message = USER_INITIATED
        return self.end(StateReason(f"{code}: {message}", code))

    def interrupt(self) -> None:
        """Ends it like an interrupted spot instance."""
        code, message = INTERRUPTED
        self.end(StateReason(f"{code}: {message}", code))

    def end(self, reason: StateReason) -> InstanceState:
        """Begins to shut it down for this reason, unless it is shutting down; returns its previous state."""
        previous = copy.copy(self._state)
        if self._answers_to_end is None:
            self.hosts.stop(self.id)
            self._reason_to_end = reason
            if self.spot_request:
                self.spot_request.close(reason)
            self._set_state(SHUTTING_DOWN)
            self._explain()
            self._answers_to_end = self.settings.shutting_down
            if self._answers_to_end == 0:
                self._end()
        return previous

    def _end(self) -> None:
        if not self.has_ended:
            self.ended_at = time.monotonic()
            super().terminate()
            self._explain()

    def _explain(self) -> None:
        """Sets the reason in the fields in which EC2 reports it."""
        self.state_reason = self._reason_to_end
        by_user = self.state_reason.code == USER_INITIATED[0]
        self._reason = (
            f"User initiated ({utcnow():%Y-%m-%d %H:%M:%S} GMT)" if by_user else self.state_reason.code
        )

    def _set_state(self, state: tuple[str, int]) -> None:
        self._state.name, self._state.code = state

    def _adopt_interfaces(self, specified: list[dict]) -> None:
        """Changes moto's network interfaces to EC2's: with the instance's address, and deleted with it."""
        outliving = {
            int(nic["DeviceIndex"])
            for nic in specified
            if "NetworkInterfaceId" in nic or nic.get("DeleteOnTermination") is False
        }
        for index, interface in self.nics.items():
            interface.private_ip_address = self.address
            interface.private_ip_addresses = [{"Primary": True, "PrivateIpAddress": self.address}]
            if interface.public_ip:
                interface.public_ip = self.address
            interface.private_dns_name = self.address
            # Without groups of their own they have the instance's, even after those change.
            interface._group_set = []
            interface.delete_on_termination = index not in outliving


class FulfilledSpotRequest(SpotInstanceRequest):
    """The request that EC2 makes for a spot instance launched by RunInstances."""

    __module__ = SpotInstanceRequest.__module__

    def __init__(self, instance: CloudInstance, options: dict, tags: dict[str, dict[str, str]]):
        self._launched = instance
        super().__init__(
            instance.ec2_backend,
            random_spot_request_id(),
            price=options.get("MaxPrice", ""),
            image_id=instance.image_id,
            spot_instance_type=options.get("SpotInstanceType", "one-time"),
            valid_from=None,
            valid_until=None,
            launch_group=None,
            availability_zone_group=None,
            key_name=instance.key_name,
            security_groups=[group.id for group in instance.security_groups],
            user_data=instance.user_data,
            instance_type=instance.instance_type,
            placement=instance.placement.zone,
            kernel_id=None,
            ramdisk_id=None,
            monitoring_enabled=instance.monitored,
            subnet_id=instance.subnet_id,
            tags=tags,
            spot_fleet_id=None,
            instance_interruption_behaviour=options.get("InstanceInterruptionBehavior"),
        )
        instance.spot_request = self
        instance.ec2_backend.spot_instance_requests[self.id] = self

    def launch_instance(self) -> CloudInstance:
        return self._launched

    def mark(self) -> None:
        """Gives notice that the instance will be interrupted."""
        self._status_code = "marked-for-termination"
        self.status_message = "Your Spot Instance is marked for termination."

    def close(self, reason: StateReason) -> None:
        by_user = reason.code == USER_INITIATED[0]
        self.state = "closed"
        self._status_code = f"instance-terminated-{'by-user' if by_user else 'no-capacity'}"
        self.status_message = reason.message
