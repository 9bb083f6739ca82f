"""CloudWatch's protocol Smithy RPC v2 CBOR, which moto lacks, translated to the JSON protocol, which it has."""

import datetime
import gzip
from collections.abc import Callable
from typing import Any

import botocore.session
import cbor2
from botocore.model import OperationNotFoundError, Shape
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request, Response

from calls import AwsError, Call

MODEL = botocore.session.get_session().get_service_model("cloudwatch")
SERIALIZER = create_serializer("json", include_validation=False)
PARSER = create_parser("json")


def answer(call: Call, request: Request, moto: Callable[[dict], Response]) -> Response:
    """Answers a CBOR call by making the same call to moto in JSON."""
    try:
        operation = MODEL.operation_model(call.operation)
    except OperationNotFoundError as error:
        raise AwsError("UnknownOperationException", str(error), 404) from error
    body = request.get_data()
    if request.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    inner = SERIALIZER.serialize_to_request(cbor2.loads(body) if body else {}, operation)
    headers = {**inner["headers"], "Authorization": request.headers.get("Authorization", "")}
    response = moto(EnvironBuilder("/", method="POST", headers=headers, data=inner["body"]).get_environ())
    raw = {
        "status_code": response.status_code,
        "headers": {name.lower(): value for name, value in response.headers},
        "body": response.get_data(),
    }
    parsed = PARSER.parse(raw, operation.output_shape)
    if response.status_code >= 400:
        raise AwsError(parsed["Error"]["Code"], parsed["Error"]["Message"], response.status_code)
    parsed.pop("ResponseMetadata", None)
    encoded = cbor2.dumps(shaped(parsed, operation.output_shape))
    return Response(encoded, 200, {"smithy-protocol": "rpc-v2-cbor"}, content_type="application/cbor")


def shaped(value: Any, shape: Shape | None) -> Any:
    """Converts a value to the CBOR types of its shape: floats are never integers, and times are tagged."""
    if shape is None:
        return {}
    match shape.type_name:
        case "structure":
            return {name: shaped(value[name], of) for name, of in shape.members.items() if name in value}
        case "list":
            return [shaped(item, shape.member) for item in value]
        case "map":
            return {key: shaped(item, shape.value) for key, item in value.items()}
        case "float" | "double":
            return float(value)
        case "timestamp":
            assert isinstance(value, datetime.datetime)
            return cbor2.CBORTag(1, value.timestamp())
        case _:
            return value
