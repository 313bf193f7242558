"""What is kept of an exception: enough to find the fault, no values of variables, no
known secrets.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model.receipt import SourceProblem
from pipeline.tracebacks import (
    DETAIL_MAX,
    REASON_MAX,
    REDACTED,
    describe,
    redacted,
    user_traceback,
    visible,
    whole_traceback,
)

PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7bq1\nKx0ZpQdWvW8yq2Jr3mBn\n-----END RSA"
    " PRIVATE KEY-----"
)
ENVIRONMENT = {
    "SERVICE_API_KEY": "s3rv1ce-value",
    "db_password": "p w'rd\"\\ü",
    "APP_TOKEN": "tok\nen-of-two-lines-abc",
    "SIGNING_KEY": PEM,
    "SHORT_SECRET": "short",
    "PLAIN_SETTING": "plain-value-of-a-setting",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("key AKIAIOSFODNN7EXAMPLE was refused", f"key {REDACTED} was refused"),
        ("ASIAIOSFODNN7EXAMPLE", REDACTED),
        (
            (
                "GET https://b.s3.aws.com/k?X-Amz-Credential=abc%2F2026&X-Amz-Date=1&X-Amz-Security-Token=FwoG%2B&X-Amz-Signature=0a1b"
                " failed"
            ),
            (
                f"GET https://b.s3.aws.com/k?X-Amz-Credential={REDACTED}&X-Amz-Date=1&X-Amz-Security-Token={REDACTED}&X-Amz-Signature={REDACTED}"
                " failed"
            ),
        ),
        ("x-amz-security-token: FwoG+/==", f"x-amz-security-token: {REDACTED}"),
        ("postgres://me:hunter2@db:5432/x is down", f"postgres://{REDACTED}@db:5432/x is down"),
        ("postgres://me:hunt@er/2@db/x", f"postgres://{REDACTED}@db/x"),
        ("https://ghp_token@github.com/a/b", f"https://{REDACTED}@github.com/a/b"),
        ("{'Authorization': 'Bearer abc', 'n': 1}", f"{{'Authorization': {REDACTED}, 'n': 1}}"),
        (
            "Authorization: AWS4-HMAC-SHA256 Credential=a/b, Signature=cd\nnext",
            f"Authorization: {REDACTED}\nnext",
        ),
        ("proxy-authorization=Basic dTpw", f"proxy-authorization={REDACTED}"),
        ('{\\"authorization\\": \\"Basic dTpw\\"}', f'{{\\"authorization\\": {REDACTED}}}'),
        ("host=db password=hunter2 port=1", f"host=db password={REDACTED} port=1"),
        (f"key: {PEM}.", f"key: {REDACTED}."),
        ("-----BEGIN EC PRIVATE KEY-----\\nMHcCAQ cut off", REDACTED),
        ("https://host:8080/a?mail=x@y.z", "https://host:8080/a?mail=x@y.z"),
        ("short plain-value-of-a-setting", "short plain-value-of-a-setting"),
        (
            "could not convert string to float: 'a lot'",
            "could not convert string to float: 'a lot'",
        ),
        (
            "column 'token' is string, but in table logs it is int64",
            "column 'token' is string, but in table logs it is int64",
        ),
    ],
)
def test_what_is_surely_a_secret_goes_and_the_rest_stays(text: str, kept: str) -> None:
    assert redacted(text) == kept
    assert redacted(kept) == kept


@pytest.mark.parametrize("name", ["SERVICE_API_KEY", "db_password", "APP_TOKEN", "SIGNING_KEY"])
@pytest.mark.parametrize(
    "form",
    [
        str,
        repr,
        json.dumps,
        lambda v: quote(v, safe=""),
        lambda v: " ".join(v.split()),
        lambda v: {"k": v},
    ],
)
def test_values_of_variables_named_like_secrets_go_in_every_usual_form(
    name: str, form: Any
) -> None:
    value = ENVIRONMENT[name]
    said = describe(ValueError(f"refused: {form(value)}"))
    for part in (value, *value.splitlines()):
        assert part not in said
    assert said == f"ValueError: refused: {said.removeprefix('ValueError: refused: ')}"
    assert REDACTED in said


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_secret_goes_whatever_stands_around_it(before: str, after: str) -> None:
    assert "s3rv1ce-value" not in redacted(f"{before}s3rv1ce-value{after}")


def test_a_secret_at_the_end_of_what_is_looked_at_leaves_no_part() -> None:
    for shift in range(40):
        said = describe(ValueError(" " * (15_980 + shift) + "s3rv1ce-value" + "x" * 5_000))
        assert "s3rv1c" not in said


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_any_exception_becomes_one_bounded_line_that_can_be_stored() -> None:
    assert describe(ValueError("a\n  b\tc")) == "ValueError: a b c"
    assert describe(ValueError()) == "ValueError"
    assert describe(Odd()) == "Odd: (its message cannot be shown: RuntimeError)"
    assert describe(ValueError("x" * 10_000_000)) == "ValueError: " + "x" * (REASON_MAX - 13) + "…"
    said = describe(ValueError("half a pair \ud800"))
    stored = msgspec.json.encode(SourceProblem(index=0, status="failed", reason=said))
    assert b"\\\\ud800" in stored


def test_what_is_shown_cannot_steer_a_terminal() -> None:
    assert visible("a\x1b[2J\x07\u202eb\nc") == "a\\x1b[2J\\x07\\u202eb\\nc"
    assert visible("é 'x' \\\n\x1b", lines=True) == "é 'x' \\\n\\x1b"


def raised(call: Any, *arguments: Any) -> BaseException:
    try:
        call(*arguments)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def outer(text: str) -> Any:
    local_value = text.upper()  # noqa: F841
    try:
        return json.loads(text)
    except ValueError as error:
        raise LookupError("not JSON") from error


def test_the_traceback_has_the_users_lines_and_causes_and_no_values() -> None:
    said = user_traceback(raised(outer, "private words"))
    assert 'raise LookupError("not JSON") from error' in said
    assert ", in outer\n" in said
    assert (
        "\nLookupError: not JSON\ncaused by JSONDecodeError: Expecting value: line 1 column 1 (char"
        " 0) (File " in said
    )
    assert "private" not in said
    assert "PRIVATE" not in said
    assert "scanner" not in said


def test_of_a_library_only_where_it_raised_is_shown() -> None:
    said = user_traceback(raised(lambda: json.loads("nonsense")))
    # this test's two frames, and the innermost of json's three
    assert said.count("File ") == 3, said
    assert ", in raw_decode\n" in said


def recursive(n: int) -> None:
    recursive(n + 1)


def test_a_deep_or_hostile_traceback_is_bounded() -> None:
    said = user_traceback(raised(recursive, 0))
    assert len(said) <= DETAIL_MAX
    assert "frames more" in said
    assert said.endswith("RecursionError: maximum recursion depth exceeded")
    group = ExceptionGroup("many", [ValueError(f"n{i} s3rv1ce-value") for i in range(1000)])
    for shown in (user_traceback(group), whole_traceback(group)):
        assert "one of its exceptions: ValueError: n0 [redacted]" in shown
        assert len(shown) <= DETAIL_MAX
    loop, other = ValueError("a"), ValueError("b")
    loop.__cause__, other.__cause__ = other, loop
    assert user_traceback(loop).splitlines() == ["ValueError: a", "caused by ValueError: b"]


def test_source_lines_are_redacted_too() -> None:
    code = compile("raise ValueError('s3rv1ce-value')", "<generated>", "exec")
    import linecache

    linecache.cache["<generated>"] = (
        1,
        None,
        ["raise ValueError('s3rv1ce-value')\n"],
        "<generated>",
    )
    error = raised(exec, code)
    assert sys.exc_info() == (None, None, None)
    for said in (user_traceback(error), whole_traceback(error)):
        assert f"raise ValueError('{REDACTED}')" in said
        assert "s3rv1ce" not in said
