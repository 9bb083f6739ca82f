"""Makes a few random changes to a stack, from a seed, as people do by hand in the console."""

import json
import random
import sys

import boto3

STACK = "provisioned-classifier"
DASHBOARD = f"{STACK}-us-west-2"
TAGGED = [{"Name": "tag:provisioned-classifier-stack", "Values": [STACK]}]

ec2, sns, cloudwatch = (boto3.client(name, region_name="us-west-2") for name in ("ec2", "sns", "cloudwatch"))


def instances() -> list[str]:
    living = TAGGED + [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    reservations = ec2.describe_instances(Filters=living)["Reservations"]
    return sorted(instance["InstanceId"] for found in reservations for instance in found["Instances"])


def group() -> str:
    return ec2.describe_security_groups(Filters=TAGGED)["SecurityGroups"][0]["GroupId"]


def rule(port: int) -> list[dict]:
    networks = [{"CidrIp": "0.0.0.0/0"}]
    return [{"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": networks}]


def topic() -> str:
    return next(t["TopicArn"] for t in sns.list_topics()["Topics"] if t["TopicArn"].endswith(f":{STACK}"))


def terminate(dice: random.Random) -> None:
    ec2.terminate_instances(InstanceIds=[dice.choice(instances())])


def stop(dice: random.Random) -> None:
    ec2.stop_instances(InstanceIds=[dice.choice(instances())])


def delete_alarms(dice: random.Random) -> None:
    names = [alarm["AlarmName"] for alarm in cloudwatch.describe_alarms()["MetricAlarms"]]
    cloudwatch.delete_alarms(AlarmNames=dice.sample(sorted(names), 2))


def mute_alarm(dice: random.Random) -> None:
    alarm = dice.choice(cloudwatch.describe_alarms()["MetricAlarms"])
    kept = ("AlarmName", "MetricName", "Namespace", "Statistic", "Dimensions", "Period", "EvaluationPeriods",
            "Threshold", "ComparisonOperator")
    cloudwatch.put_metric_alarm(**{name: alarm[name] for name in kept}, AlarmActions=[])


def delete_dashboard(_dice: random.Random) -> None:
    cloudwatch.delete_dashboards(DashboardNames=[DASHBOARD])


def change_dashboard(_dice: random.Random) -> None:
    body = json.loads(cloudwatch.get_dashboard(DashboardName=DASHBOARD)["DashboardBody"])
    cloudwatch.put_dashboard(DashboardName=DASHBOARD, DashboardBody=json.dumps({"widgets": body["widgets"][:1]}))


def delete_topic(_dice: random.Random) -> None:
    sns.delete_topic(TopicArn=topic())


def subscribe(_dice: random.Random) -> None:
    sns.subscribe(TopicArn=topic(), Protocol="sms", Endpoint="+14155550199")


def open_port(dice: random.Random) -> None:
    ec2.authorize_security_group_ingress(GroupId=group(), IpPermissions=rule(dice.randint(1000, 2000)))


def close_all(_dice: random.Random) -> None:
    found = ec2.describe_security_groups(GroupIds=[group()])["SecurityGroups"][0]["IpPermissions"]
    ec2.revoke_security_group_ingress(GroupId=group(), IpPermissions=found)


def delete_key_pair(_dice: random.Random) -> None:
    ec2.delete_key_pair(KeyName=STACK)


CHANGES = [terminate, stop, delete_alarms, mute_alarm, change_dashboard, delete_dashboard, subscribe, delete_topic,
           open_port, close_all, delete_key_pair]

if __name__ == "__main__":
    dice = random.Random(int(sys.argv[1]))
    # In the order of the list, so that no change removes what a later one needs.
    for change in sorted(dice.sample(CHANGES, 4), key=CHANGES.index):
        change(dice)
        print(change.__name__)
