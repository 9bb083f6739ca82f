"""The test cloud: EC2, CloudWatch, SNS and STS on loopback, as far as the tests of this project need them.

It is moto, with those behaviours of AWS added that moto lacks (accounts.py, cbor.py, cloudwatch.py, ec2.py,
instances.py, launch.py, offerings.py, pages.py, sns.py, visibility.py), with faults that tests order
(faults.py), and if wanted with the hosts of a lab as its instances (hosts.py). Each request is checked
against AWS's service models (validate.py, query.py), and each call of the product is authorized by its
policy (policy.py, needs.py). Besides AWS calls it answers to the paths of control.py.

Importing moto takes longer than most tests' calls, so one process imports it, starts what evaluates the policy, and forks
a cloud for each connection. A cloud ends when its connection does, and the process when its standard input does.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
from pathlib import Path

from moto.backends import get_backend
from moto.core.utils import get_service_model
from moto.moto_api._internal import mock_random

import policy
from hosts import LabHosts, NoHosts
from server import Cloud, listen
from validate import SERVICES


def main() -> None:
    for service in SERVICES:
        get_backend(service)
        get_service_model(service)
    node = policy.Node() if policy.is_available() else None
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while all(key.fileobj is listener for key, _ in selector.select()):
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                mock_random.seed()
                run_cloud(connection, node and policy.Simulator(node.port))
            connection.close()


def run_cloud(connection: socket.socket, simulator: policy.Simulator | None) -> None:
    """Runs a cloud as the connection's first line says, and answers with its address."""
    stream = connection.makefile("rw")
    request = json.loads(stream.readline())
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    lab = request["lab"]
    cloud = Cloud(LabHosts(Path(lab["folder"]), lab["bridge"]) if lab else NoHosts(), simulator)
    server = listen(cloud)
    threading.Thread(target=end_with, args=(connection,), daemon=True).start()
    print(f"127.0.0.1:{server.server_port}", file=stream, flush=True)
    server.serve_forever()


def end_with(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(4096):
            pass
    os._exit(0)


main()
