"""What EC2 does and moto does not: put in place of moto's own methods."""

import copy
from functools import wraps
from typing import Any

from moto import settings as moto_settings
from moto.cloudwatch.responses import CloudWatchResponse
from moto.core.responses import ActionResult
from moto.ec2.exceptions import DependencyViolationError, InvalidInstanceIdError
from moto.ec2.models import EC2Backend, instances
from moto.ec2.models.amis import Ami, AmiBackend
from moto.ec2.models.elastic_block_store import VolumeAttachment
from moto.ec2.responses.instances import InstanceResponse

from calls import AwsError
from faults import Faults, no_capacity
from hosts import LabHosts, NoHosts
from images import images
from instances import CloudInstance, FulfilledSpotRequest, Settings

ROOT_DEVICE = "/dev/sda1"
ROOT_GIBIBYTES = 8
ALARMS_A_PAGE = 100


def install(settings: Settings, hosts: NoHosts | LabHosts, faults: Faults) -> None:
    """Changes moto. To be done before its first call."""
    moto_settings.ENABLE_AMI_VALIDATION = True
    moto_settings.ENABLE_KEYPAIR_VALIDATION = True
    moto_settings.EC2_ENABLE_INSTANCE_TYPE_VALIDATION = True
    AmiBackend._load_amis = _load_images
    VolumeAttachment.delete_on_termination = property(_ends_with_instance)
    CloudInstance.settings, CloudInstance.hosts = settings, hosts
    instances.Instance = CloudInstance
    _connect_default_vpc()
    _refuse_to_delete_used_groups()
    _hide_unseen_instances()
    _launch(hosts, faults)
    _paginate_alarms()


def instances_of(backend: EC2Backend) -> list[CloudInstance]:
    return [instance for reservation in backend.reservations.values() for instance in reservation.instances]


def remove_default_vpc(backend: EC2Backend) -> None:
    """Leaves a region without a default VPC."""
    vpc = backend.get_default_vpc()
    if vpc is None:
        return
    for subnet in backend.describe_subnets(filters={"vpc-id": [vpc.id]}):
        backend.delete_subnet(subnet.id)
    for table in backend.describe_route_tables(filters={"vpc-id": [vpc.id]}):
        del backend.route_tables[table.id]
    for gateway in backend.describe_internet_gateways(filters={"attachment.vpc-id": [vpc.id]}):
        del backend.internet_gateways[gateway.id]
    backend.groups.pop(vpc.id, None)
    del backend.vpcs[vpc.id]


def _load_images(backend: AmiBackend) -> None:
    backend.amis = {image["ami_id"]: Ami(backend, **image) for image in images()}


def _ends_with_instance(attachment: VolumeAttachment) -> bool:
    return attachment.instance.block_device_mapping[attachment.device].delete_on_termination


