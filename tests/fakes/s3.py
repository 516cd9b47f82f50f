"""A small S3 server on loopback, in memory: enough of the protocol for Delta tables.

Objects, ranges, listing, deletion, conditional puts (If-None-Match) and multipart uploads; no
authentication. Keeps what real stores promise: an object appears whole, and of two conditional
puts of one key exactly one succeeds.
"""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape


class _Store:
    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: _Store

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        key, query = self._asked()
        if "list-type" in query:
            self._reply(200, self._listing(key.split("/")[0], query).encode())
            return
        data = self.store.objects.get(key)
        if data is None:
            self._reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        wanted = self.headers.get("Range")
        if wanted is None:
            self._reply(200, data, key=key)
            return
        first, last = wanted.removeprefix("bytes=").split("-")
        start = int(first) if first else len(data) - int(last)
        end = min(int(last), len(data) - 1) if first and last else len(data) - 1
        part = {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
        self._reply(206, data[start : end + 1], key=key, headers=part)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        key, query = self._asked()
        body = self._body()
        with self.store.lock:
            if "partNumber" in query:
                self.store.parts[query["uploadId"]][int(query["partNumber"])] = body
            elif self.headers.get("If-None-Match") == "*" and key in self.store.objects:
                self._reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            else:
                self.store.objects[key] = body
        self._reply(200, b"", headers={"ETag": f'"{md5(body).hexdigest()}"'})

    def do_POST(self) -> None:
        key, query = self._asked()
        body = self._body()
        if "delete" in query:
            names = re.findall(r"<Key>.*?</Key>", body.decode())
            for name in names:
                path = unescape(name.removeprefix("<Key>").removesuffix("</Key>"))
                self.store.objects.pop(f"{key.split('/')[0]}/{path}", None)
            told = "".join(f"<Deleted>{name}</Deleted>" for name in names)
            self._reply(200, f"<DeleteResult>{told}</DeleteResult>".encode())
        elif "uploads" in query:
            upload = f"upload-{len(self.store.parts)}"
            self.store.parts[upload] = {}
            self._reply(
                200,
                "<InitiateMultipartUploadResult><Bucket>b</Bucket>"
                f"<Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
                "</InitiateMultipartUploadResult>".encode(),
            )
        elif "uploadId" in query:
            parts = self.store.parts.pop(query["uploadId"])
            data = b"".join(parts[number] for number in sorted(parts))
            self.store.objects[key] = data
            tag = f'"{md5(data).hexdigest()}"'
            done = f"<CompleteMultipartUploadResult><ETag>{escape(tag)}</ETag>"
            self._reply(200, f"{done}</CompleteMultipartUploadResult>".encode())
        else:
            self._reply(501, b"")

    def do_DELETE(self) -> None:
        self.store.objects.pop(self._asked()[0], None)
        self._reply(204, b"")

    def _asked(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        return unquote(parts.path).lstrip("/"), query

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _listing(self, bucket: str, query: dict[str, str]) -> str:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        after = query.get("start-after", "")
        contents, folders = [], set()
        for full in sorted(self.store.objects):
            name = full.removeprefix(f"{bucket}/")
            if not name.startswith(prefix) or name <= after:
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
                continue
            size = len(self.store.objects[full])
            contents.append(
                f"<Contents><Key>{escape(name)}</Key><Size>{size}</Size>"
                "<LastModified>2026-11-21T00:00:00.000Z</LastModified><ETag>x</ETag></Contents>"
            )
        common = "".join(f"<CommonPrefixes><Prefix>{f}</Prefix></CommonPrefixes>" for f in folders)
        return f"<ListBucketResult>{''.join(contents)}{common}</ListBucketResult>"

    def _reply(
        self,
        status: int,
        body: bytes,
        *,
        key: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        if key is not None:
            self.send_header("ETag", f'"{md5(self.store.objects[key]).hexdigest()}"')
            self.send_header("Last-Modified", formatdate(1795200000, usegmt=True))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Yield storage options for delta-rs.

    The server is a process of its own: delta-rs holds the GIL while it uploads, and would wait for
    a thread that waits for it.
    """
    command = [sys.executable, "-m", "tests.fakes.s3"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as server:
        try:
            assert server.stdout is not None
            yield {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
                "AWS_ALLOW_HTTP": "true",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_REGION": "us-east-1",
            }
        finally:
            server.terminate()


def main() -> None:
    """Serve on a free port, print it, and run until terminated."""
    handler = type("Handler", (_Handler,), {"store": _Store()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
