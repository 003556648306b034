"""The demo's web server: its files, and /stream/N, which sends N numbered lines, ten a second."""

import http.server
import sys
import time


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if not self.path.startswith("/stream/"):
            super().do_GET()
            return
        self.send_response(200)
        self.end_headers()
        for number in range(int(self.path.rsplit("/", 1)[1])):
            self.wfile.write(b"%d\n" % number)
            self.wfile.flush()
            time.sleep(0.1)

    def log_message(self, form, *args):
        print("%s:%d" % self.client_address, form % args, flush=True)


address, directory = sys.argv[1:]
http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer(
    (address, 80), lambda *args: Handler(*args, directory=directory)
).serve_forever()
