"""Pages of listings are read exactly or refused, however they are worded: the short way says what a
whole XML parser says.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import StoreUnavailable
from pipeline.stores.s3 import list_answer
from pipeline.stores.s3.list_answer import parse_listing
from tests.hostile.listings import DIALECTS, USUAL, Dialect
from tests.hostile.strategies import keys, mutated, mutations

PLAIN = [f"in/{i:04}" for i in range(50)]
MARK = b"<!-- -->"
"""Behind the document it means nothing, and is nothing that the short way knows."""


def read(body: bytes, cut: int = 0) -> Any:
    try:
        return parse_listing(body, cut, "s3://x")
    except StoreUnavailable as error:
        assert "\n" not in str(error)
        return "refused"


@pytest.mark.parametrize("name", DIALECTS)
def test_pages_of_every_wording_are_read_exactly(name: str) -> None:
    page, token = read(DIALECTS[name].page(["in/", *PLAIN, "in/a b+%3D\n&<é🎉"], "a&b="), 3)
    assert page.keys == [*(key[3:] for key in PLAIN), "a b+%3D\n&<é🎉"]
    assert page.etags == [f"{i:032x}" for i in range(1, 52)]
    assert page.sizes == [i * 7 for i in range(1, 52)]
    assert [t % 60_000_000 // 1_000_000 for t in page.modified_us] == [i % 60 for i in range(1, 52)]
    assert page.modified_us[0] // 1_000_000 == 1_785_542_401
    assert token == "a&b="
    assert read(DIALECTS[name].page([])) == (
        type(page)(keys=[], etags=[], sizes=[], modified_us=[]),
        None,
    )


@pytest.mark.parametrize("name", USUAL)
def test_usual_pages_are_read_the_short_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what follows would compare a parser with itself."""
    monkeypatch.setattr(list_answer, "_any", None)
    page, _ = parse_listing(USUAL[name].page([*PLAIN, "a\nb"]), 0, "s3://x")
    assert page.keys == [*PLAIN, "a\nb"]
    with pytest.raises(TypeError):
        parse_listing(USUAL[name].page(PLAIN) + MARK, 0, "s3://x")


@pytest.mark.parametrize("name", DIALECTS)
def test_a_damaged_page_is_what_xml_says_or_refused(name: str) -> None:
    """Cut off, bits flipped, something spliced in; with any keys."""

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(keys, max_size=6),
        st.sampled_from((None, "next", "a&b<")),
        st.integers(0, 3),
        st.lists(mutations, max_size=2),
    )
    def check(
        names: list[str], token: str | None, cut: int, damage: list[tuple[str, object]]
    ) -> None:
        body = DIALECTS[name].page(names, token)
        for one in damage:
            body = mutated(body, one)
        assert read(body, cut) == read(body + MARK, cut)

    check()


ROW = Dialect().row("in/x", 1).encode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (ROW, b"<!--" + ROW + b"-->"),
        (ROW, b"<![CDATA[" + ROW + b"]]>"),
        (ROW, b"<Old>" + ROW + b"</Old>"),
        (ROW, ROW + b"text" + ROW),
        (ROW, ROW + b"\n" + ROW),
        (ROW, ROW + b"<CommonPrefixes><Prefix>in/</Prefix></CommonPrefixes>" + ROW),
        (ROW, ROW + ROW.replace(b"<Size>", b"<Size >")),
        (ROW, ROW + ROW.replace(b"</Size>", b"</Sise>")),
        (ROW, ROW + ROW.replace(b"<Key>", b"<Key>\x01")),
        (ROW, ROW + ROW.replace(b"<Key>", b"<Key>]]>")),
        (ROW, ROW + ROW.replace(b"<Key>in", b"<Key>&amp;")),
        (ROW, ROW + ROW.replace(b"<Key>in", b"<Key>&unknown;")),
        (ROW, ROW + ROW.replace(b"<Size>7", b"<Size>")),
        (ROW, ROW + ROW.replace(b"<Size>7", b"<Size>many")),
        (ROW, ROW + ROW.replace(b"2026-", b"2026")),
        (ROW, ROW + ROW.replace(b"<StorageClass>STANDARD</StorageClass>", b"")),
        (ROW, ROW + ROW.replace(b"<Key>in/x</Key>", b"")),
        (
            b"<EncodingType>url</EncodingType>",
            b"<Wrapped><EncodingType>url</EncodingType></Wrapped>",
        ),
        (
            b"<EncodingType>url</EncodingType>",
            b"<EncodingType>url</EncodingType><EncodingType>none</EncodingType>",
        ),
        (b"</StorageClass>", b"</StorageClass><Key>other</Key>"),
        (b'encoding="UTF-8"', b'encoding="UTF-7"'),
        (b'encoding="UTF-8"', b'encoding="UTF-X"'),
        (b"ListBucketResult", b"Other"),
        (b"<IsTruncated>", b"<IsTruncated><!-- -->"),
    ],
)
def test_what_only_looks_like_a_page_is_read_as_xml_would(old: bytes, new: bytes) -> None:
    body = (
        Dialect()
        .page(["in/w", "in/x", "in/y%2F"], "next")
        .replace(Dialect().row("in/x", 1).encode(), ROW)
    )
    assert old in body
    body = body.replace(old, new)
    assert read(body) == read(body + MARK)
