"""The permissions that a call needs: actions on resources, with the condition keys that policies use.

See "Actions, resources, and condition keys" in the Service Authorization Reference. The tags of resources are
moto's. A resource that does not exist needs no permission, so that the answer is that it was not found.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from moto.cloudwatch.models import cloudwatch_backends
from moto.ec2.models import EC2Backend, ec2_backends
from moto.sns.models import sns_backends

from calls import Call

Tags = dict[str, str]
Context = dict[str, str | list[str]]

CREATE_ROLE = "iam:CreateServiceLinkedRole"
SPOT_ROLE = ("spot.amazonaws.com", "AWSServiceRoleForEC2Spot")
ALARMS_ROLE = ("events.amazonaws.com", "AWSServiceRoleForCloudWatchEvents")
# Prefix of the alarm actions for which CloudWatch needs that role.
EC2_ACTION = "arn:aws:automate:"
# The kind of resources that an EC2 operation is about, and the parameter that names them.
ABOUT = {
    "AuthorizeSecurityGroupIngress": ("security-group", "GroupId"),
    "DeleteKeyPair": ("key-pair", "KeyName"),
    "DeleteSecurityGroup": ("security-group", "GroupId"),
    "DeleteVolume": ("volume", "VolumeId"),
    "RebootInstances": ("instance", "InstanceIds"),
    "RevokeSecurityGroupIngress": ("security-group", "GroupId"),
    "StartInstances": ("instance", "InstanceIds"),
    "StopInstances": ("instance", "InstanceIds"),
    "TerminateInstances": ("instance", "InstanceIds"),
}
# The kinds of resources that a launch makes, besides the request for spot instances.
LAUNCHED = ("instance", "volume", "network-interface")


@dataclass(frozen=True)
class Need:
    action: str
    resource: str = "*"
    context: Context = field(default_factory=dict)


def needs_of(call: Call, parameters: dict[str, Any]) -> list[Need]:
    match call.service:
        case "ec2":
            return list(_Ec2(call, parameters).needs())
        case "cloudwatch":
            return list(_cloudwatch(call, parameters))
        case "sns":
            return list(_sns(call, parameters))
    return []  # GetCallerIdentity needs no permission.


class _Ec2:
    def __init__(self, call: Call, parameters: dict[str, Any]):
        self._call, self._parameters = call, parameters
        self._backend: EC2Backend = ec2_backends[call.account][call.region]

    def needs(self) -> Iterator[Need]:
        operation, parameters = self._call.operation, self._parameters
        if operation in ABOUT:
            kind, parameter = ABOUT[operation]
            yield from self._about(kind, _listed(parameters.get(parameter)))
            for specification in parameters.get("TagSpecifications", []):
                yield self._made(specification["ResourceType"])
        elif operation == "RunInstances":
            yield from self._launch()
        elif operation in ("CreateKeyPair", "ImportKeyPair"):
            yield self._made("key-pair", parameters["KeyName"])
        elif operation == "CreateSecurityGroup":
            yield self._made("security-group")
            default = self._backend.get_default_vpc()
            yield from self._about("vpc", [parameters.get("VpcId") or (default.id if default else "")])
        else:
            yield self._need("*")
        for kind, tags in self._tags().items():
            context = {"ec2:CreateAction": operation, **_requested(tags)}
            yield Need("ec2:CreateTags", self._arn(kind, "*"), context)

    def _launch(self) -> Iterator[Need]:
        parameters = self._parameters
        interfaces = parameters.get("NetworkInterfaces", [])
        groups = [parameters.get("SecurityGroupIds", []), *(nic.get("Groups", []) for nic in interfaces)]
        subnets = [parameters.get("SubnetId"), *(nic.get("SubnetId") for nic in interfaces)]
        is_spot = parameters.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        for kind in (*LAUNCHED, *(["spot-instances-request"] if is_spot else [])):
            yield self._made(kind)
        yield from self._about("security-group", [group for some in groups for group in some])
        yield from self._about("subnet", [subnet for subnet in subnets if subnet])
        yield from self._about("key-pair", _listed(parameters.get("KeyName")))
        yield self._need(f"arn:aws:ec2:{self._call.region}::image/{parameters.get('ImageId')}")
        if is_spot:
            yield _role(self._call, SPOT_ROLE)

    def _about(self, kind: str, ids: Iterable[str]) -> Iterator[Need]:
        for identifier in dict.fromkeys(ids):
            thing = self._find(kind, identifier)
            if thing is not None:
                tags = self._backend.tags.get(thing.id, {})
                yield self._need(self._arn(kind, identifier), _tagged("ec2", tags))

    def _find(self, kind: str, identifier: str) -> Any:
        backend = self._backend
        match kind:
            case "instance":
                return backend.get_instance_by_id(identifier)
            case "security-group":
                return backend.get_security_group_from_id(identifier)
            case "key-pair":
                return backend.key_pairs.get(identifier)
            case "volume":
                return backend.volumes.get(identifier)
            case "vpc":
                return backend.vpcs.get(identifier)
            case "subnet":
                found = backend.describe_subnets(filters={"subnet-id": [identifier]})
                return found[0] if found else None
        raise ValueError(kind)

    def _made(self, kind: str, name: str = "*") -> Need:
        return self._need(self._arn(kind, name), _requested(self._tags().get(kind, {})))

    def _tags(self) -> dict[str, Tags]:
        """The tags of the resources that the call makes, by kind."""
        specified = self._parameters.get("TagSpecifications", [])
        return {some["ResourceType"]: _as_dict(some.get("Tags", [])) for some in specified}

    def _need(self, resource: str, context: Context | None = None) -> Need:
        return Need(self._call.name, resource, {"ec2:Region": self._call.region, **(context or {})})

    def _arn(self, kind: str, name: str) -> str:
        return f"arn:aws:ec2:{self._call.region}:{self._call.account}:{kind}/{name}"


def _cloudwatch(call: Call, parameters: dict[str, Any]) -> Iterator[Need]:
    backend = cloudwatch_backends[call.account][call.region]
    alarms, dashboards = (
        f"arn:aws:cloudwatch:{call.region}:{call.account}:alarm:",
        f"arn:aws:cloudwatch::{call.account}:dashboard/",
    )
    tags = _as_dict(parameters.get("Tags", []))

    def about(arn: str) -> Context:
        return _tagged(None, backend.tagger.get_tag_dict_for_resource(arn))

    def put(arn: str, context: Context) -> Iterator[Need]:
        yield Need(call.name, arn, {**about(arn), **_requested(tags), **context})
        if tags:
            yield Need("cloudwatch:TagResource", arn, _requested(tags))

    match call.operation:
        case "DescribeAlarms":
            yield Need(call.name, f"{alarms}*")
        case "PutMetricAlarm":
            actions = parameters.get("AlarmActions", [])
            yield from put(alarms + parameters["AlarmName"], {"cloudwatch:AlarmActions": actions})
            if any(action.startswith(EC2_ACTION) for action in actions):
                yield _role(call, ALARMS_ROLE)
        case "DeleteAlarms":
            there = [name for name in parameters["AlarmNames"] if name in backend.alarms]
            yield from (Need(call.name, alarms + name, about(alarms + name)) for name in there)
        case "PutDashboard":
            yield from put(dashboards + parameters["DashboardName"], {})
        case "GetDashboard":
            arn = dashboards + parameters["DashboardName"]
            yield Need(call.name, arn, about(arn))
        case "DeleteDashboards":
            there = [name for name in parameters["DashboardNames"] if name in backend.dashboards]
            yield from (Need(call.name, dashboards + name, about(dashboards + name)) for name in there)
        case "ListTagsForResource" | "TagResource" | "UntagResource":
            arn = parameters["ResourceARN"]
            yield Need(call.name, arn, {**about(arn), **_requested(tags)})
        case _:
            yield Need(call.name)


def _sns(call: Call, parameters: dict[str, Any]) -> Iterator[Need]:
    topics = sns_backends[call.account][call.region].topics
    tags = _as_dict(parameters.get("Tags", []))
    arn = parameters.get("TopicArn") or parameters.get("ResourceArn") or ""
    if call.operation == "CreateTopic":
        arn = f"arn:aws:sns:{call.region}:{call.account}:{parameters['Name']}"
        yield Need(call.name, arn, _requested(tags))
        if tags:
            yield Need("sns:TagResource", arn, _requested(tags))
    elif call.operation == "Unsubscribe":
        # It does not read the topic's tags.
        yield Need(call.name, parameters["SubscriptionArn"].rpartition(":")[0])
    elif not arn:
        yield Need(call.name)
    elif arn in topics:
        yield Need(call.name, arn, {**_tagged(None, topics[arn]._tags), **_requested(tags)})


def _role(call: Call, role: tuple[str, str]) -> Need:
    service, name = role
    arn = f"arn:aws:iam::{call.account}:role/aws-service-role/{service}/{name}"
    return Need(CREATE_ROLE, arn, {"iam:AWSServiceName": service})


def _listed(value: str | list[str] | None) -> list[str]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _as_dict(tags: list[Tags]) -> Tags:
    return {tag["Key"]: tag.get("Value", "") for tag in tags}


def _requested(tags: Tags) -> Context:
    """The condition keys for the tags in a call."""
    if not tags:
        return {}
    return {**{f"aws:RequestTag/{key}": value for key, value in tags.items()}, "aws:TagKeys": list(tags)}


def _tagged(service: str | None, tags: Tags) -> Context:
    """The condition keys for a resource's tags."""
    prefixes = ("aws", service) if service else ("aws",)
    return {f"{prefix}:ResourceTag/{key}": value for prefix in prefixes for key, value in tags.items()}
