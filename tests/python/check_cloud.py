"""Checks that the test cloud behaves like AWS where moto does not. Its own interface is at /_test/."""

import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

URL = os.environ["AWS_ENDPOINT_URL"]
CONFIG = Config(retries={"total_max_attempts": 1})
TAGS = [{"Key": "stack", "Value": "x"}]
BY_TAG = [{"Name": "tag:stack", "Values": ["x"]}]
# Seconds; longer than this script runs.
LONG = 3600
IMAGE, ARM_IMAGE = "ami-0c0ffee0000000009", "ami-0c0ffee0000000010"
ALARM = {"Namespace": "AWS/EC2", "MetricName": "StatusCheckFailed", "Statistic": "Maximum", "Period": 60,
         "EvaluationPeriods": 2, "Threshold": 1.0, "ComparisonOperator": "GreaterThanOrEqualToThreshold"}


def client(service: str, region: str = "us-west-2", key: str = "byhand") -> Any:
    return boto3.client(
        service, region, aws_access_key_id=key, aws_secret_access_key="x", config=CONFIG
    )


ec2, cloudwatch, sns = (client(service) for service in ("ec2", "cloudwatch", "sns"))


def post(path: str, body: Any) -> None:
    urllib.request.urlopen(f"{URL}/_test/{path}", json.dumps(body).encode()).close()


def settings(**changes: Any) -> None:
    post("settings", changes)


def error(call: Callable, **parameters: Any) -> str | None:
    try:
        call(**parameters)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return None


def tagged(kind: str) -> list[dict]:
    return [{"ResourceType": kind, "Tags": TAGS}]


def launch(count: int = 1, **more: Any) -> list[str]:
    usual = {"ImageId": IMAGE, "InstanceType": "c5.4xlarge", "MinCount": count, "MaxCount": count,
             "TagSpecifications": tagged("instance") + tagged("volume")}
    return [one["InstanceId"] for one in ec2.run_instances(**usual | more)["Instances"]]


def instances() -> dict[str, dict]:
    found = ec2.describe_instances()["Reservations"]
    return {one["InstanceId"]: one for reservation in found for one in reservation["Instances"]}


