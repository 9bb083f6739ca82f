"""Pages of EC2's answers: without MaxResults an answer is one page; with it, pages have that length."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models.instances import Reservation
from moto.ec2.responses import EC2Response

from calls import AwsError

# The list in the answer to each operation. AWS's model has the limits of most.
LISTS = {
    "describe_images": "Images",
    "describe_instance_type_offerings": "InstanceTypeOfferings",
    "describe_instance_types": "InstanceTypes",
    "describe_network_interfaces": "NetworkInterfaces",
    "describe_route_tables": "RouteTables",
    "describe_security_groups": "SecurityGroups",
    "describe_spot_instance_requests": "SpotInstanceRequests",
    "describe_subnets": "Subnets",
    "describe_volumes": "Volumes",
    "describe_vpcs": "Vpcs",
}
# Lists of ids that, by the documentation, cannot be combined with MaxResults.
NOT_WITH_PAGES = {"InstanceIds", "NetworkInterfaceIds"}
# EC2's limits for MaxResults, which the model lacks.
LEAST, MOST = 5, 1000


def install() -> None:
    for method, name in LISTS.items():
        _paginate(method, name, lambda items: items, lambda items: items)
    # MaxResults counts instances, not reservations.
    _paginate("describe_instances", "Reservations", _split, _join)


def _paginate(method: str, name: str, split: Callable[[list], list], join: Callable[[list], list]) -> None:
    original = getattr(EC2Response, method)

    @wraps(original)
    def describe(self: EC2Response) -> ActionResult:
        size, token = self.params.pop("MaxResults", None), self.params.pop("NextToken", None)
        if size is not None and NOT_WITH_PAGES & self.params.keys():
            message = "The parameter MaxResults cannot be used with a list of ids in the same request."
            raise AwsError("InvalidParameterCombination", message)
        if method == "describe_instances":
            self.params["MaxResults"] = 10**9  # moto's own pages have a hundred reservations.
        items = split(list(original(self).result[name]))
        start, end = _slice(size, token)
        page: dict[str, Any] = {name: join(items[start:end])}
        if end is not None and end < len(items):
            page["NextToken"] = f"{end}.{size}"
        return ActionResult(page)

    setattr(EC2Response, method, describe)


def _slice(size: int | None, token: str | None) -> tuple[int, int | None]:
    try:
        start, _, before = (token or "0.").partition(".")
        size = int(size or before or 0)
        if not size:
            return int(start), None
        if not LEAST <= size <= MOST:
            message = f"Value ( {size} ) for parameter maxResults is invalid."
            raise AwsError("InvalidParameterValue", f"{message} Expecting a value of {LEAST} to {MOST}.")
        return int(start), int(start) + size
    except ValueError:
        raise AwsError("InvalidNextToken", f"The token '{token}' is invalid.") from None


def _split(reservations: list[Reservation]) -> list[Reservation]:
    """Reservations of one instance each."""
    return [_with(reservation, [one]) for reservation in reservations for one in reservation.instances]


def _join(reservations: list[Reservation]) -> list[Reservation]:
    joined: dict[str, Reservation] = {}
    for reservation in reservations:
        joined.setdefault(reservation.id, _with(reservation, [])).instances.extend(reservation.instances)
    return list(joined.values())


def _with(reservation: Reservation, instances: list) -> Reservation:
    copy = Reservation(reservation.id, reservation.owner_id)
    copy.groups, copy.instances = reservation.groups, instances
    return copy
