"""Calls of the AWS API: parsing them from requests, answering them with errors, and logging them."""

import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs
from uuid import uuid4
from xml.sax.saxutils import escape

import cbor2
from werkzeug.wrappers import Request, Response

CREDENTIAL_SCOPE = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request")
CBOR_PATH = re.compile(r"/service/[^/]+/operation/(\w+)")
ERROR_CODE = re.compile(r'<Code>([^<]+)</Code>|"__type": ?"(?:[^"]*#)?([^"]+)"')
# Services whose signing name differs from their usual name.
SIGNING_NAMES = {"monitoring": "cloudwatch"}
ACCOUNT = "123456789012"
# The accounts of access keys that do not belong to the default account.
OTHER_ACCOUNTS = {"other": "210987654321"}


def account_of(access_key: str) -> str:
    return OTHER_ACCOUNTS.get(access_key, ACCOUNT)


def access_key_of(headers: Mapping[str, str]) -> str:
    scope = CREDENTIAL_SCOPE.search(headers.get("Authorization", ""))
    return scope[1] if scope else ""


class AwsError(Exception):
    """An error for the client, answered in the protocol of its call."""

    def __init__(self, code: str, message: str, status: int = 400):
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


@dataclass(frozen=True)
class Call:
    """A parsed request. The protocol is one of ec2, query, json and cbor."""

    service: str
    operation: str
    region: str
    protocol: str
    changes: bool
    access_key: str

    @property
    def account(self) -> str:
        return account_of(self.access_key)

    @property
    def name(self) -> str:
        """The operation with its service, as policies name it."""
        return f"{self.service}:{self.operation}"

    @classmethod
    def of(cls, request: Request) -> "Call":
        scope = CREDENTIAL_SCOPE.search(request.headers.get("Authorization", ""))
        access_key, region, signed = scope.groups() if scope else ("", "us-east-1", "unsigned")
        service = SIGNING_NAMES.get(signed, signed)
        dry_run = False
        if cbor_path := CBOR_PATH.fullmatch(request.path):
            protocol, operation = "cbor", cbor_path[1]
        elif target := request.headers.get("X-Amz-Target"):
            protocol, operation = "json", target.rpartition(".")[2]
        else:
            form = parse_qs(request.get_data(as_text=True) or request.query_string.decode())
            protocol = "ec2" if service == "ec2" else "query"
            operation = form.get("Action", [f"{request.method} {request.path}"])[0]
            dry_run = form.get("DryRun") == ["true"]
        changes = not dry_run and not operation.startswith(("Describe", "Get", "List"))
        return cls(service, operation, region, protocol, changes, access_key)

    def error(self, error: AwsError) -> Response:
        """The answer that reports this error."""
        fault = "Sender" if error.status < 500 else "Receiver"
        code, message, request_id = escape(error.code), escape(error.message), uuid4()
        headers = {"x-amzn-requestid": str(request_id)}
        if self.protocol == "ec2":
            body = (
                f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
                f"<RequestID>{request_id}</RequestID></Response>"
            )
            return Response(body, error.status, headers, content_type="text/xml")
        if self.protocol == "query":
            body = (
                f"<ErrorResponse><Error><Type>{fault}</Type><Code>{code}</Code><Message>{message}</Message>"
                f"</Error><RequestId>{request_id}</RequestId></ErrorResponse>"
            )
            return Response(body, error.status, headers, content_type="text/xml")
        headers["x-amzn-query-error"] = f"{error.code};{fault}"
        document = {"__type": error.code, "message": error.message}
        if self.protocol == "json":
            body = json.dumps(document)
            return Response(body, error.status, headers, content_type="application/x-amz-json-1.0")
        headers["smithy-protocol"] = "rpc-v2-cbor"
        return Response(cbor2.dumps(document), error.status, headers, content_type="application/cbor")


def error_code(response: Response) -> str | None:
    """The error code of an answer, if it has one."""
    if response.status_code < 400:
        return None
    if header := response.headers.get("x-amzn-query-error"):
        return header.partition(";")[0]
    found = ERROR_CODE.search(response.get_data().decode(errors="replace"))
    return found and (found[1] or found[2])


@dataclass
class Record:
    """A call in the log; its status is None until it is answered.

    `at` is the time of its arrival, in seconds since the cloud's start. A call is `unpaged` if it lists EC2 resources
    without a page size.
    """

    n: int
    at: float
    service: str
    operation: str
    region: str
    changes: bool
    status: int | None = None
    error: str | None = None
    dropped: bool = False
    unpaged: bool = False


@dataclass
class CallLog:
    """All calls, in the order of arrival."""

    _records: list[Record] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _began: float = field(default_factory=time.monotonic)

    def begin(self, call: Call) -> Record:
        with self._lock:
            number = len(self._records) + 1
            at = round(time.monotonic() - self._began, 3)
            record = Record(number, at, call.service, call.operation, call.region, call.changes)
            self._records.append(record)
            return record

    def as_json(self) -> list[dict]:
        with self._lock:
            return [vars(record).copy() for record in self._records]
