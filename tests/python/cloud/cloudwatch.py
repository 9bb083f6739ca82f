"""Behaviours of CloudWatch that moto lacks. They replace moto's methods."""

import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from moto.cloudwatch.models import CloudWatchBackend, Dashboard
from moto.cloudwatch.responses import CloudWatchResponse
from moto.core.responses import ActionResult
from moto.utilities.tagging_service import TaggingService

from calls import AwsError, Call
from settings import Settings

ALARMS_A_PAGE = 100
METRICS_A_WIDGET = 500
# Operations that are limited to `alarm_rate`, each on its own.
LIMITED = ("PutMetricAlarm", "DeleteAlarms")


def install() -> None:
    """Patches moto. Must be called before moto's first call."""
    _share_dashboards()
    _check_and_tag_dashboards()
    _paginate_alarms()


@dataclass
class AlarmRates:
    """A token bucket for each operation, account and region; it holds the tokens of one second."""

    settings: Settings
    _buckets: dict[tuple[str, str, str], tuple[float, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, call: Call) -> None:
        """Raises CloudWatch's error if the operation is called too often."""
        rate = self.settings.alarm_rate
        if call.service != "cloudwatch" or call.operation not in LIMITED or rate is None:
            return
        key, now = (call.operation, call.account, call.region), time.monotonic()
        most = max(rate, 1.0)
        with self._lock:
            tokens, since = self._buckets.get(key, (most, now))
            tokens = min(most, tokens + (now - since) * rate)
            self._buckets[key] = (tokens - 1 if tokens >= 1 else tokens), now
        if tokens < 1:
            raise AwsError("Throttling", "Rate exceeded")


def _share_dashboards() -> None:
    """Shares dashboards and tags among all regions of an account."""
    dashboards: defaultdict[str, dict[str, Dashboard]] = defaultdict(dict)
    taggers: defaultdict[str, TaggingService] = defaultdict(TaggingService)
    original = CloudWatchBackend.__init__

    @wraps(original)
    def init(self: CloudWatchBackend, region_name: str, account_id: str) -> None:
        original(self, region_name, account_id)
        self.dashboards, self.tagger = dashboards[account_id], taggers[account_id]

    CloudWatchBackend.__init__ = init


def _check_and_tag_dashboards() -> None:
    original = CloudWatchResponse.put_dashboard

    @wraps(original)
    def put(self: CloudWatchResponse) -> ActionResult:
        errors = _errors(self._get_param("DashboardBody"))
        if errors:
            counted = f"The dashboard body is invalid, there are {len(errors)} validation errors: "
            raise AwsError("InvalidParameterInput", counted + json.dumps(errors))
        name, backend = self._get_param("DashboardName"), self.cloudwatch_backend
        is_new = name not in backend.dashboards
        answer = original(self)
        if is_new and (tags := self._get_param("Tags", [])):
            backend.tagger.tag_resource(backend.dashboards[name].arn, tags)
        return answer

    CloudWatchResponse.put_dashboard = put


def _errors(body: str) -> list[dict[str, str]]:
    try:
        widgets = json.loads(body)["widgets"]
    except (ValueError, KeyError, TypeError):
        return [{"dataPath": "", "message": "Should have required property 'widgets'"}]

    def metrics(widget: Any) -> int:
        return len(widget.get("properties", {}).get("metrics", []))

    return [
        {
            "dataPath": f"/widgets/{i}/properties/metrics",
            "message": f"Should NOT have more than {METRICS_A_WIDGET} items",
        }
        for i, widget in enumerate(widgets)
        if metrics(widget) > METRICS_A_WIDGET
    ]


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
