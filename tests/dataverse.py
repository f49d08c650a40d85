"""A server on this machine that speaks as much of the Dataverse API as is used, for tests of downloads."""

import hashlib
import http.server
import io
import json
import threading
import zipfile

import numpy as np
from PIL import Image


def jpeg(seed=0):
    """Return the bytes of a small random picture."""
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


def archive(name, image_ids, prefix=""):
    """Return a zip archive of small pictures as a release lists it: name, content, MD5."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        opened.writestr("__MACOSX/._ISIC.jpg", b"junk")
        opened.writestr("readme.txt", b"hello")
        for index, image_id in enumerate(image_ids):
            opened.writestr(f"{prefix}{image_id}.jpg", jpeg(index))
    content = stream.getvalue()
    return name, content, hashlib.md5(content).hexdigest()


class Dataverse:
    """A small Dataverse: serves a release's list and its files.

    Parameters
    ----------
    table : tuple of (str, bytes)
        Name and content of the table; the listed hash is of another form, as Dataverse does it.
    *archives
        Each from `archive`.
    """

    def __init__(self, table, *archives):
        self.files = {1: (*table, "0" * 32)} | dict(enumerate(archives, start=2))
        self.asked = []
        handler = self._handler()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def _handler(self):
        release = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                release.asked.append(self.path)
                if self.path.startswith("/api/datasets/"):
                    entries = [
                        {"dataFile": {"id": key, "filename": name, "md5": md5, "filesize": len(content)}}
                        for key, (name, content, md5) in release.files.items()
                    ]
                    content = json.dumps({"data": {"latestVersion": {"files": entries}}}).encode()
                else:
                    content = release.files[int(self.path.split("/")[-1].split("?")[0])][1]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        return Handler

    def close(self):
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()
