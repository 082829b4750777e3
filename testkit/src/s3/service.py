"""Moto as an S3 service that handles one request at a time: python service.py HOST PORT

moto_server has a thread per request and checks a condition before it writes, so that under load
two writers can win the same race. The probe refuses such a service. moto_server also looks up the
service of each request, which takes longer than the request itself.
"""

import sys
from threading import Lock

from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

moto = create_backend_app("s3")
one_at_a_time = Lock()


def service(environ, start_response):
    with one_at_a_time:
        return list(moto(environ, start_response))


# Connections stay open, which HTTP/1.0 does not allow.
MotoRequestHandler.protocol_version = "HTTP/1.1"
run_simple(
    sys.argv[1],
    int(sys.argv[2]),
    service,
    threaded=True,
    request_handler=MotoRequestHandler,
)
