"""The HTTP server in front of moto: it checks and logs calls, injects faults, and forwards the rest."""

import contextlib
import functools
import io
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterable

from flask import Flask
from moto.core import responses
from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.test import run_wsgi_app
from werkzeug.wrappers import Request, Response

import accounts
import cbor
import cloudwatch
import ec2
import sns
from calls import AwsError, Call, CallLog, Record, error_code
from cloudwatch import AlarmRates
from control import PREFIX, Control
from faults import Faults, Holds
from hosts import LabHosts, NoHosts
from needs import needs_of
from policy import Authorizer, Simulator
from settings import Settings
from validate import check, Checked, is_unpaged, Problems, SERVICES
from visibility import Visibility

# Moto inspects the class of the answer in each call.
responses.method_names_from_class = functools.cache(responses.method_names_from_class)


class Cloud:
    """The WSGI application. It forwards one call at a time to moto, whose state is not thread-safe."""

    def __init__(self, hosts: NoHosts | LabHosts, simulator: Simulator | None):
        self.lock = threading.Lock()
        self.settings = Settings()
        self.log = CallLog()
        self.faults = Faults()
        self.holds = Holds()
        self.problems = Problems()
        self.authorizer = Authorizer(simulator)
        self._rates = AlarmRates(self.settings)
        self._visibility = Visibility(self.settings)
        accounts.install()
        ec2.install(self.settings, hosts, self.faults)
        cloudwatch.install()
        sns.install(self.settings)
        self._control = Control(self)
        # Moto's own dispatcher searches its folders for the service of each call. These make the default VPC of a region, so
        # they follow the changes above.
        self._applications = {service: create_backend_app(service) for service in SERVICES}
        self._regions = {region.name for region in RegionsAndZonesBackend.regions}

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        request = Request(environ)
        request.get_data()
        if request.path.startswith(PREFIX):
            response = self._control.answer(request)
        else:
            response = self._answer(request)
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        call = Call.of(request)
        if call.region not in self._regions:
            _drop(request)
        record = self.log.begin(call)
        checked = check(call, request)
        self.problems.note(call, record, checked)
        record.unpaged = is_unpaged(call, checked)
        try:
            response = self._answer_under_faults(call, record, request, checked)
        except ConnectionAbortedError:
            record.dropped = True
            raise
        record.error = error_code(response)
        record.status = response.status_code
        return response

    def _answer_under_faults(
        self, call: Call, record: Record, request: Request, checked: Checked
    ) -> Response:
        fault = self.faults.strike(call)
        match fault and (fault.kind, fault.when):
            case ("unreachable", _):
                _drop(request)
            case ("error", _):
                return call.error(AwsError(fault.code, fault.message, fault.status))
            case ("hold", "before"):
                self._hold(record, request)
        response = self._perform(call, record, request, checked)
        match fault and (fault.kind, fault.when):
            case ("lost", _):
                _drop(request)
            case ("hold", "after"):
                self._hold(record, request)
        return response

    def _hold(self, record: Record, request: Request) -> None:
        if self.holds.hold(record, lambda: _client_gone(request)):
            _drop(request)

    def _perform(self, call: Call, record: Record, request: Request, checked: Checked) -> Response:
        time.sleep(self.settings.latency_ms / 1000)
        try:
            if checked.problems:
                raise checked.error(call)
            self._rates.take(call)
            with self.lock:
                needs = needs_of(call, checked.parameters)
            self.authorizer.authorize(self.settings.policy, call, record, needs)
            with self.lock:
                if call.name == "ec2:DescribeInstances":
                    ec2.before_describe_instances(call)
                with self._visibility.during(call, checked.parameters):
                    return self._forward(call, request)
        except AwsError as error:
            return call.error(error)
        except Exception as error:
            traceback.print_exc()
            return call.error(AwsError("InternalError", f"the test cloud failed: {error!r}", 500))

    def _forward(self, call: Call, request: Request) -> Response:
        moto = functools.partial(_ask, self._applications[call.service])
        if call.protocol == "cbor":
            return cbor.answer(call, request, moto)
        return moto({**request.environ, "wsgi.input": io.BytesIO(request.get_data())})


def _ask(application: Flask, environ: dict) -> Response:
    body, status, headers = run_wsgi_app(application, environ, buffered=True)
    return Response(b"".join(body), status, headers)


class Handler(MotoRequestHandler):
    """Handles one connection, without werkzeug's log; the cloud has its own."""

    disable_nagle_algorithm = True

    def log_request(self, *_: object) -> None:
        pass


def listen(cloud: Cloud) -> BaseWSGIServer:
    """Listens on a free port of loopback."""
    return make_server("127.0.0.1", 0, cloud, threaded=True, request_handler=Handler)


def _drop(request: Request) -> None:
    """Closes the connection without an answer."""
    with contextlib.suppress(OSError):
        request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError


def _client_gone(request: Request) -> bool:
    try:
        peeked = request.environ["werkzeug.socket"].recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return not peeked
