"""The resources in the cloud, in all accounts and regions that were used."""

from collections.abc import Iterator
from typing import Any

from moto.cloudwatch.models import CloudWatchBackend, cloudwatch_backends
from moto.ec2.models import EC2Backend, ec2_backends
from moto.sns.models import SNSBackend, sns_backends

from instances import CloudInstance
from launch import instances_of

# The region of dashboards.
EVERYWHERE = "global"


def everything() -> Iterator[dict[str, Any]]:
    """All existing resources that a user made, or that were made with them."""
    services = ((_of_ec2, ec2_backends), (_of_sns, sns_backends), (_of_cloudwatch, cloudwatch_backends))
    for found, backends in services:
        for account, region, backend in backends.iter_backends():
            for kind, identifier, name, tags, *state in found(backend):
                entry = {"kind": kind, "id": identifier, "name": name, "tags": tags}
                entry |= {"account": account, "region": region}
                yield {**entry, "state": state[0]} if state else entry
    yield from _dashboards()


def _of_ec2(backend: EC2Backend) -> Iterator[tuple]:
    def entry(kind: str, thing: Any, name: str | None = None) -> tuple:
        tags = dict(backend.tags.get(thing.id, {}))
        return kind, thing.id, name or tags.get("Name"), tags

    for instance in instances_of(backend):
        if not instance.has_ended:
            yield *entry("instance", instance), instance.state
    for key_pair in backend.key_pairs.values():
        yield entry("key-pair", key_pair, key_pair.key_name)
    for groups in backend.groups.values():
        for group in groups.values():
            if group.name != "default":
                yield entry("security-group", group, group.name)
    for volume in backend.volumes.values():
        yield entry("volume", volume)
    for interface in backend.enis.values():
        if not interface.delete_on_termination:
            yield entry("network-interface", interface)
    for request in backend.spot_instance_requests.values():
        if request.state in ("open", "active"):
            yield entry("spot-instance-request", request)
    for template in backend.launch_templates.values():
        yield entry("launch-template", template, template.name)
    for address in backend.addresses:
        yield entry("elastic-address", address, address.public_ip)


def _of_sns(backend: SNSBackend) -> Iterator[tuple]:
    for topic in backend.topics.values():
        yield "topic", topic.arn, topic.name, dict(topic._tags)
    for subscription in backend.subscriptions.values():
        yield "subscription", subscription.arn, subscription.endpoint, {}


def _of_cloudwatch(backend: CloudWatchBackend) -> Iterator[tuple]:
    for alarm in backend.alarms.values():
        yield "alarm", alarm.alarm_arn, alarm.name, backend.tagger.get_tag_dict_for_resource(alarm.alarm_arn)


def _dashboards() -> Iterator[dict[str, Any]]:
    # All regions of an account share their dashboards.
    for account, backend in {account: one for account, _, one in cloudwatch_backends.iter_backends()}.items():
        for dashboard in backend.dashboards.values():
            tags = backend.tagger.get_tag_dict_for_resource(dashboard.arn)
            entry = {"kind": "dashboard", "id": dashboard.arn, "name": dashboard.name, "tags": tags}
            yield entry | {"account": account, "region": EVERYWHERE}


def instance_details(instance: CloudInstance) -> dict[str, Any]:
    """Details of an instance that the product's AWS calls do not show."""
    profile = instance.iam_instance_profile
    return {
        "id": instance.id,
        "region": instance.ec2_backend.region_name,
        "zone": instance.placement.zone,
        "state": instance.state,
        "address": instance.address,
        "type": instance.instance_type,
        "image": instance.image_id,
        "market": "spot" if instance.lifecycle == "spot" else "on-demand",
        "key_name": instance.key_name,
        "subnet": instance.subnet_id,
        "groups": [{"id": group.id, "name": group.name} for group in instance.security_groups],
        "shutdown_behaviour": instance.instance_initiated_shutdown_behavior,
        "iam_profile": profile and (profile.get("Arn") or profile.get("arn")),
        "metadata_options": {
            "http_tokens": instance.metadata_options.http_tokens,
            "http_endpoint": instance.metadata_options.http_endpoint,
            "http_put_response_hop_limit": instance.metadata_options.http_put_response_hop_limit,
        },
        "public_address": bool(instance.nics[0].public_ip),
        "block_devices": [
            {
                "device": device,
                "volume": block.volume_id,
                "size": instance.ec2_backend.volumes[block.volume_id].size,
                "type": instance.ec2_backend.volumes[block.volume_id].volume_type,
                "delete_on_termination": block.delete_on_termination,
            }
            for device, block in instance.get_block_device_mapping
            if block.volume_id in instance.ec2_backend.volumes
        ],
        "tags": dict(instance.ec2_backend.tags.get(instance.id, {})),
    }