def eventually(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def accounts() -> None:
    mine, theirs = client("sts").get_caller_identity(), client("sts", key="other").get_caller_identity()
    assert (mine["Account"], theirs["Account"]) == ("123456789012", "210987654321")
    ec2.create_key_pair(KeyName="k")
    topic = sns.create_topic(Name="t", Tags=TAGS)["TopicArn"]
    assert client("ec2", key="other").describe_key_pairs()["KeyPairs"] == []
    assert error(client("sns", key="other").list_tags_for_resource, ResourceArn=topic) == "ResourceNotFound"


def instance_types() -> None:
    zones = ec2.describe_instance_type_offerings(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": ["c5.4xl*"]}]
    )["InstanceTypeOfferings"]
    settings(unoffered={"c5.4xlarge": [zones[0]["Location"]]})
    assert error(launch, Placement={"AvailabilityZone": zones[0]["Location"]}) == "Unsupported"
    settings(unoffered={})
    assert error(launch, ImageId=ARM_IMAGE) == "InvalidParameterValue"
    kinds = ec2.describe_instance_types(InstanceTypes=["c7g.4xlarge"])["InstanceTypes"]
    assert kinds[0]["ProcessorInfo"]["SupportedArchitectures"] == ["arm64"]
    assert error(ec2.describe_instance_types, InstanceTypes=["c5.none"]) == "InvalidInstanceType"


def addresses(answer: Any) -> Iterator[str]:
    """The values of all members that are addresses or names of hosts."""
    for name, value in answer.items() if isinstance(answer, dict) else enumerate(answer):
        if isinstance(value, dict | list):
            yield from addresses(value)
        elif isinstance(name, str) and name.endswith(("IpAddress", "PublicIp", "DnsName")):
            yield value


def pages_and_addresses() -> None:
    launch(7)
    sizes = [sum(len(of["Instances"]) for of in page["Reservations"])
             for page in ec2.get_paginator("describe_instances").paginate(MaxResults=5)]
    assert sizes == [5, 2], sizes
    sizes = [len(page["Volumes"]) for page in ec2.get_paginator("describe_volumes").paginate(MaxResults=5)]
    assert sizes == [5, 2], sizes
    assert error(ec2.describe_instances, MaxResults=4) == "InvalidParameterValue"
    answers = [*instances().values(), *ec2.describe_network_interfaces()["NetworkInterfaces"]]
    assert set(addresses(answers)) == {"127.0.0.1"}
    ec2.terminate_instances(InstanceIds=list(instances()))


def late_and_lingering() -> None:
    settings(late_by_id=LONG)
    made = launch()
    assert error(ec2.describe_instances, InstanceIds=made) == "InvalidInstanceID.NotFound"
    assert error(ec2.terminate_instances, InstanceIds=made) == "InvalidInstanceID.NotFound"
    settings(late_by_id=0, late_by_tag=LONG)
    assert error(ec2.describe_instances, InstanceIds=made) is None
    assert not ec2.describe_volumes(Filters=BY_TAG)["Volumes"]
    settings(late_by_tag=0)
    assert len(ec2.describe_volumes(Filters=BY_TAG)["Volumes"]) == 1
    settings(late_gone=LONG)
    cloudwatch.put_metric_alarm(AlarmName="a", **ALARM)
    cloudwatch.delete_alarms(AlarmNames=["a"])
    ec2.terminate_instances(InstanceIds=made)
    instances()
    assert {volume["State"] for volume in ec2.describe_volumes(Filters=BY_TAG)["Volumes"]} == {"deleting"}
    assert len(cloudwatch.describe_alarms()["MetricAlarms"]) == 1
    settings(late_gone=0)
    assert not ec2.describe_volumes(Filters=BY_TAG)["Volumes"]
    assert not cloudwatch.describe_alarms()["MetricAlarms"]


def ends() -> None:
    post("faults", [{"kind": "dies", "most": 1}])
    _, dead = launch(2)
    assert instances()[dead]["StateReason"]["Code"] == "Server.InsufficientInstanceCapacity"
    spot, = launch(InstanceMarketOptions={"MarketType": "spot"})
    post("interrupt", {"id": spot, "notice_seconds": LONG})
    request, = ec2.describe_spot_instance_requests()["SpotInstanceRequests"]
    assert request["Status"]["Code"] == "marked-for-termination"
    post("interrupt", {"id": spot, "notice_seconds": 0})
    eventually(lambda: instances()[spot]["State"]["Name"] == "terminated")
    assert instances()[spot]["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    ec2.terminate_instances(InstanceIds=list(instances()))
    assert instances()[dead]["StateReason"]["Code"] == "Server.InsufficientInstanceCapacity"


def quotas_and_rates() -> None:
    settings(vcpu_quota=16, quota_lag=LONG)
    assert error(launch) == "VcpuLimitExceeded"  # Ended instances count.
    settings(quota_lag=0)
    assert error(launch) is None
    assert error(launch) == "VcpuLimitExceeded"
    settings(vcpu_quota=None, alarm_rate=0.01)
    codes = [error(cloudwatch.put_metric_alarm, AlarmName=name, **ALARM) for name in "ab"]
    assert "Throttling" in codes, codes
    settings(alarm_rate=None)


def dashboards_and_messages() -> None:
    def body(metrics: int) -> str:
        return json.dumps({"widgets": [{"type": "metric", "properties": {"metrics": [["a", "b"]] * metrics}}]})

    too_many = {"DashboardName": "d", "DashboardBody": body(501)}
    assert error(cloudwatch.put_dashboard, **too_many) == "InvalidParameterInput"
    cloudwatch.put_dashboard(DashboardName="d", DashboardBody=body(500))
    assert error(client("cloudwatch", "eu-west-1").get_dashboard, DashboardName="d") is None
    assert error(client("cloudwatch", key="other").get_dashboard, DashboardName="d") == "ResourceNotFound"
    assert not sns.get_sms_sandbox_account_status()["IsInSandbox"]
    settings(sms_sandbox=["+14155550100"])
    assert sns.get_sms_sandbox_account_status()["IsInSandbox"]
    assert len(sns.list_sms_sandbox_phone_numbers()["PhoneNumbers"]) == 1


def no_route() -> None:
    settings(route_to_internet=False, region="eu-west-1")
    for region, has_gateway in (("eu-west-1", False), ("us-west-1", True)):
        routes = client("ec2", region).describe_route_tables()["RouteTables"][0]["Routes"]
        assert any(route["GatewayId"].startswith("igw-") for route in routes) == has_gateway


for check in (accounts, instance_types, pages_and_addresses, late_and_lingering, ends, quotas_and_rates,
              dashboards_and_messages, no_route):
    check()
    print(check.__name__)
