"""Settings by which tests change the cloud's behaviour."""

from dataclasses import dataclass, field

from policy import default_policy


@dataclass
class Settings:
    """Tests can change all settings at any time, by POST /_test/settings."""

    # The number of DescribeInstances answers for which each phase of an instance lasts, and its boot time.
    unseen: int = 0
    pending: int = 0
    no_address: int = 0
    shutting_down: int = 0
    boot_seconds: float = 0
    # Whether the machines arm the time to live in their user data.
    time_to_live_armed: bool = True
    # The least time that a call takes.
    latency_ms: float = 0
    # Allowed calls a second of each of PutMetricAlarm and DeleteAlarms; None: any number.
    alarm_rate: float | None = 3.0
    # For how many seconds new resources are not found by id or by tag, and deleted ones are still found.
    late_by_id: float = 0
    late_by_tag: float = 0
    late_gone: float = 0
    # The quota of vCPUs for a region's on-demand instances (None: none), and for how many seconds ended
    # instances still count.
    vcpu_quota: int | None = None
    quota_lag: float = 0
    # Zones, by instance type, that do not offer the type although they do in AWS.
    unoffered: dict[str, list[str]] = field(default_factory=dict)
    # The verified phone numbers if the account is in the SMS sandbox; None if it is not.
    sms_sandbox: list[str] | None = None
    # The file with the policy for the product's calls; None allows all.
    policy: str | None = field(default_factory=default_policy)
