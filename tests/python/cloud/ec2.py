"""Behaviours of EC2 that moto lacks. They replace moto's methods."""

from functools import wraps
from typing import Any

from moto import settings as moto_settings
from moto.core.responses import ActionResult
from moto.ec2.exceptions import DependencyViolationError, InvalidInstanceIdError
from moto.ec2.models import EC2Backend, ec2_backends, elastic_network_interfaces, instances
from moto.ec2.models.amis import Ami, AmiBackend
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.models.elastic_block_store import VolumeAttachment
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, get_prefix

import pages
from calls import Call
from faults import Faults
from hosts import LabHosts, NoHosts
from images import images
from instances import CloudInstance
from launch import Launcher, instances_of
from offerings import Offerings
from settings import Settings

LOOPBACK = "127.0.0.1"
ANYWHERE = "0.0.0.0/0"


def install(settings: Settings, hosts: NoHosts | LabHosts, faults: Faults) -> None:
    """Patches moto. Must be called before moto's first call."""
    moto_settings.ENABLE_AMI_VALIDATION = True
    moto_settings.ENABLE_KEYPAIR_VALIDATION = True
    moto_settings.EC2_ENABLE_INSTANCE_TYPE_VALIDATION = True
    AmiBackend._load_amis = _load_images
    VolumeAttachment.delete_on_termination = property(_ends_with_instance)
    TaggedEC2Resource.get_tags = _tags
    CloudInstance.settings, CloudInstance.hosts = settings, hosts
    instances.Instance = CloudInstance
    _invent_no_addresses()
    _connect_default_vpc()
    _refuse_to_delete_used_groups()
    _hide_unseen_instances()
    offerings = Offerings(settings)
    offerings.install()
    Launcher(settings, hosts, faults, offerings).install()
    pages.install()


def _tags(resource: TaggedEC2Resource) -> list[dict[str, str]]:
    """The tags of a resource. Moto matches the ids of all tags with a regular expression, which takes a quarter of its time."""
    if not resource.id:
        return []
    kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(resource.id), "")
    tags = resource.ec2_backend.tags.get(resource.id, {})
    return [
        {"resource_id": resource.id, "key": key, "value": value, "resource_type": kind}
        for key, value in tags.items()
    ]


def before_describe_instances(call: Call) -> None:
    """Advances the phases of instances."""
    for instance in instances_of(ec2_backends[call.account][call.region]):
        instance.before_answer()


def remove_default_vpc(backend: EC2Backend) -> None:
    """Removes a region's default VPC."""
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


def disconnect_default_vpc(backend: EC2Backend) -> None:
    """Removes the route to the internet from a region's default VPC."""
    vpc = backend.get_default_vpc()
    if vpc is not None:
        for table in backend.describe_route_tables(filters={"vpc-id": [vpc.id]}):
            if any(route.destination_cidr_block == ANYWHERE for route in table.routes):
                backend.delete_route(table.id, ANYWHERE)


def _load_images(backend: AmiBackend) -> None:
    backend.amis = {image["ami_id"]: Ami(backend, **image) for image in images()}


def _ends_with_instance(attachment: VolumeAttachment) -> bool:
    return attachment.instance.block_device_mapping[attachment.device].delete_on_termination


def _invent_no_addresses() -> None:
    """Makes moto use the loopback address in place of random addresses, and no names that a resolver may know."""
    elastic_network_interfaces.random_public_ip = lambda: LOOPBACK
    elastic_network_interfaces.random_private_ip = lambda *_, **__: LOOPBACK
    elastic_network_interfaces.generate_dns_from_ip = lambda address, *_: address


def _connect_default_vpc() -> None:
    """Gives every default VPC an internet gateway and the route to it."""
    original = EC2Backend.__init__

    @wraps(original)
    def init(self: EC2Backend, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        gateway = self.create_internet_gateway()
        self.attach_internet_gateway(gateway.id, self.default_vpc.id)
        table = self.describe_route_tables(filters={"vpc-id": [self.default_vpc.id]})[0]
        self.create_route(table.id, ANYWHERE, gateway_id=gateway.id)

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
        unseen = {instance.id for instance in instances_of(self.ec2_backend) if not instance.is_visible}
        if asked_for := unseen.intersection(self._get_param("InstanceIds", [])):
            raise InvalidInstanceIdError(sorted(asked_for))
        answer = original(self)
        for reservation in answer.result["Reservations"]:  # These are copies.
            reservation.instances = [one for one in reservation.instances if one.id not in unseen]
        answer.result["Reservations"] = [some for some in answer.result["Reservations"] if some.instances]
        return answer

    InstanceResponse.describe_instances = describe
