"""Texts as spreadsheets write them."""

from __future__ import annotations

import csv

import pytest

from pipeline.work.contents import BytesContent
from pipeline.work.object import LOOKED_AT_BYTES, Object

MARK = b"\xef\xbb\xbf"


def of(body: bytes) -> Object:
    return Object("up/a.csv", "e", len(body), 0, BytesContent(body))


@pytest.mark.parametrize("mark", [b"", MARK], ids=["plain", "marked"])
@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r"], ids=["windows", "unix", "mac"])
def test_a_csv_file_is_read_as_it_was_written(mark: bytes, end: bytes) -> None:
    """Line ends within quotes stay, whichever they are; a byte order mark is no part of the first
    column's name.
    """
    rows = [
        ["shop", "note"],
        ["Oslo", "one\r\ntwo"],
        ["Bern", "a\rb"],
        ["Riga", "a\nb"],
        ["Jūrmala", "🙂"],
    ]
    body = end.join(f'{a},"{b}"'.encode() for a, b in rows) + end
    assert list(csv.reader(of(mark + body).lines())) == rows


def test_a_line_end_of_another_kind_after_the_part_that_was_looked_at() -> None:
    body = b"a,b\n" * LOOKED_AT_BYTES + b'c,"d\r\ne"\r\n'
    assert list(csv.reader(of(body).lines()))[-1] == ["c", "d\r\ne"]


def test_a_mark_is_left_out_of_text_and_of_a_second_reading_too() -> None:
    one = of(MARK + b"a\nb\n")
    assert one.text() == "a\nb\n"
    lines = one.lines()
    assert [lines.readline(), lines.seek(0), lines.read()] == ["a\n", 0, "a\nb\n"]
    assert of(b"").text() == of(MARK).text() == "".join(of(MARK).lines()) == ""


def test_other_encodings() -> None:
    body = "é,\r\n".encode("latin-1")
    assert list(of(body).lines("latin-1")) == ["é,\r\n"]
    assert of("é".encode("utf-16")).text("utf-16") == "é"
    with pytest.raises(UnicodeDecodeError):
        list(of(body).lines())
