"""The tests' own interface to the cloud, at the paths that begin with /_test/."""

import json
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moto.ec2.models import EC2Backend, ec2_backends
from werkzeug.exceptions import HTTPException, NotFound, RequestTimeout
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

import policy
import resources
from calls import ACCOUNT
from ec2 import disconnect_default_vpc, remove_default_vpc
from faults import Fault
from instances import CloudInstance
from launch import instances_of

if TYPE_CHECKING:
    from server import Cloud

PREFIX = "/_test/"
ROUTES = Map(
    [
        Rule("/_test/calls", methods=["GET"], endpoint="calls"),
        Rule("/_test/problems", methods=["GET"], endpoint="problems"),
        Rule("/_test/policy", methods=["GET"], endpoint="policy"),
        Rule("/_test/policy", methods=["POST"], endpoint="replay"),
        Rule("/_test/faults", methods=["POST"], endpoint="add_faults"),
        Rule("/_test/faults", methods=["DELETE"], endpoint="clear_faults"),
        Rule("/_test/held", methods=["GET"], endpoint="held"),
        Rule("/_test/release", methods=["POST"], endpoint="release"),
        Rule("/_test/settings", methods=["POST"], endpoint="change_settings"),
        Rule("/_test/resources", methods=["GET"], endpoint="resources"),
        Rule("/_test/forget", methods=["POST"], endpoint="forget"),
        Rule("/_test/terminate", methods=["POST"], endpoint="terminate"),
        Rule("/_test/interrupt", methods=["POST"], endpoint="interrupt"),
        Rule("/_test/user-data", methods=["GET"], endpoint="user_data"),
        Rule("/_test/instance", methods=["GET"], endpoint="instance"),
    ]
)


class Control:
    """Answers the tests. Each public method is the endpoint of a route; its return value is sent as JSON."""

    def __init__(self, cloud: "Cloud"):
        self._cloud = cloud

    def answer(self, request: Request) -> Response:
        try:
            endpoint, _ = ROUTES.bind_to_environ(request.environ).match()
            answer = getattr(self, endpoint)(request)
        except HTTPException as error:
            return error.get_response(request.environ)
        except (TypeError, ValueError, KeyError, OSError) as error:
            return Response(f"{type(error).__name__}: {error}\n", 400)
        return answer if isinstance(answer, Response) else _json(answer)

    def calls(self, _request: Request) -> list:
        return self._cloud.log.as_json()

    def problems(self, _request: Request) -> dict:
        return self._cloud.problems.as_json()

    def policy(self, request: Request) -> dict:
        return self._cloud.authorizer.as_json(with_log=request.args.get("log") == "1")

    def replay(self, request: Request) -> dict:
        """Evaluates everything that was allowed so far by another policy; returns what that denies."""
        return {"denied": self._cloud.authorizer.replay(request.get_json(force=True))}

    def add_faults(self, request: Request) -> dict:
        self._cloud.faults.add([Fault(**fault) for fault in request.get_json(force=True)])
        return {}

    def clear_faults(self, _request: Request) -> dict:
        self._cloud.faults.clear()
        return {}

    def held(self, request: Request) -> dict:
        record = self._cloud.holds.first(float(request.args.get("timeout", 0)))
        if record is None:
            raise RequestTimeout()
        return {"n": record.n, "operation": record.operation}

    def release(self, request: Request) -> dict:
        self._cloud.holds.release(request.get_json(force=True).get("drop", False))
        return {}

    def change_settings(self, request: Request) -> dict:
        changes = request.get_json(force=True)
        region = changes.pop("region", None)
        keep_default_vpc = changes.pop("default_vpc", True)
        keep_route = changes.pop("route_to_internet", True)
        settings = self._cloud.settings
        unknown = changes.keys() - asdict(settings).keys()
        if unknown:
            raise ValueError(f"unknown settings: {unknown}")
        if path := changes.get("policy"):
            if not policy.is_available():
                raise ValueError("no policy can be evaluated: node or its package is missing")
            json.loads(Path(path).read_text())
        with self._cloud.lock:
            for name, value in changes.items():
                setattr(settings, name, value)
            for backend in _backends() + ([ec2_backends[ACCOUNT][region]] if region else []):
                if not keep_default_vpc:
                    remove_default_vpc(backend)
                if not keep_route:
                    disconnect_default_vpc(backend)
        return asdict(settings)

    def resources(self, _request: Request) -> list:
        with self._cloud.lock:
            return list(resources.everything())

    def forget(self, _request: Request) -> dict:
        """Removes terminated instances from all answers, as EC2 does after an hour."""
        with self._cloud.lock:
            for backend in _backends():
                for key, reservation in list(backend.reservations.items()):
                    if all(instance.has_ended for instance in reservation.instances):
                        del backend.reservations[key]
        return {}

    def terminate(self, request: Request) -> dict:
        with self._cloud.lock:
            instance = _instance(request.get_json(force=True)["id"])
            instance.ec2_backend.terminate_instances([instance.id])
        return {}

    def interrupt(self, request: Request) -> dict:
        """Interrupts a spot instance after the seconds of notice."""
        order = request.get_json(force=True)
        with self._cloud.lock:
            instance = _instance(order["id"])
            if instance.spot_request is None:
                raise ValueError(f"{instance.id} is not a spot instance")
            instance.spot_request.mark()

        def reclaim() -> None:
            with self._cloud.lock:
                instance.interrupt()

        timer = threading.Timer(order.get("notice_seconds", 120), reclaim)
        timer.daemon = True
        timer.start()
        return {}

    def user_data(self, request: Request) -> Response:
        with self._cloud.lock:
            user_data = _instance(request.args["id"]).user_data
        return Response(user_data.decode() if user_data else "", content_type="text/plain; charset=utf-8")

    def instance(self, request: Request) -> dict:
        with self._cloud.lock:
            return resources.instance_details(_instance(request.args["id"]))


def _json(answer: Any) -> Response:
    return Response(json.dumps(answer), content_type="application/json")


def _backends() -> list[EC2Backend]:
    return [backend for _, _, backend in ec2_backends.iter_backends()]


def _instance(instance_id: str) -> CloudInstance:
    for backend in _backends():
        for instance in instances_of(backend):
            if instance.id == instance_id:
                return instance
    raise NotFound(f"no instance {instance_id}")
