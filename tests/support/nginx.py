"""The real nginx, from Debian, serving files over TLS: plainly, with credentials, without ranges, redirected."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.ports import free_port
from tests.support.process import Process
from tests.support.prometheus import REQUIRED
from tests.support.waiting import wait_until

CERTIFICATES = Path(__file__).parents[1] / "integration" / "kube" / "tls"
AUTHORITY = CERTIFICATES / "first.crt"
"""To be given as SSL_CERT_FILE: no system trusts it."""

_CONFIG = """
daemon off;
master_process off;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log {work}/access.log;
    client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
    default_type application/octet-stream;
    server {{
        listen 127.0.0.1:{port} ssl;
        listen 127.0.0.1:{other} ssl;  # another origin, as far as a client can tell
        ssl_certificate {certificate}; ssl_certificate_key {key};
        root {root};
        location / {{ }}
        location /no-ranges/ {{ alias {root}/; max_ranges 0; }}
        location /no-etag/ {{ alias {root}/; etag off; }}
        location /no-version/ {{ alias {root}/; etag off; if_modified_since off; add_header Last-Modified ""; }}
        location /moved/ {{ rewrite ^/moved/(.*)$ https://127.0.0.1:{other}/$1 redirect; }}
        location /away/ {{ return 302 http://127.0.0.1:{port}$uri; }}
        location /metadata/ {{ return 302 https://169.254.169.254/latest/meta-data/; }}
        location /round/ {{ return 302 /round/; }}
        location /busy/ {{ return 429; }}
        location /down/ {{ return 503; }}
        location /basic/ {{ alias {root}/; auth_basic models; auth_basic_user_file {work}/users; }}
        location /bearer/ {{
            if ($http_authorization != "Bearer {secret}") {{ return 401; }}
            alias {root}/;
        }}
        location /leak/ {{
            if ($http_authorization != "Bearer {secret}") {{ return 401; }}
            return 302 https://127.0.0.1:{other}/no-credential$uri;
        }}
        location /no-credential/ {{
            if ($http_authorization) {{ return 418; }}
            rewrite ^/no-credential/leak/(.*)$ /$1 break;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A running nginx. `secret` is the bearer token, and the password of the user `models`."""

    url: str
    root: Path
    secret: str

    @property
    def environ(self) -> dict[str, str]:
        """What makes its certificate trusted."""
        # All names: the machine may have a bundle of its own under one of them.
        return dict.fromkeys(("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"), str(AUTHORITY))


@contextmanager
def nginx(directory: Path, secret: str) -> Iterator[Nginx]:
    """Serve `directory`/root, which exists afterwards. In CI nginx is there (see .ci/run), elsewhere it may not be."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        assert not os.environ.get(REQUIRED), "nginx is missing; .ci/run installs it"
        pytest.skip("nginx is not installed; on Debian: apt-get install nginx-light")
    work, root = directory / "work", directory / "root"
    work.mkdir(parents=True)
    root.mkdir()
    port, other = free_port(), free_port()
    (work / "users").write_text(f"models:{{PLAIN}}{secret}\n")
    config = work / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            work=work,
            root=root,
            port=port,
            other=other,
            secret=secret,
            certificate=AUTHORITY,
            key=AUTHORITY.with_suffix(".key"),
        )
    )
    # As whoever runs the tests: with `master_process off` no other user is changed to, who could not read the directory.
    process = Process([program, "-c", str(config), "-e", str(work / "error.log")])
    try:
        wait_until(lambda: _listens(port), what="nginx")
        yield Nginx(f"https://127.0.0.1:{port}", root, secret)
    finally:
        process.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