def _connect_default_vpc() -> None:
    """Gives every default VPC an internet gateway and the route to it."""
    original = EC2Backend.__init__

    @wraps(original)
    def init(self: EC2Backend, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        gateway = self.create_internet_gateway()
        self.attach_internet_gateway(gateway.id, self.default_vpc.id)
        table = self.describe_route_tables(filters={"vpc-id": [self.default_vpc.id]})[0]
        self.create_route(table.id, "0.0.0.0/0", gateway_id=gateway.id)

    EC2Backend.__init__ = init


def _refuse_to_delete_used_groups() -> None:
    original = EC2Backend._delete_security_group

    @wraps(original)
    def delete(self: EC2Backend, vpc_id: str | None, group_id: str) -> None:
        living = (instance for instance in instances_of(self) if not instance.has_ended)
        used = any(group.id == group_id for instance in living for group in instance.security_groups)
        groups = (group for groups in self.groups.values() for group in groups.values())
        named = any(
            rule.source_group.get("GroupId") == group_id
            for group in groups
            if group.id != group_id
            for rule in [*group.ingress_rules, *group.egress_rules]
        )
        if used or named:
            raise DependencyViolationError(f"resource {group_id} has a dependent object")
        original(self, vpc_id, group_id)

    EC2Backend._delete_security_group = delete


def _hide_unseen_instances() -> None:
    original = InstanceResponse.describe_instances

    @wraps(original)
    def describe(self: InstanceResponse) -> ActionResult:
        self.error_on_dryrun()
        existing = instances_of(self.ec2_backend)
        for instance in existing:
            instance.before_answer()
        unseen = {instance.id for instance in existing if not instance.is_visible}
        if asked_for := unseen.intersection(self._get_param("InstanceIds", [])):
            raise InvalidInstanceIdError(sorted(asked_for))
        answer = original(self)
        for reservation in answer.result["Reservations"]:  # These are copies.
            reservation.instances = [one for one in reservation.instances if one.id not in unseen]
        answer.result["Reservations"] = [some for some in answer.result["Reservations"] if some.instances]
        return answer

    InstanceResponse.describe_instances = describe


def _launch(hosts: NoHosts | LabHosts, faults: Faults) -> None:
    """Has RunInstances heed client tokens and capacity, launch MaxCount, and make spot requests."""
    original = InstanceResponse.run_instances
    launched: dict[tuple[str, str], tuple[dict, ActionResult]] = {}

    def count(response: InstanceResponse) -> int:
        """How many instances start: as many as are wanted, unless capacity is short."""
        parameters = response.params
        least, most = int(parameters["MinCount"]), int(parameters["MaxCount"])
        zone, kind = _zone(response), parameters.get("InstanceType", "m1.small")
        free = hosts.free()
        if free is not None and free < least:
            raise no_capacity(zone, kind)
        most = most if free is None else min(most, free)
        market = parameters.get("InstanceMarketOptions", {}).get("MarketType", "on-demand")
        return faults.capacity(zone, kind, market, least, most)

    @wraps(original)
    def run(self: InstanceResponse) -> ActionResult:
        if self._get_param("DryRun", False):
            return original(self)
        token = self._get_param("ClientToken")
        asked = copy.deepcopy(dict(self.params))
        if token and (self.region, token) in launched:
            before, answer = launched[self.region, token]
            if asked != before:
                message = "The client token was used before, by a request with other parameters."
                raise AwsError("IdempotentParameterMismatch", message)
            return answer
        self.params["MinCount"] = count(self)
        _complete_root_device(self.params)
        answer = original(self)
        market = asked.get("InstanceMarketOptions", {})
        if market.get("MarketType") == "spot":
            tags = self._parse_tag_specification()
            for instance in answer.result.instances:
                FulfilledSpotRequest(instance, market.get("SpotOptions", {}), tags)
        if token:
            launched[self.region, token] = asked, answer
        return answer

    InstanceResponse.run_instances = run


def _zone(response: InstanceResponse) -> str:
    """The availability zone in which a RunInstances call launches."""
    parameters = response.params
    interfaces = parameters.get("NetworkInterfaces", [])
    subnets = [parameters.get("SubnetId"), *(interface.get("SubnetId") for interface in interfaces)]
    for subnet in filter(None, subnets):
        return response.ec2_backend.get_subnet(subnet).availability_zone
    return parameters.get("Placement", {}).get("AvailabilityZone") or f"{response.region}a"


def _complete_root_device(parameters: dict) -> None:
    """Adds what EC2 takes from the image where the call does not say it."""
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


def _paginate_alarms() -> None:
    original = CloudWatchResponse.describe_alarms

    @wraps(original)
    def describe(self: CloudWatchResponse) -> ActionResult:
        result = original(self).result
        start = int(self._get_param("NextToken") or 0)
        end = start + (self._get_int_param("MaxRecords") or ALARMS_A_PAGE)
        metric, composite = result["MetricAlarms"], result["CompositeAlarms"]
        page = {
            "MetricAlarms": metric[start:end],
            "CompositeAlarms": composite[max(start - len(metric), 0) : max(end - len(metric), 0)],
        }
        if end < len(metric) + len(composite):
            page["NextToken"] = str(end)
        return ActionResult(page)

    CloudWatchResponse.describe_alarms = describe
