"""RunInstances as in EC2: client tokens, capacity, quotas, architectures, MaxCount, and spot requests."""

import copy
import time
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models import EC2Backend
from moto.ec2.models.instances import StateReason
from moto.ec2.responses.instances import InstanceResponse

from calls import AwsError
from faults import Faults, no_capacity
from hosts import LabHosts, NoHosts
from instances import CloudInstance, FulfilledSpotRequest
from offerings import Offerings, vcpus
from settings import Settings

ROOT_DEVICE = "/dev/sda1"
ROOT_GIBIBYTES = 8


def instances_of(backend: EC2Backend) -> list[CloudInstance]:
    return [instance for reservation in backend.reservations.values() for instance in reservation.instances]


@dataclass(frozen=True)
class Launch:
    """The parameters of a RunInstances call."""

    backend: EC2Backend
    parameters: dict[str, Any]

    @property
    def instance_type(self) -> str:
        return self.parameters.get("InstanceType", "m1.small")

    @property
    def counts(self) -> tuple[int, int]:
        return int(self.parameters["MinCount"]), int(self.parameters["MaxCount"])

    @property
    def market(self) -> str:
        return self.parameters.get("InstanceMarketOptions", {}).get("MarketType", "on-demand")

    @property
    def zone(self) -> str:
        interfaces = self.parameters.get("NetworkInterfaces", [])
        subnets = [self.parameters.get("SubnetId"), *(interface.get("SubnetId") for interface in interfaces)]
        for subnet in filter(None, subnets):
            return self.backend.get_subnet(subnet).availability_zone
        return self.parameters.get("Placement", {}).get("AvailabilityZone") or f"{self.backend.region_name}a"

    @property
    def architecture(self) -> str:
        return self.backend.describe_images(ami_ids=[self.parameters["ImageId"]])[0].architecture


@dataclass
class Launcher:
    """Launches instances as far as the settings, the hosts and the faults allow."""

    settings: Settings
    hosts: NoHosts | LabHosts
    faults: Faults
    offerings: Offerings
    # The answers to calls with a client token, by account, region and token.
    _launched: dict[tuple[str, str, str], tuple[dict, ActionResult]] = field(default_factory=dict)

    def install(self) -> None:
        original = InstanceResponse.run_instances

        @wraps(original)
        def run(response: InstanceResponse) -> ActionResult:
            if response._get_param("DryRun", False):
                return original(response)
            token = response._get_param("ClientToken")
            if not token:
                return self._run(response, original)
            key = (response.current_account, response.region, token)
            asked = copy.deepcopy(dict(response.params))
            if key not in self._launched:
                self._launched[key] = asked, self._run(response, original)
            before, answer = self._launched[key]
            if asked != before:
                message = "The client token was used before, by a request with other parameters."
                raise AwsError("IdempotentParameterMismatch", message)
            return answer

        InstanceResponse.run_instances = run

    def _run(self, response: InstanceResponse, original: Any) -> ActionResult:
        launch = Launch(response.ec2_backend, response.params)
        self.offerings.check(launch.instance_type, launch.zone, response.region, launch.architecture)
        response.params["MinCount"] = self._count(launch)
        _complete_root_device(response.params)
        answer = original(response)
        instances = answer.result.instances
        if launch.market == "spot":
            tags = response._parse_tag_specification()
            options = response.params["InstanceMarketOptions"].get("SpotOptions", {})
            for instance in instances:
                FulfilledSpotRequest(instance, options, tags)
        if dying := self.faults.dying(launch.zone, launch.instance_type, launch.market):
            for instance in instances[dying.most :]:
                instance.end(StateReason(f"{dying.code}: {dying.message}", dying.code))
        return answer

    def _count(self, launch: Launch) -> int:
        """The number of instances that start: as many as requested, unless quota or capacity is short."""
        least, most = launch.counts
        if launch.market == "on-demand":
            most = min(most, self._within_quota(launch))
            if most < least:
                raise _over_quota(self.settings.vcpu_quota)
        free = self.hosts.free()
        if free is not None:
            most = min(most, free)
        if most < least:
            raise no_capacity(launch.zone, launch.instance_type)
        return self.faults.capacity(launch.zone, launch.instance_type, launch.market, least, most)

    def _within_quota(self, launch: Launch) -> int:
        """The number of instances of this type that the quota allows."""
        if self.settings.vcpu_quota is None:
            return launch.counts[1]
        since = time.monotonic() - self.settings.quota_lag
        used = sum(
            vcpus(instance.instance_type)
            for instance in instances_of(launch.backend)
            if instance.lifecycle != "spot" and (instance.ended_at is None or instance.ended_at > since)
        )
        return max(self.settings.vcpu_quota - used, 0) // vcpus(launch.instance_type)


def _over_quota(quota: int | None) -> AwsError:
    message = (
        f"You have requested more vCPU capacity than your current vCPU limit of {quota} allows for the "
        "instance bucket that the specified instance type belongs to. Please visit "
        "http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit."
    )
    return AwsError("VcpuLimitExceeded", message)


def _complete_root_device(parameters: dict) -> None:
    """Adds properties of the root device that EC2 takes from the image if the call does not give them."""
    mappings = parameters.get("BlockDeviceMappings")
    if not mappings:
        return
    root = next((mapping for mapping in mappings if mapping["DeviceName"] == ROOT_DEVICE), None)
    if root is None:
        root = {"DeviceName": ROOT_DEVICE}
        mappings.insert(0, root)
    disk = root.setdefault("Ebs", {})
    disk.setdefault("VolumeSize", ROOT_GIBIBYTES)
    disk.setdefault("DeleteOnTermination", True)
