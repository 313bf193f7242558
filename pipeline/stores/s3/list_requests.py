"""One request for a page of a listing, sent again where that is safe."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.errors import SettingsError
from pipeline.model.listing import Page
from pipeline.stores.s3.errors import code_in, explained, of_code
from pipeline.stores.s3.list_answer import parse_listing

RETRIES = 5
"""How often urllib3 sends a request again that the service cannot answer just now."""
BACKOFF_S = 0.2


class PageRequests:
    """Sends the requests of one bucket's listings, each in a thread, and reads the answers."""

    def __init__(self, client: Any, bucket: str, prefix: str, endpoint_url: str | None) -> None:
        self.url: str = f"s3://{bucket}/{prefix}"
        self.is_seaweed: bool = False
        self._boto = client
        self._bucket = bucket
        self._prefix = prefix
        self._where = endpoint_url or "AWS"
        self._http: Any = None
        self._threads: ThreadPoolExecutor | None = None

    def ask(self, prefix: str, after: str, size: int, token: str | None) -> asyncio.Future[bytes]:
        """One ListObjectsV2 request: signed by boto3, sent and retried by urllib3.

        It begins at once.
        """
        parameters = {
            "Bucket": self._bucket,
            "Prefix": self._prefix + prefix,
            "MaxKeys": size,
            "EncodingType": "url",
        }
        if token is not None:
            parameters["ContinuationToken"] = token
        elif after:
            parameters["StartAfter"] = self._prefix + after
        if self._threads is None:
            self._threads = ThreadPoolExecutor(WINDOW + 2, "tidemill-list")
            self._http = _pool()
        return asyncio.get_running_loop().run_in_executor(self._threads, self._send, parameters)

    def read(self, body: bytes) -> tuple[Page, str | None]:
        """The page, and the token of the next one.

        Raises StoreUnavailable for what is not a whole page.
        """
        return parse_listing(body, len(self._prefix), self.url)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._http.clear()
            self._threads = None

    def _send(self, parameters: dict[str, Any]) -> bytes:
        with explained(self.url):
            url = self._boto.generate_presigned_url(
                "list_objects_v2", Params=parameters, ExpiresIn=300
            )
            response = self._http.request("GET", url)
        body: bytes = response.data
        if response.status != 200:
            region = response.headers.get("x-amz-bucket-region")
            raise self._refused(
                response.status,
                body.decode("utf-8", "replace") + (f"<Region>{region}</Region>" if region else ""),
            )
        self.is_seaweed = "seaweed" in response.headers.get("Server", "").lower()
        return body

    def _refused(self, status: int, body: str) -> Exception:
        code = code_in(body)
        if code == "NoSuchBucket" or (status == 404 and not code):
            return SettingsError(
                f"there is no bucket {self._bucket!r} at {self._where}: check --bucket and --region"
            )
        return of_code(code or str(status), status, self.url, text=body)


def _pool() -> Any:
    import urllib3
    from botocore.httpsession import get_cert_path

    statuses = (429, 500, 502, 503, 504)
    retry = urllib3.Retry(
        total=RETRIES, backoff_factor=BACKOFF_S, status_forcelist=statuses, raise_on_status=False
    )
    return urllib3.PoolManager(
        maxsize=WINDOW + 2, retries=retry, ca_certs=get_cert_path(True), timeout=60.0
    )


WINDOW = 8
"""Ranges that are listed at the same time."""
