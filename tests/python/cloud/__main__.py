"""The test cloud: EC2, CloudWatch, SNS and STS on loopback, as far as the tests of this project need them.

It extends moto with behaviours of AWS that moto lacks (accounts.py, cbor.py, cloudwatch.py, ec2.py,
instances.py, launch.py, offerings.py, pages.py, sns.py, visibility.py). Tests can inject faults (faults.py)
and use the hosts of a lab as instances (hosts.py). The cloud checks each request against AWS's service
models (validate.py, query.py), and authorizes each call of the product by its policy (policy.py, needs.py).
Besides AWS calls, it answers at the paths of control.py. It ends when its standard input does, if that is a
pipe.
"""

import argparse
import json
import os
import stat
import sys
import threading
from pathlib import Path

from hosts import LabHosts, NoHosts
from server import Cloud, listen


def main() -> None:
    arguments = parse_arguments()
    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        threading.Thread(target=end_with_standard_input, daemon=True).start()
    lab = arguments.lab
    cloud = Cloud(LabHosts(lab, arguments.lab_bridge) if lab else NoHosts())
    server = listen(cloud, arguments.port)
    announce(arguments.ready_file, f"http://127.0.0.1:{server.server_port}")
    cloud.authorizer.start()
    server.serve_forever()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cloud", description="An AWS for tests, on loopback.")
    parser.add_argument("--ready-file", type=Path, required=True, help="written with the URL once it listens")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; a free one by default")
    parser.add_argument("--lab", type=Path, help="folder of the lab whose hosts are the instances")
    parser.add_argument("--lab-bridge", help="prefix of the names of that lab's namespaces")
    arguments = parser.parse_args()
    if (arguments.lab is None) != (arguments.lab_bridge is None):
        parser.error("--lab and --lab-bridge must be given together")
    return arguments


def end_with_standard_input() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


def announce(ready_file: Path, url: str) -> None:
    """Writes the file atomically."""
    temporary = ready_file.with_name(f"{ready_file.name}.new")
    temporary.write_text(json.dumps({"url": url}))
    temporary.rename(ready_file)


main()
