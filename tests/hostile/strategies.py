"""What hostile keys and damaged bytes look like, for hypothesis and for `python -m
tests.hostile`.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

PARTS = (
    *(
        "..",
        ".",
        "",
        " ",
        "~",
        "a",
        "A",
        "b",
        "%2F",
        "%2e%2e",
        "a%",
        "x+y",
        "--help",
        "-rf",
        "=1+2",
        "@SUM(A1)",
        "+1",
        "$HOME",
    ),
    *(
        "`id`",
        "a=b",
        "a=b'c",
        'q"q',
        "c'd; DROP TABLE logs;--",
        "back\\slash",
        "..\\up",
        "new\nline",
        "cr\r",
        "tab\t",
        "\x00",
    ),
    *(
        "\x1b[31mred",
        "\x1b]0;title\x07",
        "\x9b2J",
        "\x7f",
        "\u202egnp.exe",
        "\u200b",
        "\ufeff",
        "é",
        "e\u0301",
        "ß",
        "ẞ",
        "İ",
        "ı",
    ),
    *(
        "🎉",
        "\ud800",
        "\udcff",
        "\U0010ffff",
        "con",
        "nul.",
        "*",
        "[x]",
        "{y}",
        "?",
        "#",
        "&amp;",
        "<x>",
        "a:b",
        ":memory:",
    ),
    *(
        ".tidemill",
        "_tidemill",
        "format.json",
        "x" * 255,
        "y" * 256,
        "z" * 1024,
        "é" * 127,
        "é" * 128,
    ),
)

keys = st.one_of(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("/".join),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map("".join),
    st.text(st.characters(), min_size=1, max_size=40),
    st.text(st.sampled_from("/.%\\ \n'\"=aA"), min_size=1, max_size=30),
    st.integers(1000, 1030).map(lambda n: ("k" * 199 + "/") * 5 + "x" * (n - 1000)),
)
"""Any Unicode, with the odd ones far more often than by chance."""

mutations = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1)),
    st.tuples(st.just("flip"), st.lists(st.integers(0, 2**31), min_size=1, max_size=4)),
    st.tuples(st.just("splice"), st.tuples(st.floats(0, 1), st.binary(max_size=12))),
    st.tuples(st.just("field"), st.tuples(st.integers(0, 2**31), st.integers(0, 2**31))),
    st.tuples(st.just("twice"), st.integers(0, 2**31)),
)

ODD_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63 - 1,
        2**63,
        2**64,
        -(2**63),
        10**40,
        1e308,
        -0.0,
        "",
        "x",
        "../x",
        "\x00",
        "x" * 5000,
    ),
    *(
        [],
        [[]],
        {},
        {"": None},
        [None],
        [-1],
        ["a", 1],
        [0] * 3000,
        {"format": 99},
        "00000000000000000001-000000",
        "/etc/passwd",
    ),
)


def mutated(body: bytes, mutation: tuple[str, Any]) -> bytes:
    """The bytes, damaged in one way: cut off, bits flipped, something spliced in, or one JSON field
    of another type or twice.
    """
    kind, how = mutation
    if kind == "cut":
        return body[: int(len(body) * how)]
    if kind == "flip":
        damaged = bytearray(body)
        for bit in how:
            if damaged:
                damaged[bit // 8 % len(damaged)] ^= 1 << bit % 8
        return bytes(damaged)
    if kind == "splice":
        at = int(len(body) * how[0])
        return body[:at] + how[1] + body[at:]
    try:
        value = json.loads(body)
    except ValueError:
        return body[::-1]
    if kind == "twice":
        return body[:-1] + b"," + body[1:] if isinstance(value, dict) and value else body * 2
    places = list(_places(value))
    if not places:
        return body
    holder, name = places[how[0] % len(places)]
    holder[name] = ODD_VALUES[how[1] % len(ODD_VALUES)]
    return json.dumps(value).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, inner in list(items):
        found.append((value, name))
        found += _places(inner)
    return found
