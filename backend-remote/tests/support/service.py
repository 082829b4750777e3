"""moto as a service of S3 that answers one request after another: python service.py HOST PORT

moto_server has a thread for each request, and looks at a condition before it writes: under load
two writers win one race. That is what the probe refuses, and it did.
"""

import sys
from threading import Lock

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import run_simple

moto = DomainDispatcherApplication(create_backend_app)
one_at_a_time = Lock()


def service(environ, start_response):
    with one_at_a_time:
        return list(moto(environ, start_response))


run_simple(
    sys.argv[1],
    int(sys.argv[2]),
    service,
    threaded=True,
    request_handler=MotoRequestHandler,
)
