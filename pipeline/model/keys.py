"""The key layout: where each kind of object lives, and how names are read back. Pure.

    _tidemill/<pipeline>/format.json  log/ checkpoint/ ledger/ hint gc/floor    the home prefix
                         receipts/ assignments/ jobs/
    <output>rows/<hive partitions>/<task>.<nonce>.<n>.parquet                   rows
    <output>rejected/<task>.<nonce>.<n>.parquet                                 rejected rows
    <output>aggregates/<name>/<sequence>.<nonce>.parquet                        aggregates

A further generation of a table has a home and an output of its own below these: generations/<n>/.
Its receipts and assignments lie below those of the pipeline, which is what workers may reach.
Sequence numbers have 20 digits, so that byte order is numeric order.
"""

from __future__ import annotations

import re

HOMES = "_tidemill/"
"""Every pipeline's home prefix begins so; no source may lie below it."""

_TASK = re.compile(r"(\d{20})-\d{6}\Z")
_GENERATION = re.compile(r"(_tidemill/[^/]+/)generations/(\d+)/\Z")
_LOG = re.compile(r"log/(\d{20})\.json\Z")
_CHECKPOINT = re.compile(r"checkpoint/(\d{20})-\w+\.json\Z")


def home(pipeline: str) -> str:
    """The pipeline's home prefix."""
    return f"{HOMES}{pipeline}/"


def of_generation(prefix: str, generation: int) -> str:
    """The home, or the output prefix, of one generation of a pipeline's table; 0 has the pipeline's
    own.
    """
    return f"{prefix}generations/{generation}/" if generation else prefix


def generations_prefix(home: str) -> str:
    """Below the pipeline's home: those of all generations but the first."""
    return f"{home}generations/"


def format_marker(home: str) -> str:
    return f"{home}format.json"


def log_prefix(home: str) -> str:
    return f"{home}log/"


def log_entry(home: str, sequence: int) -> str:
    return f"{home}log/{sequence:020d}.json"


def log_sequence(key: str) -> int | None:
    """The sequence number in a log entry's key, None for any other key."""
    found = _LOG.search(key)
    return int(found[1]) if found else None


def checkpoint_prefix(home: str) -> str:
    return f"{home}checkpoint/"


def checkpoint(home: str, sequence: int, nonce: str) -> str:
    return f"{home}checkpoint/{sequence:020d}-{nonce}.json"


def checkpoint_sequence(key: str) -> int | None:
    """The sequence number in a checkpoint's key, None for any other key."""
    found = _CHECKPOINT.search(key)
    return int(found[1]) if found else None


def ledger_prefix(home: str) -> str:
    return f"{home}ledger/"


def ledger_run(home: str, sequence: int, nonce: str) -> str:
    return f"{home}ledger/{sequence:020d}-{nonce}.parquet"


def hint(home: str) -> str:
    return f"{home}hint"


def floor(home: str) -> str:
    return f"{home}gc/floor"


def is_folder_marker(key: str, size_bytes: int) -> bool:
    """Whether an object only stands for a folder: consoles and copying programs make them, of no
    bytes. Nobody's file.
    """
    return size_bytes == 0 and key.endswith(("/", "_$folder$"))


TASKS = "0"
"""What the names of all tasks begin with: it tells what lies directly below a prefix from other
generations' folders there.
"""


def receipt_prefix(home: str) -> str:
    return _for_workers(home, "receipts")


def _for_workers(home: str, what: str) -> str:
    """A folder that workers reach: the pipeline's own, or one of a generation within it."""
    found = _GENERATION.match(home)
    return f"{found[1]}{what}/generation-{found[2]}/" if found else f"{home}{what}/"


def receipt(home: str, task: str, nonce: str) -> str:
    return f"{receipt_prefix(home)}{task}.{nonce}.json"


def began(home: str, task: str, dispatch: int) -> str:
    """Says, by being there, that a dispatched attempt was begun (see `Task.detached`)."""
    return f"{receipt_prefix(home)}{task}.d{dispatch}.began"


def loss_note(home: str, task: str, dispatch: int) -> str:
    return f"{receipt_prefix(home)}{task}.d{dispatch}.lost"


def began_dispatch(key: str) -> tuple[str, int] | None:
    """Task and dispatch in a `began` key, None for any other."""
    parts = key.rsplit("/", 1)[-1].split(".")
    is_one = (
        len(parts) == 3 and parts[2] == "began" and _TASK.match(parts[0]) and parts[1][1:].isdigit()
    )
    return (parts[0], int(parts[1][1:])) if is_one else None


def is_receipt(key: str) -> bool:
    return key.endswith(".json")


def is_loss_note(key: str) -> bool:
    return key.endswith(".lost")


def assignment(home: str, task: str, nonce: str) -> str:
    """An assignment that is too long to travel with a call."""
    return f"{assignment_prefix(home)}{task}.{nonce}.json"


def assignment_prefix(home: str) -> str:
    return _for_workers(home, "assignments")


def job(home: str, job: str) -> str:
    return f"{home}jobs/{job}.json"


def job_prefix(home: str) -> str:
    return f"{home}jobs/"


def task_id(sequence: int, index: int) -> str:
    """Unique for ever: a sequence number is committed once."""
    return f"{sequence:020d}-{index:06d}"


def task_sequence(task: str) -> int | None:
    """The commit that planned a task, read from its id; None if it is no task id."""
    found = _TASK.match(task)
    return int(found[1]) if found else None


def task_of(key: str) -> str | None:
    """The task named by the last part of a receipt's or output file's key, None if
    there is none.
    """
    name = key.rsplit("/", 1)[-1].split(".", 1)[0]
    return name if _TASK.match(name) else None


def output_id(task: str, nonce: str) -> str:
    return f"{task}.{nonce}"


def output_of(key: str) -> str | None:
    """The output id in an output file's key (`<task>.<nonce>.<n>.parquet`)."""
    parts = key.rsplit("/", 1)[-1].split(".")
    return f"{parts[0]}.{parts[1]}" if len(parts) == 4 and _TASK.match(parts[0]) else None


def rows_prefix(output: str) -> str:
    return f"{output}rows/"


def rejected_prefix(output: str) -> str:
    return f"{output}rejected/"


def aggregate_prefix(output: str) -> str:
    return f"{output}aggregates/"


def aggregate_file(output: str, name: str, sequence: int, nonce: str) -> str:
    return f"{output}aggregates/{name}/{sequence:020d}.{nonce}.parquet"


def aggregate_sequence(key: str) -> int | None:
    """The snapshot an aggregate file was computed over, from its key."""
    head = key.rsplit("/", 1)[-1].split(".", 1)[0]
    return int(head) if len(head) == 20 and head.isdigit() else None
