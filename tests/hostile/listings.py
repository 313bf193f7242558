"""Answers to ListObjectsV2 in the words of several services."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote_plus
from xml.sax.saxutils import escape

NAMES = ("Key", "LastModified", "ETag", "Size", "StorageClass")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a service words its pages; the defaults are AWS's.

    `between` stands between any two elements.
    """

    order: Sequence[str] = NAMES
    quote: str = "&quot;"
    encoded: bool = True
    between: str = ""
    checksums: str = ""
    every: int = 1
    """Only each n-th object has the checksums."""
    namespace: str = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    time: str = "2026-08-01T00:00:{:02}.000Z"

    def row(self, key: str, i: int) -> str:
        texts = {
            "Key": quote_plus(key.encode("utf-8", "surrogatepass"), safe="/")
            if self.encoded
            else escape(key),
            "LastModified": self.time.format(i % 60),
            "ETag": f"{self.quote}{i:032x}{self.quote}",
            "Size": str(i * 7),
            "StorageClass": ("STANDARD", "GLACIER_IR")[i % 7 == 0],
        }
        sums = self.checksums if i % self.every == 0 else ""
        elements = [
            f"<{name}>{texts[name]}</{name}>" + (sums if name == "ETag" else "")
            for name in self.order
        ]
        return f"<Contents>{self.between.join(['', *elements, ''])}</Contents>"

    def page(self, keys: Sequence[str], token: str | None = None) -> bytes:
        parts = [
            "<Name>bucket</Name>",
            "<Prefix/>",
            "<EncodingType>url</EncodingType>" if self.encoded else "",
            f"<NextContinuationToken>{escape(token)}</NextContinuationToken>"
            if token is not None
            else "",
            f"<IsTruncated>{str(token is not None).lower()}</IsTruncated>",
            *(self.row(key, i) for i, key in enumerate(keys)),
        ]
        body = self.between.join(part for part in parts if part)
        declared = '<?xml version="1.0" encoding="UTF-8"?>\n'
        return f"{declared}<ListBucketResult{self.namespace}>{body}</ListBucketResult>".encode(
            "utf-8", "surrogatepass"
        )


CHECKSUMS = (
    "<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>"
)
USUAL = {
    "AWS": Dialect(),
    "AWS with checksums": Dialect(checksums=CHECKSUMS),
    "AWS with some checksums": Dialect(checksums=CHECKSUMS, every=3),
    "another order": Dialect(order=("Key", "Size", "LastModified", "ETag")),
    "bare quotes, no namespace": Dialect(quote='"', namespace=""),
    "nanoseconds": Dialect(time="2026-08-01T00:00:{:02}.123456789Z", quote=""),
}
ODD = {
    "indented": Dialect(between="\n  "),
    "not encoded": Dialect(encoded=False),
    "an entity": Dialect(quote="&#34;"),
    "an owner": Dialect(checksums="<Owner><ID>x</ID><Key>not this</Key></Owner>"),
    "a comment": Dialect(checksums="<!-- <Key>not this</Key> -->"),
    "twice": Dialect(order=(*NAMES, "Key")),
}
DIALECTS = USUAL | ODD
