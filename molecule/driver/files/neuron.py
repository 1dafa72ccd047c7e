"""Stands in for a neuron that serves nothing: it answers, and writes down each request that would change it."""

import http.server
import json


class Neuron(http.server.BaseHTTPRequestHandler):
    """Every request is answered as /health is."""

    def do_GET(self) -> None:
        body = json.dumps({"state": "ready", "models": []}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        with open("/var/log/lab-neuron", "a") as log, open("/run/lab-sys/module/nvidia/version") as version:
            log.write(f"{self.path} {version.read()}")
        self.do_GET()


http.server.HTTPServer(("127.0.0.1", 13131), Neuron).serve_forever()
