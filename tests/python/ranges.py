"""Serves the files of a folder over HTTP, with ranges; the first part of a path says what goes wrong.

    python ranges.py FOLDER [CERTIFICATE KEY]

Prints its port. Paths: /fine/FILE, /flaky/FILE (each connection ends after 100 kB, and each third request is refused for now),
/changes/FILE (ends, too, and has another file from the fifth request on), /whole/FILE (ignores ranges), /expired/FILE (refuses
as S3 does), /ends/FILE (never sends more than the first half).
"""

import http.server
import pathlib
import ssl
import sys
import threading

FOLDER = pathlib.Path(sys.argv[1])
EXPIRED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
PIECE = 100_000
requests = {}
lock = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        kind, name = self.path.split("?")[0].strip("/").split("/", 1)
        with lock:
            count = requests[self.path] = requests.get(self.path, 0) + 1
        if kind == "expired":
            return self.refuse(403, EXPIRED)
        if kind == "flaky" and count % 3 == 0:
            return self.refuse(503, b"later")
        try:
            data = (FOLDER / name).read_bytes()
        except OSError:
            return self.refuse(404, b"")
        tag = f'"{len(data)}"'
        if kind == "changes" and count > 4:
            tag = '"other"'
            if self.headers.get("If-Match", tag) != tag:
                return self.refuse(412, b"")
        asked = self.headers.get("Range")
        begin, end = 0, len(data)
        if asked and kind != "whole":
            first, last = asked.removeprefix("bytes=").split("-")
            begin, end = int(first), min(len(data), int(last) + 1 if last else len(data))
            if begin >= len(data):
                return self.refuse(416, b"")
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        most = {"flaky": begin + PIECE, "changes": begin + PIECE, "ends": max(begin, len(data) // 2)}.get(kind, end)
        self.wfile.write(data[begin : min(end, most)])
        if most < end:
            self.close_connection = True

    def refuse(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *args):
        # A client that has read enough.
        pass


server = Server(("127.0.0.1", 0), Handler)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
# Ends with the test.
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
