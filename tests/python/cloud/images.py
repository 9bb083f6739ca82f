"""The machine images of every region: some of Canonical's, including some that must not be chosen."""

from datetime import datetime

CANONICAL = "099720109477"
SERVER = "ubuntu/images/hvm-ssd-gp3/ubuntu"
MINIMAL = "ubuntu-minimal/images/hvm-ssd-gp3/ubuntu"
DAILY = "ubuntu/images-testing/hvm-ssd-gp3/ubuntu"


def _image(number: int, name: str, created: str, architecture: str = "x86_64") -> dict:
    return {
        "ami_id": f"ami-0c0ffee{number:010d}",
        "state": "available",
        "public": True,
        "owner_id": CANONICAL,
        "name": name,
        "image_location": f"amazon/{name}",
        "description": f"Canonical, Ubuntu, {name}",
        "image_type": "machine",
        "architecture": architecture,
        "creation_date": datetime.fromisoformat(f"{created}T06:00:00Z"),
        "root_device_type": "ebs",
        "root_device_name": "/dev/sda1",
        "sriov": "simple",
        "virtualization_type": "hvm",
        "hypervisor": "xen",
    }


def images() -> list[dict]:
    """The images, in the form that moto loads."""
    return [
        _image(1, f"{SERVER}-noble-24.04-amd64-server-20240801", "2024-08-01"),
        _image(2, f"{SERVER}-noble-24.04-amd64-server-20260801", "2026-08-01"),
        _image(3, f"{SERVER}-noble-24.04-arm64-server-20260801", "2026-08-01", "arm64"),
        # Today's LTS, in both architectures.
        _image(8, f"{SERVER}-resolute-26.04-amd64-server-20260423", "2026-04-23"),
        _image(9, f"{SERVER}-resolute-26.04-amd64-server-20260915", "2026-09-15"),
        _image(10, f"{SERVER}-resolute-26.04-arm64-server-20260915", "2026-09-15", "arm64"),
        # An older LTS with a newer date.
        _image(4, "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-20261001", "2026-10-01"),
        # Not an LTS.
        _image(5, f"{SERVER}-plucky-25.04-amd64-server-20261101", "2026-11-01"),
        # Not server images.
        _image(6, f"{MINIMAL}-noble-24.04-amd64-minimal-20261115", "2026-11-15"),
        _image(7, f"{DAILY}-noble-daily-amd64-server-20261120", "2026-11-20"),
    ]
