"""Instance types, and the zones that offer them."""

from fnmatch import fnmatchcase
from typing import Any

from moto.ec2.models import EC2Backend
from moto.ec2.models.instance_types import (
    INSTANCE_TYPE_OFFERINGS,
    INSTANCE_TYPES,
    InstanceTypeBackend,
    InstanceTypeOfferingBackend,
)

from calls import AwsError
from settings import Settings


class Offerings:
    def __init__(self, settings: Settings):
        self._settings = settings

    def install(self) -> None:
        """Makes DescribeInstanceTypes and DescribeInstanceTypeOfferings answer for the region."""
        describe_types = InstanceTypeBackend.describe_instance_types

        def types(backend: EC2Backend, instance_types: list[str] | None = None, filters: Any = None) -> list:
            offered = {offering["InstanceType"] for offering in self._of(backend.region_name)}
            if unknown := set(instance_types or []) - offered:
                message = (
                    f"The following supplied instance types do not exist: [{', '.join(sorted(unknown))}]"
                )
                raise AwsError("InvalidInstanceType", message)
            found = describe_types(backend, instance_types, filters)
            return [kind for kind in found if kind["InstanceType"] in offered]

        def offerings(backend: EC2Backend, location_type: str | None = None, filters: Any = None) -> list:
            found = self._of(backend.region_name, location_type or "region")
            return [offering for offering in found if _matches(offering, filters or {})]

        InstanceTypeBackend.describe_instance_types = types
        InstanceTypeOfferingBackend.describe_instance_type_offerings = offerings

    def check(self, instance_type: str, zone: str, region: str, architecture: str) -> None:
        """Raises EC2's error if this type cannot be launched in this zone, from an image of this architecture."""
        offered = self._of(region, "availability-zone")
        zones = sorted(offer["Location"] for offer in offered if offer["InstanceType"] == instance_type)
        if not zones:
            raise AwsError("InvalidParameterValue", f"Invalid value '{instance_type}' for InstanceType.")
        fitting = INSTANCE_TYPES[instance_type]["ProcessorInfo"]["SupportedArchitectures"]
        if architecture not in fitting:
            message = (
                f"The architecture '{','.join(fitting)}' of the specified instance type does not match the "
                f"architecture '{architecture}' of the specified AMI. Specify an instance type and an AMI "
                "that have matching architectures, and try again. You can use 'describe-instance-types' or "
                "'describe-images' to discover the architecture of the instance type or AMI."
            )
            raise AwsError("InvalidParameterValue", message)
        if zone not in zones:
            message = (
                f"Your requested instance type ({instance_type}) is not supported in your requested "
                f"Availability Zone ({zone}). Please retry your request by not specifying an Availability "
                f"Zone or choosing {', '.join(zones)}."
            )
            raise AwsError("Unsupported", message)

    def _of(self, region: str, location_type: str = "region") -> list[dict[str, str]]:
        by_zone = [
            offering
            for offering in INSTANCE_TYPE_OFFERINGS["availability-zone"].get(region, [])
            if offering["Location"] not in self._settings.unoffered.get(offering["InstanceType"], [])
        ]
        if location_type == "availability-zone":
            return by_zone
        offered = {offering["InstanceType"] for offering in by_zone}
        all_of_type = INSTANCE_TYPE_OFFERINGS.get(location_type, {}).get(region, [])
        return [offering for offering in all_of_type if offering["InstanceType"] in offered]


def vcpus(instance_type: str) -> int:
    return INSTANCE_TYPES[instance_type]["VCpuInfo"]["DefaultVCpus"]


def _matches(offering: dict[str, str], filters: dict[str, list[str]]) -> bool:
    values = {"location": offering["Location"], "instance-type": offering["InstanceType"]}
    unknown = filters.keys() - values.keys()
    if unknown:
        raise AwsError("InvalidParameterValue", f"The filter '{min(unknown)}' is invalid")
    return all(any(fnmatchcase(values[name], one) for one in wanted) for name, wanted in filters.items())
