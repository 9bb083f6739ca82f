"""The machines behind the instances: none, or the hosts of a lab, which boot and are powered off.

xtask/src/lab.rs describes and makes labs.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import yaml

import time_to_live

SSHD_SECONDS = 10
KILL_SECONDS = 5


class NoHosts:
    """Instances without machines: nothing answers at their addresses."""

    def free(self) -> int | None:
        return None

    def start(
        self, _instance: str, _user_data: str, _public_key: str | None, _seconds: float, _is_armed: bool
    ) -> str:
        return "127.0.0.1"

    def stop(self, instance: str) -> None:
        pass


class LabHosts:
    """Instances that are hosts of a lab; each instance gets the next free host."""

    def __init__(self, folder: Path, bridge: str):
        entries = tomllib.loads((folder / "hosts.toml").read_text())["host"]
        self._hosts = [
            LabHost(entry["address"], folder / entry["name"], bridge, entry["name"]) for entry in entries
        ]

    def free(self) -> int | None:
        """The number of free hosts; None if it is unlimited."""
        return sum(host.instance is None for host in self._hosts)

    def start(
        self, instance: str, user_data: str, public_key: str | None, seconds: float, is_armed: bool
    ) -> str:
        """Boots a free host, which takes some seconds; returns its address at once."""
        host = next(host for host in self._hosts if host.instance is None)
        host.take(instance)
        boot = threading.Timer(seconds, host.boot, [instance, user_data, public_key, is_armed])
        boot.daemon = True
        boot.start()
        return host.address

    def stop(self, instance: str) -> None:
        """Powers the instance's host off, and frees it."""
        for host in self._hosts:
            if host.instance == instance:
                host.power_off()


@dataclass
class LabHost:
    address: str
    folder: Path
    bridge: str
    name: str
    instance: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def namespace(self) -> str:
        return f"{self.bridge}{self.name}"

    def take(self, instance: str) -> None:
        """Reserves the host for an instance. Nothing answers at its address until it has booted."""
        with self._lock:
            self.instance = instance
            self._set_link("down")

    def boot(self, instance: str, user_data: str, public_key: str | None, is_armed: bool) -> None:
        """Applies the keys and the time to live as cloud-init does, and then lets sshd answer."""
        with self._lock:
            if self.instance != instance:
                return
            try:
                config = yaml.safe_load(user_data) if user_data.startswith("#cloud-config") else {}
                self._set_keys(config, public_key)
                time_to_live.arm(self._sshd(), self.folder, config if is_armed else {})
                self._restart_sshd()
                self._set_link("up")
            except Exception:
                print(f"{self.namespace} failed to boot:", file=sys.stderr)
                traceback.print_exc()

    def power_off(self) -> None:
        """Ends everything that runs on it except sshd, empties its home folder, cuts it off, and frees it."""
        with self._lock:
            sshd = self._sshd()
            deadline = time.monotonic() + KILL_SECONDS
            while others := [pid for pid in self._pids() if pid != sshd]:
                for pid in others:
                    _signal(pid, signal.SIGKILL)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.namespace}: cannot end {others}")
                time.sleep(0.005)
            self._set_link("down")
            home = self.folder / "home"
            for path in home.iterdir():
                if path.is_dir() and not path.is_symlink():
                    if path.name != ".ssh":
                        shutil.rmtree(path)
                else:
                    path.unlink()
            (home / ".ssh/authorized_keys").unlink(missing_ok=True)
            self.instance = None

    def _set_keys(self, config: dict, public_key: str | None) -> None:
        host_keys = config.get("ssh_keys", {})
        for file, key in (("host_key", "ed25519_private"), ("host_key.pub", "ed25519_public")):
            if key in host_keys:
                _write(self.folder / file, host_keys[key])
        authorized = self.folder / "home/.ssh/authorized_keys"
        authorized.parent.mkdir(mode=0o700, exist_ok=True)
        _write(authorized, public_key or "")

    def _restart_sshd(self) -> None:
        """Makes sshd read its host key again, and waits until it listens."""
        log = self.folder / "sshd.log"
        before = log.stat().st_size
        _signal(self._sshd(), signal.SIGHUP)
        deadline = time.monotonic() + SSHD_SECONDS
        while b"Server listening" not in log.read_bytes()[before:]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.namespace}: sshd does not restart; see {log}")
            time.sleep(0.005)

    def _sshd(self) -> int:
        """The process id of the listening sshd."""
        masters = [pid for pid in self._pids() if _is_sshd_master(pid)]
        if not masters:
            raise ProcessLookupError(f"{self.namespace} has no sshd")
        return min(masters, key=_start_time)

    def _pids(self) -> list[int]:
        listed = subprocess.run(
            ["ip", "netns", "pids", self.namespace], check=True, capture_output=True, timeout=KILL_SECONDS
        )
        return [int(pid) for pid in listed.stdout.split()]

    def _set_link(self, state: str) -> None:
        """Sets the bridge's end of its cable up or down."""
        cable = f"{self.bridge}{self.name.removeprefix('h')}"
        subprocess.run(["ip", "link", "set", cable, state], check=True, timeout=KILL_SECONDS)


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text.rstrip("\n") + "\n")


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # It has ended since it was listed.


def _is_sshd_master(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").split()
    except FileNotFoundError:
        return False
    return b"/usr/sbin/sshd" in command[:2] and b"-D" in command


def _start_time(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except FileNotFoundError:
        return sys.maxsize
