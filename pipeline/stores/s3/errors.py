"""What went wrong with S3, in the words of a store: three clients and many services, one set of
errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.errors import (
    KeyUnsupported,
    ObjectArchived,
    ObjectNotFound,
    PreconditionFailed,
    SettingsError,
    StoreDenied,
    StoreUnavailable,
)

_DENIED = (
    *(
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "AllAccessDisabled",
    ),
    *("403", "401"),
)
_ELSEWHERE = (
    *(
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "AuthorizationQueryParametersError",
    ),
    *("IllegalLocationConstraintException", "301", "307"),
)
"""What services say of a request that was signed for, or sent to, another region than the bucket's.
"""
_REGION = re.compile(
    r"<Region>([\w-]+)</Region>|expecting '([\w-]+)'|x-amz-bucket-region: ([\w-]+)"
)
_HOST = re.compile(
    r"host='(?P<host>[^']+)', port=(?P<port>\d+)|endpoint URL: \"(?P<url>https?://[^/\"]+)"
)
_SIGNS = {
    "Connection refused": "nothing listens there",
    "NameResolutionError": "there is no such host",
    "Name or service not known": "there is no such host",
    "nodename nor servname": "there is no such host",
    "Could not connect to the endpoint": "no connection",
    "No route to host": "no route",
    "Network is unreachable": "no network",
    "ConnectTimeoutError": "no answer",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted",
    "WRONG_VERSION_NUMBER": "it does not speak TLS: http://?",
}
UNREACHED = "cannot be reached"
_CLASS = re.compile(r"<StorageClass>(\w+)</StorageClass>")
_CODE = re.compile(r"<Code>([^<]+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")


class RangeEmpty(StoreUnavailable):
    """The range that was asked for begins at the object's end, or behind it."""


@contextmanager
def explained(what: str, *, conditional_write: bool = False) -> Iterator[None]:
    """Errors of the three clients as errors of a store, in one line without the request's body or
    any signature.
    """
    try:
        yield
    except FileNotFoundError:
        raise _missing(what, conditional_write) from None
    except Exception as error:
        known = (
            _of_boto3(error, what, conditional_write)
            or _of_urllib3(error, what)
            or _of_obstore(error, what, conditional_write)
        )
        if known is None:
            raise
        raise known from None


def _of_boto3(error: Exception, what: str, conditional_write: bool) -> Exception | None:
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as boto

    # of `upload_file`: around the client's own
    inner = error.__context__ if isinstance(error, Boto3Error) else error
    if isinstance(inner, boto.ClientError):
        return _refusal(inner, what, conditional_write)
    if _is_about_credentials(error):
        return StoreDenied(
            f"{what}: {_line(error)} (credentials are found the way boto3 finds them)"
        )
    # botocore, of an endpoint that is no URL: a ValueError
    if isinstance(error, boto.InvalidRegionError | boto.ParamValidationError | ValueError):
        return SettingsError(f"{what}: {_line(error)}")
    if isinstance(error, Boto3Error | boto.BotoCoreError):
        return StoreUnavailable(f"{what}: {_line(error)}")
    return None


def _is_about_credentials(error: Exception) -> bool:
    from botocore import exceptions as boto

    return isinstance(
        error,
        boto.NoCredentialsError
        | boto.PartialCredentialsError
        | boto.TokenRetrievalError
        | boto.ProfileNotFound,
    )


def _of_urllib3(error: Exception, what: str) -> Exception | None:
    from urllib3 import exceptions as http

    return (
        StoreUnavailable(f"{what}: {_line(error)}") if isinstance(error, http.HTTPError) else None
    )


def _of_obstore(error: Exception, what: str, conditional_write: bool) -> Exception | None:
    from obstore import exceptions as fast

    if not isinstance(error, fast.BaseError):
        return None
    code, status = _found(error)
    if isinstance(error, fast.AlreadyExistsError | fast.PreconditionError):
        return of_code(code, status or 412, what, conditional_write=conditional_write)
    if isinstance(error, fast.PermissionDeniedError | fast.UnauthenticatedError):
        return of_code(code or "AccessDenied", 403, what, text=str(error))
    return of_code(code, status, what, text=str(error), conditional_write=conditional_write)


def _refusal(error: Any, what: str, conditional_write: bool) -> Exception:
    """Of botocore's ClientError."""
    detail = error.response.get("Error", {})
    answer = error.response.get("ResponseMetadata", {})
    code, status = str(detail.get("Code", "")), int(answer.get("HTTPStatusCode", 0))
    region = detail.get("Region") or answer.get("HTTPHeaders", {}).get("x-amz-bucket-region")
    storage = detail.get("StorageClass")
    text = _as_body(detail.get("Message", ""), region, storage)
    return of_code(code, status, what, text=text, conditional_write=conditional_write)


