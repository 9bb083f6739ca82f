"""Authorizes calls by an IAM policy, which the npm package @cloud-copilot/iam-simulate evaluates."""

import json
import shutil
import socket
import subprocess
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from calls import AwsError, Call, Record
from needs import CREATE_ROLE, Need

ROOT = Path(__file__).resolve().parents[3]
# The policy that the product's documentation tells users to allow.
PRODUCT_POLICY = ROOT / "crates/deploy-aws/iam-policy.json"
# `cargo xtask test` installs the package there.
PACKAGES = ROOT / "target/node"
PACKAGE = PACKAGES / "node_modules/@cloud-copilot/iam-simulate"
# The access key for changes by hand needs no policy.
EXEMPT_KEY = "byhand"
ALLOWED = "Allowed"
# Evaluating a launch takes milliseconds, but other clouds ask the same process.
ANSWER_SECONDS = 60


def is_available() -> bool:
    return PACKAGE.is_dir() and shutil.which("node") is not None


def default_policy() -> str | None:
    return str(PRODUCT_POLICY) if is_available() else None


class Node:
    """The node process that evaluates for all clouds. It ends with this process, which closes its standard input."""

    def __init__(self) -> None:
        command = ["node", str(Path(__file__).with_name("policy.mjs")), str(PACKAGES)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port = int(self._process.stdout.readline())


class Simulator:
    """A cloud's connection to the node process."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stream: BinaryIO | None = None
        self._lock = threading.Lock()

    def evaluate(self, policy: dict, account: str, needs: list[Need]) -> list[str]:
        """The verdict on each need; anything but ALLOWED is a denial."""
        requests = [asdict(need) for need in needs]
        question = json.dumps({"policy": policy, "account": account, "requests": requests})
        with self._lock:
            if self._stream is None:
                connection = socket.create_connection(("127.0.0.1", self._port), ANSWER_SECONDS)
                self._stream = connection.makefile("rwb")
            self._stream.write(question.encode() + b"\n")
            self._stream.flush()
            answer = self._stream.readline()
        if not answer:
            raise ChildProcessError("node has not answered; its reason is above")
        return json.loads(answer)


@dataclass
class Authorizer:
    """Allows or refuses calls, and notes what was evaluated."""

    # None if it cannot run here; then no policy is set.
    _simulator: Simulator | None
    # Pairs of an account and a service's role that exists in it.
    _roles: set[tuple[str, str]] = field(default_factory=set)
    _evaluated: int = 0
    _denied: list[dict] = field(default_factory=list)
    _log: dict[str, tuple[str, Need]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def authorize(self, policy: str | None, call: Call, record: Record, needs: list[Need]) -> None:
        """Raises AWS's error if the policy in this file does not allow the call."""
        if policy is None or call.access_key == EXEMPT_KEY:
            return
        needs = [need for need in needs if not self._exists(call, need)]
        if not needs:
            return
        verdicts = self._simulator.evaluate(json.loads(Path(policy).read_text()), call.account, needs)
        denied = [need for need, verdict in zip(needs, verdicts, strict=True) if verdict != ALLOWED]
        with self._lock:
            self._evaluated += 1
            for need, verdict in zip(needs, verdicts, strict=True):
                if verdict != ALLOWED:
                    refused = {"n": record.n, "operation": call.name, "verdict": verdict, **asdict(need)}
                    self._denied.append(refused)
                    continue
                self._log.setdefault(json.dumps(asdict(need), sort_keys=True), (call.account, need))
                if need.action == CREATE_ROLE and not denied:
                    self._roles.add((call.account, need.resource))
        if denied:
            raise _refusal(call, denied[0])

    def _exists(self, call: Call, need: Need) -> bool:
        """Whether it asks to create a service's role that the account already has."""
        return need.action == CREATE_ROLE and (call.account, need.resource) in self._roles

    def as_json(self, with_log: bool) -> dict[str, Any]:
        """`evaluated` counts calls; the log has each allowed need once."""
        with self._lock:
            answer = {"available": is_available(), "evaluated": self._evaluated, "denied": list(self._denied)}
            if with_log:
                answer["log"] = [asdict(need) for _, need in self._log.values()]
            return answer

    def replay(self, policy: dict) -> list[dict]:
        """The needs that were allowed so far and that another policy denies."""
        with self._lock:
            log = list(self._log.values())
        denied = []
        for account in {account for account, _ in log}:
            needs = [need for of, need in log if of == account]
            verdicts = self._simulator.evaluate(policy, account, needs)
            denied += [
                asdict(need) for need, verdict in zip(needs, verdicts, strict=True) if verdict != ALLOWED
            ]
        return denied


def _refusal(call: Call, need: Need) -> AwsError:
    user = f"arn:aws:iam::{call.account}:user/{call.access_key}"
    reason = (
        f"User: {user} is not authorized to perform: {need.action} on resource: {need.resource} because no "
        f"identity-based policy allows the {need.action} action"
    )
    if call.service != "ec2":
        return AwsError("AccessDenied", reason, 403)
    if need.action == CREATE_ROLE:
        message = "The provided credentials do not have permission to create the service-linked role for EC2 "
        return AwsError("AuthFailure.ServiceLinkedRoleCreationNotPermitted", f"{message}Spot Instances.", 403)
    return AwsError(
        "UnauthorizedOperation", f"You are not authorized to perform this operation. {reason}", 403
    )
