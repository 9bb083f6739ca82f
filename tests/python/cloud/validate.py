"""Checks each request against AWS's service models in botocore.

The parameters of a request are decoded by its protocol. Everything that the model does not know or allow is a
problem: members, types, enums, patterns, lengths, missing parameters, and deprecated ones.
"""

import base64
import binascii
import datetime
import gzip
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import cbor2
from botocore.model import OperationNotFoundError, Shape
from botocore.validate import ParamValidator
from moto.core.utils import get_service_model
from werkzeug.wrappers import Request

from calls import AwsError, Call, Record
from query import QueryReader

SERVICES = ("ec2", "cloudwatch", "sns", "sts")
# Enums that grow faster than botocore's copy. The call itself refuses unknown values.
OPEN_ENUMS = ("InstanceType",)
# The error codes of answers to calls with problems.
ERROR_CODES = {"ec2": "InvalidParameterValue", "cloudwatch": "ValidationError", "sns": "InvalidParameter"}


@dataclass(frozen=True)
class Checked:
    """The parameters of a request, in the types of their shapes, and the problems with them."""

    parameters: dict[str, Any]
    problems: list[str]

    def error(self, call: Call) -> AwsError:
        code = ERROR_CODES.get(call.service, "ValidationError")
        return AwsError(code, f"{call.name} does not conform to AWS's model: {'; '.join(self.problems)}")


@dataclass
class Problems:
    """The problems with the requests so far, and the number of requests of each operation."""

    _operations: Counter[str] = field(default_factory=Counter)
    _problems: list[dict] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, call: Call, record: Record, checked: Checked) -> None:
        found = [{"n": record.n, "operation": call.name, "problem": problem} for problem in checked.problems]
        with self._lock:
            self._operations[call.name] += 1
            self._problems += found

    def as_json(self) -> dict:
        with self._lock:
            return {
                "requests": self._operations.total(),
                "operations": dict(self._operations),
                "problems": list(self._problems),
            }


def is_unpaged(call: Call, checked: Checked) -> bool:
    """Whether a call lists EC2 resources without MaxResults although it could; calls that name ids cannot."""
    if call.service != "ec2" or checked.problems:
        return False
    shape = get_service_model("ec2").operation_model(call.operation).input_shape
    names_some = any(name.endswith(("Ids", "Names", "InstanceTypes")) for name in checked.parameters)
    return "MaxResults" in shape.members and "MaxResults" not in checked.parameters and not names_some


def check(call: Call, request: Request) -> Checked:
    if call.service not in SERVICES:
        return Checked({}, [f"requests to {call.service} are not checked, or this one is not signed"])
    model = get_service_model(call.service)
    try:
        operation = model.operation_model(call.operation)
    except OperationNotFoundError:
        return Checked({}, ["no such operation"])
    problems = ["the operation is deprecated"] if operation.deprecated else []
    try:
        given = _parameters(call, request, model.api_version, operation.input_shape, problems)
    except (ValueError, cbor2.CBORDecodeError, OSError) as error:
        return Checked({}, [*problems, f"its body cannot be read: {error}"])
    if shape := operation.input_shape:
        problems += ParamValidator().validate(given, shape).generate_report().splitlines()
        _constrain(given, shape, call.operation, problems)
    elif given:
        problems.append(f"it accepts no parameters, but has {sorted(given)}")
    return Checked(given, problems)


def _parameters(
    call: Call, request: Request, version: str, shape: Shape | None, problems: list[str]
) -> dict[str, Any]:
    body = request.get_data()
    if request.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    if call.protocol == "cbor":
        if request.headers.get("smithy-protocol") != "rpc-v2-cbor":
            problems.append("it has no header smithy-protocol: rpc-v2-cbor")
        return cbor2.loads(body) if body else {}
    if call.protocol == "json":
        return _from_json(json.loads(body or b"{}"), shape)
    pairs = parse_qsl(body.decode() or request.query_string.decode(), keep_blank_values=True)
    fields = dict(pairs)
    if len(fields) < len(pairs):
        problems.append("it has the same parameter twice")
    del fields["Action"]
    if (given := fields.pop("Version", None)) != version:
        problems.append(f"its version is {given}, not {version}")
    return QueryReader(call.protocol == "ec2", problems).read(fields, shape, call.operation)


def _from_json(value: Any, shape: Shape | None) -> Any:
    """Converts times and blobs from JSON to Python's types."""
    match shape and shape.type_name, value:
        case "structure", dict():
            return {name: _from_json(of, shape.members.get(name)) for name, of in value.items()}
        case "list", list():
            return [_from_json(item, shape.member) for item in value]
        case "map", dict():
            return {key: _from_json(item, shape.value) for key, item in value.items()}
        case "timestamp", int() | float():
            return datetime.datetime.fromtimestamp(value, datetime.UTC)
        case "blob", str():
            try:
                return base64.b64decode(value, validate=True)
            except binascii.Error:
                return None
        case _:
            return value


def _constrain(value: Any, shape: Shape, path: str, problems: list[str]) -> None:
    """Checks what botocore's validator does not: enums, patterns, upper limits, and deprecation."""
    match shape.type_name, value:
        case "structure", dict():
            for name, of in value.items():
                if member := shape.members.get(name):
                    if member.metadata.get("deprecated"):
                        problems.append(f"{path}.{name} is deprecated")
                    _constrain(of, member, f"{path}.{name}", problems)
        case "list", list():
            _at_most(len(value), shape, f"the length of {path}", problems)
            for item in value:
                _constrain(item, shape.member, f"{path}[]", problems)
        case "map", dict():
            _at_most(len(value), shape, f"the length of {path}", problems)
            for key, item in value.items():
                _constrain(key, shape.key, f"{path} (a key)", problems)
                _constrain(item, shape.value, f"{path}.{key}", problems)
        case "string", str():
            _at_most(len(value), shape, f"the length of {path}", problems)
            if shape.enum and value not in shape.enum and shape.name not in OPEN_ENUMS:
                problems.append(f"{path}: {value!r} is not one of {shape.name}")
            if not _matches(shape.metadata.get("pattern"), value):
                problems.append(f"{path}: {value!r} does not match {shape.metadata['pattern']}")
        case (("integer" | "long" | "float" | "double"), int() | float()):
            _at_most(value, shape, path, problems)


def _at_most(value: float, shape: Shape, what: str, problems: list[str]) -> None:
    most = shape.metadata.get("max")
    if most is not None and value > most:
        problems.append(f"{what} is {value}; the maximum is {most}")


def _matches(pattern: str | None, value: str) -> bool:
    try:
        return pattern is None or re.fullmatch(pattern, value, re.DOTALL) is not None
    except re.error:
        return True  # A Java pattern that Python does not support.
