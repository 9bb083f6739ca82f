"""Makes a lab's host report whether its time to live is armed.

A lab's hosts share this machine's kernel and have no systemd, so the commands that end a machine never run on them. A stand-in
is derived from them: the host's `systemctl` reports each timer that `bootcmd` starts as waiting, and each file for a
process id in `bootcmd` gets a process that does nothing.
"""

import re
import subprocess
from pathlib import Path

STARTED = re.compile(r"\bsystemctl\b.* (?:re)?start (\S+\.timer)$", re.MULTILINE)
NOTED = re.compile(r"> /run/(\S+)\.pid$", re.MULTILINE)
SYSTEMCTL = """#!/bin/sh
for unit; do :; done
grep -q -x -F "$unit" "{timers}" && echo waiting || echo dead
"""
SECONDS = 10


def arm(sshd: int, folder: Path, config: dict) -> None:
    """Makes the host of this sshd answer like one that booted with this configuration."""
    script = "\n".join(" ".join(command) for command in config.get("bootcmd", []))
    enter = ["nsenter", "--target", str(sshd), "--mount", "--net"]
    programs = folder / "sbin"
    if not programs.exists():
        programs.mkdir()
        systemctl = programs / "systemctl"
        systemctl.write_text(SYSTEMCTL.format(timers=folder / "timers"))
        systemctl.chmod(0o755)
        # The first folder in root's PATH; only this host sees the mount.
        subprocess.run([*enter, "mount", "--bind", programs, "/usr/local/sbin"], check=True, timeout=SECONDS)
    (folder / "timers").write_text("".join(f"{timer}\n" for timer in STARTED.findall(script)))
    # The processes of the previous instance have ended with it.
    subprocess.run([*enter, "sh", "-c", "rm -f /run/*.pid"], check=True, timeout=SECONDS)
    for name in NOTED.findall(script):
        # The process becomes a child of init, and ends when the host is powered off.
        note = 'setsid sh -c \'echo $$ > "/run/$0.pid"; while :; do sleep 3600; done\' "$0" &'
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*enter, "sh", "-c", note, name], check=True, timeout=SECONDS, **quiet)
