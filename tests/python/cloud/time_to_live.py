"""What answers on a lab's host when it is asked whether its time to live is armed.

A lab's hosts share this machine's kernel and have no systemd, so the commands that end a machine never run on them. What is there
instead is derived from these commands: each timer that `bootcmd` starts is one that the host's `systemctl` calls waiting, and for each
file in which a process notes its id there is a process of that name.
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
    """Makes the host of this sshd answer as one that booted with this configuration."""
    script = "\n".join(" ".join(command) for command in config.get("bootcmd", []))
    enter = ["nsenter", "--target", str(sshd), "--mount", "--net"]
    programs = folder / "sbin"
    if not programs.exists():
        programs.mkdir()
        systemctl = programs / "systemctl"
        systemctl.write_text(SYSTEMCTL.format(timers=folder / "timers"))
        systemctl.chmod(0o755)
        # Where root's commands are looked for first, seen by this host alone.
        subprocess.run([*enter, "mount", "--bind", programs, "/usr/local/sbin"], check=True, timeout=SECONDS)
    (folder / "timers").write_text("".join(f"{timer}\n" for timer in STARTED.findall(script)))
    # Of those of the instance before, the processes have ended with it.
    subprocess.run([*enter, "sh", "-c", "rm -f /run/*.pid"], check=True, timeout=SECONDS)
    for name in NOTED.findall(script):
        # The subshell remains a child of init's, and ends when the host is switched off.
        note = 'setsid sh -c \'echo $$ > "/run/$0.pid"; while :; do sleep 3600; done\' "$0" &'
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*enter, "sh", "-c", note, name], check=True, timeout=SECONDS, **quiet)
