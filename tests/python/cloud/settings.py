"""How the cloud behaves, where tests may want it to behave otherwise."""

from dataclasses import dataclass, field

from policy import default_policy


@dataclass
class Settings:
    """All of this can be changed at any time, by POST /_test/settings."""

    # How many DescribeInstances answers each phase of an instance's life lasts, and how long it boots.
    unseen: int = 0
    pending: int = 0
    no_address: int = 0
    shutting_down: int = 0
    boot_seconds: float = 0
    # Whether the machines do what their user data says about when they end.
    time_to_live_armed: bool = True
    # How long each call takes at least.
    latency_ms: float = 0
    # How many calls a second PutMetricAlarm and DeleteAlarms allow, each; None: as many as come.
    alarm_rate: float | None = 3.0
    # For how many seconds things that were made are not found by id, nor by tag; and those that were deleted
    # still are.
    late_by_id: float = 0
    late_by_tag: float = 0
    late_gone: float = 0
    # How many vCPUs on-demand instances of a region may have (None: any number), and for how many seconds
    # those that have ended still count.
    vcpu_quota: int | None = None
    quota_lag: float = 0
    # Zones that do not offer an instance type which they offer else.
    unoffered: dict[str, list[str]] = field(default_factory=dict)
    # The numbers that were verified, if the account is in the SMS sandbox; None: it is not.
    sms_sandbox: list[str] | None = None
    # The file with the policy by which the product's calls are allowed; None: all are.
    policy: str | None = field(default_factory=default_policy)
