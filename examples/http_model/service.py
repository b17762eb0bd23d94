"""A classifier that is reached by HTTP only: a stand-in for anybody's model behind an address.

    python service.py --port 8000

``POST /classify`` with ``{"rows": [[64 numbers], ...]}`` answers ``{"probabilities": [[10 numbers], ...]}``. It listens
on 127.0.0.1 only.
"""

import argparse
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

PIXELS, LARGEST = 64, 64 * 2**20
"""Numbers in a row, and bytes in a request that are read."""


class Service(ThreadingHTTPServer):
    """The server with its model.

    Args:
        port: 0 takes any that is free.
        trees: Of the forest.
        busy: Every so many-th request is answered with 503, as services do.
        slow: The number of one request that is answered after ``seconds`` only.
        seconds: How long that one takes.
    """

    daemon_threads = True

    def __init__(self, port: int = 0, trees: int = 100, busy: int = 50, slow: int = 0, seconds: float = 0.0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        images, classes, _, _ = shares()["service"]
        self.model = RandomForestClassifier(trees, max_depth=12, random_state=0).fit(images, classes)
        self.busy, self.slow, self.seconds = busy, slow, seconds
        self.lock = threading.Lock()
        self.requests = self.refused = self.rows = 0

    @property
    def address(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}/classify"

    def handle_error(self, request, client_address) -> None:
        """A client that stopped waiting is no error of ours."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Service

    def do_POST(self) -> None:
        """Rows in, probabilities out."""
        service = self.server
        with service.lock:
            service.requests += 1
            number = service.requests
        if number == service.slow:
            time.sleep(service.seconds)
        if number % service.busy == 0:
            service.refused += 1
            self.send_error(503, "busy")
            return
        try:
            size = int(self.headers.get("Content-Length", ""))
            if self.path != "/classify" or not 0 < size <= LARGEST:
                raise ValueError("POST /classify with a body")
            rows = np.array(json.loads(self.rfile.read(size))["rows"], dtype=np.float64)
            if rows.ndim != 2 or rows.shape[1] != PIXELS or not np.isfinite(rows).all():
                raise ValueError(f"rows of {PIXELS} finite numbers")
        except (ValueError, KeyError, TypeError) as error:
            self.send_error(400, f"expected {error}")
            return
        service.rows += len(rows)
        body = json.dumps({"probabilities": service.model.predict_proba(rows).round(4).tolist()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words) -> None:
        """Nothing."""


def shares() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """scikit-learn's digits: 900 that the service was trained with; 537 and 360 that the camera below sees."""
    images, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x, y = images[order] / 16, classes[order]
    return {"service": (x[:900], y[:900], x[1437:], y[1437:]), "camera": (x[900:1437], y[900:1437], x[1437:], y[1437:])}


@contextmanager
def running(**settings) -> Iterator[Service]:
    """The service in a thread of this process."""
    with Service(**settings) as service:
        thread = threading.Thread(target=service.serve_forever, daemon=True)
        thread.start()
        try:
            yield service
        finally:
            service.shutdown()
            thread.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    with Service(given.port) as service:
        print(service.address, flush=True)
        service.serve_forever()
