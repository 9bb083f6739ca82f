"""A client that only sends frames, a 4-byte length and the payload, and 0x04 at the end:  plain_client.py HOST:PORT FILE"""

import socket
import sys

host, port = sys.argv[1].split(":")
with socket.create_connection((host, int(port))) as connection:
    for line in open(sys.argv[2], "rb").read().splitlines() + [b"\x04"]:
        connection.sendall(len(line).to_bytes(4, "big") + line)
