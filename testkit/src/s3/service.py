"""Moto as an S3 service that handles one request at a time: python service.py HOST

The service listens on a free port, and prints the port.

moto_server has a thread per request and checks a condition before it writes, so that under load
two writers can win the same race. backend-remote probes for this, and refuses such a service.
moto_server also looks up the service of each request and logs it, and its HTTP server sends each
part of a response by itself. All this takes several times as long as the request itself.
"""

import asyncio
import sys
from io import BytesIO
from urllib.parse import unquote_to_bytes

from moto.moto_server.werkzeug_app import create_backend_app

HOST = sys.argv[1]
moto = create_backend_app("s3")


class Connection(asyncio.Protocol):
    """Reads requests that have a Content-Length or no body, and answers them in their order."""

    def connection_made(self, transport):
        self.port = transport.get_extra_info("sockname")[1]
        self.transport = transport
        self.received = bytearray()

    def data_received(self, data):
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            first, *lines = self.received[:end].decode("latin-1").split("\r\n")
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.strip().lower()] = value.strip()
            after = end + 4 + int(headers.get("content-length", 0))
            if len(self.received) < after:
                return
            body = bytes(self.received[end + 4 : after])
            del self.received[:after]
            self.transport.write(answer(self.port, first, headers, body))
            if headers.get("connection", "").lower() == "close":
                self.transport.close()


def answer(port, first, headers, body):
    """Returns the bytes of moto's response to a request."""
    method, target, _ = first.split(" ")
    path, _, query = target.partition("?")
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "REQUEST_URI": target,
        "RAW_URI": target,
        "SERVER_NAME": HOST,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": HOST,
        "CONTENT_LENGTH": headers.pop("content-length", ""),
        "CONTENT_TYPE": headers.pop("content-type", ""),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in headers.items():
        environ["HTTP_" + name.upper().replace("-", "_")] = value
    head = []

    def start_response(status, fields, _=None):
        head.append(f"HTTP/1.1 {status}")
        head.extend(f"{name}: {value}" for name, value in fields)

    content = b"".join(moto(environ, start_response))
    if not any(line.lower().startswith("content-length:") for line in head):
        head.append(f"Content-Length: {len(content)}")
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + content


async def serve():
    server = await asyncio.get_running_loop().create_server(Connection, HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(serve())