def _found(error: Exception) -> tuple[str, int]:
    """The service's error code and the HTTP status within an error's text."""
    text = str(error)
    code, status = _CODE.search(text), _STATUS.search(text)
    return (code[1] if code else "", int(status[1]) if status else 0)


def code_in(body: str) -> str:
    """The service's error code in an answer, or nothing."""
    found = _CODE.search(body)
    return found[1] if found else ""


def _as_body(message: str, region: str | None, storage: str | None) -> str:
    """What was answered, in the words of an answer's body."""
    text = f"{message} {f'<Region>{region}</Region>' if region else ''}"
    return text + (f"<StorageClass>{storage}</StorageClass>" if storage else "")


def of_code(
    code: str, status: int, what: str, *, text: str = "", conditional_write: bool = False
) -> Exception:
    """The error for a service's code (or, without one, its HTTP status)."""
    # the answer to its end was lost, and it was ended again: the object may be there
    if code == "NoSuchUpload":
        return StoreUnavailable(f"{what}: it is not known whether the upload in parts was finished")
    if code in ("InvalidRange", "416") or status == 416:
        return RangeEmpty(f"{what}: the object has no bytes in the range that was asked for")
    if _is_absent(code, status):
        return _missing(what, conditional_write)
    if _is_elsewhere(code, status, text):
        return _elsewhere(what, text)
    if code == "InvalidObjectState":
        return _archived(what, text)
    return _of_condition(code, status, what) or _of_request(code, status, what, text)


def _is_absent(code: str, status: int) -> bool:
    return code in ("NoSuchKey", "NotFound", "404") or (status == 404 and code != "NoSuchBucket")


def _is_elsewhere(code: str, status: int, text: str) -> bool:
    return code in _ELSEWHERE or status in (301, 307) or "incorrectly configured region" in text


def _archived(what: str, text: str) -> ObjectArchived:
    kind = _CLASS.search(text)
    named = f" (S3 {kind[1]})" if kind else " (S3 Glacier)"
    way = "have it restored (aws s3api restore-object), then  tidemill quarantine retry"
    return ObjectArchived(f"{what!r} is archived{named} and cannot be read: {way}")


def _of_condition(code: str, status: int, what: str) -> Exception | None:
    """Of what must be true for the request to be carried out."""
    if code == "NoSuchBucket":
        return SettingsError(
            f"{what}: there is no such bucket: check --bucket, --region and --endpoint-url"
        )
    if code == "ConditionalRequestConflict" or status == 409:
        return StoreUnavailable(f"{what!r}: another write was under way at the same time")
    if code in ("PreconditionFailed", "412") or status in (412, 304):
        return PreconditionFailed(f"{what!r} exists, or is at another version")
    return None


def _of_request(code: str, status: int, what: str, text: str) -> Exception:
    if code == "KeyTooLongError":
        return KeyUnsupported(f"{what[:80]!r} is too long for this store")
    if code in _DENIED or status in (401, 403):
        return StoreDenied(
            f"{what}: the store refused ({code or status}): check the credentials and what they"
            " may do"
        )
    return StoreUnavailable(f"{what}: {code or _line(text) or f'HTTP status {status}'}")


def _elsewhere(what: str, text: str) -> Exception:
    found = _REGION.search(text)
    region = next((name for name in found.groups() if name), "") if found else ""
    way = f"give --region {region}" if region else "give its own as --region (or AWS_REGION)"
    return SettingsError(
        f"{what}: the bucket is in another region than the request was for: {way}, or check"
        " --endpoint-url"
    )


def _missing(what: str, conditional_write: bool) -> Exception:
    text = f"{what!r} does not exist"
    return PreconditionFailed(text) if conditional_write else ObjectNotFound(text)


def _unreached(error: object) -> str | None:
    """What is said of a service that cannot be reached at all."""
    text = str(error)
    where = _HOST.search(text)
    if where is None:
        return None
    host = f"{where['host']}:{where['port']}" if where["port"] else where["host"] or where["url"]
    for sign, reason in _SIGNS.items():
        if sign in text:
            return f"{host} {UNREACHED} ({reason}): check --endpoint-url and the network"
    return None


def _line(error: object) -> str:
    """The first line of an error, short, without query strings (they carry signatures)."""
    unreached = _unreached(error)
    if unreached is not None:
        return unreached
    text = str(error).partition("Debug source:")[0]  # what obstore prints of its own structures
    text = re.sub(r"\?\S+", "?...", " ".join(text.split()))
    return text[:300]
