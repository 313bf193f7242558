"""What travels between a pass and workers elsewhere: orders there, answers back.

Small JSON texts; rows and file contents never.
"""

from __future__ import annotations

import msgspec

from pipeline.errors import StateInvalid
from pipeline.model import keys
from pipeline.model.loss import Loss
from pipeline.model.task import Assignment
from pipeline.state import codec

INLINE_BYTES = 6_000
"""An assignment up to this size travels in its order.

Modal takes 8 KiB in a call that is submitted and left alone.
"""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Run this task once. The assignment, or the key it is stored under."""

    pipeline: str
    task: str
    assignment: Assignment | None = None
    stored: str = ""
    awaited: bool = False
    """Somebody waits for the answer and commits it: no need to tell anybody else."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How one execution of an order ended: with a receipt under `nonce`, or lost."""

    task: str
    nonce: str = ""
    loss: Loss | None = None
    broken: bool = False
    """See `ports.Finished.broken`."""
    sources: int = 0
    rows: int = 0
    failed: int = 0
    seconds: float = 0.0


def order_for(
    assignment: Assignment, home: str, *, awaited: bool = False
) -> tuple[Order, bytes | None]:
    """The order, and what must be stored under `Order.stored` before it is sent, if anything."""
    task = assignment.task.id
    body = msgspec.json.encode(assignment)
    if len(body) <= INLINE_BYTES:
        return Order(
            pipeline=assignment.pipeline, task=task, assignment=assignment, awaited=awaited
        ), None
    stored = keys.assignment(
        keys.of_generation(home, assignment.task.generation), task, assignment.nonce
    )
    return Order(pipeline=assignment.pipeline, task=task, stored=stored, awaited=awaited), body


def encode(message: Order | Answer) -> str:
    """A message as text."""
    return msgspec.json.encode(message).decode()


def decode_order(text: str) -> Order:
    """The order in a text. Raises StateInvalid."""
    try:
        order = msgspec.json.decode(text, type=Order)
    except (*codec.UNREADABLE, UnicodeEncodeError) as error:
        raise StateInvalid(f"this is no order of Tidemill's: {error}") from None
    if order.assignment is not None and not codec.is_even(order.assignment.task):
        raise StateInvalid(
            "this is no order of Tidemill's: the columns of its inputs are not equally long"
        )
    return order


def decode_answer(text: object) -> Answer | None:
    """The answer in a text; None for anything else."""
    try:
        return msgspec.json.decode(text, type=Answer) if isinstance(text, str) else None
    except (*codec.UNREADABLE, UnicodeEncodeError):
        return None


def decode_assignment(body: bytes, key: str) -> Assignment:
    """A stored assignment. Raises StateInvalid."""
    try:
        assignment = msgspec.json.decode(body, type=Assignment)
    except codec.UNREADABLE as error:
        raise StateInvalid(
            f"{key} is not a valid assignment (damaged or truncated): {error}"
        ) from None
    if not codec.is_even(assignment.task):
        raise StateInvalid(
            f"{key} is not a valid assignment: the columns of its inputs are not equally long"
        )
    return assignment
