"""What the soak is made of: what was ever under each key, the bucket it lies in, and a command
under way.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import psutil

from tests.support.servers import KEYS, moto_url, seaweed_url

ROOT = Path(__file__).parent.parent.parent
NAMES = 400
SERVERS = {"seaweedfs": seaweed_url, "moto": moto_url}


@dataclass(frozen=True)
class Content:
    """What lay under a key for a while. ver: its number, in each of its rows. rows: pairs of kind
    and value.
    """

    ver: int
    rows: tuple[tuple[str, int], ...]
    bad: bool = False

    def body(self) -> bytes:
        lines = [json.dumps({"k": k, "v": v, "ver": self.ver}) for k, v in self.rows]
        return "".join(
            line + "\n" for line in [*lines, *(["no json"] if self.bad else [])]
        ).encode()

    def seen(self) -> tuple[int, int, int, int] | None:
        """What a query by file says of it: rows, lowest and highest version, sum."""
        return (
            (len(self.rows), self.ver, self.ver, sum(v for _, v in self.rows))
            if self.rows
            else None
        )


@dataclass
class File:
    """All that was ever under one key, None where it was deleted; and how far readers
    have seen it.
    """

    contents: list[Content | None] = field(default_factory=lambda: [None])
    position: int = 0

    def observe(self, seen: tuple[int, int, int, int] | None) -> bool:
        """Whether a reader may see this now: something that was under the key, not older than what
        it saw before.
        """
        for i in range(self.position, len(self.contents)):
            content = self.contents[i]
            if not (content and content.bad) and (content.seen() if content else None) == seen:
                self.position = i
                return True
        return False


class Model:
    """What is in the bucket's source prefix, and what ever was."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.files = {f"f{i % 7}/{i:03}.jsonl": File() for i in range(NAMES)}
        self.vers = 0

    def last(self) -> dict[str, Content]:
        return {
            name: file.contents[-1]
            for name, file in self.files.items()
            if file.contents[-1] is not None
        }

    def fresh(self, *, bad: bool = False) -> Content:
        self.vers += 1
        rows = tuple(
            (self.rng.choice("abcd"), self.rng.randrange(1000))
            for _ in range(self.rng.randrange(6))
        )
        return Content(self.vers, rows, bad)

    def totals(self) -> dict[str, tuple[int, int]]:
        """By kind: sum and number of the rows of all files as they are now."""
        sums: dict[str, tuple[int, int]] = {}
        for content in self.last().values():
            for k, v in content.rows if not content.bad else ():
                sums[k] = (sums.get(k, (0, 0))[0] + v, sums.get(k, (0, 0))[1] + 1)
        return sums


class Directory:
    """The bucket as a local directory; uploads are written beside and renamed."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "bucket"
        self.root.mkdir()
        self.beside = folder / "upload"
        self.environment = {"TIDEMILL_BUCKET": str(self.root)}

    def put(self, name: str, body: bytes) -> None:
        target = self.root / "up" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        self.beside.write_bytes(body)
        self.beside.replace(target)

    def delete(self, name: str) -> None:
        (self.root / "up" / name).unlink()


class Service:
    """The bucket on an S3 server over HTTP."""

    def __init__(self, server: str) -> None:
        url = SERVERS[server]()
        self.client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        self.name = f"soak-{secrets.token_hex(4)}"
        self.client.create_bucket(Bucket=self.name)
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": url, "TIDEMILL_BUCKET": f"s3://{self.name}"}

    def put(self, name: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"up/{name}", Body=body)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=f"up/{name}")


class Process:
    """A command under way, in a process group of its own; its output goes to files."""

    def __init__(
        self, folder: Path, number: int, words: Sequence[str], environment: dict[str, str]
    ) -> None:
        self.words = words
        self.out, self.err = folder / f"{number}.out", folder / f"{number}.err"
        self.begun, self.struck, self.paused, self.asked = time.monotonic(), False, False, False
        command = [sys.executable, "-m", "pipeline.cli", *words]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.popen = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def send(self, number: int, dice: float) -> list[int]:
        """Signal the whole group, the runner alone, or one of its children alone;
        whom it reached.
        """
        with suppress(psutil.Error, ProcessLookupError):
            below = [child.pid for child in psutil.Process(self.popen.pid).children(recursive=True)]
            if dice < 0.33:
                reached = [self.popen.pid, *below]
            elif dice < 0.66 or not below:
                reached = [self.popen.pid]
            else:
                reached = [below[int(dice * 1000) % len(below)]]
            for pid in reached:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            return reached
        return []

    def complaint(self) -> str:
        """What is wrong with how it ended, empty if nothing is."""
        code, said = self.popen.returncode, self.err.read_text(errors="replace")
        if self.asked and code in (130, -signal.SIGINT):
            return ""  # it was interrupted while it was loading
        orphaned = self.struck and "the process that starts workers was killed" in said
        allowed = {0, 1} if "--watch" not in self.words or orphaned else {0}
        regular = code in allowed or (self.struck and code == -signal.SIGKILL)
        if not regular or "Traceback" in said or "bug of Tidemill" in said:
            return f"{' '.join(self.words)} ended with {code}: {said[-600:]}"
        return ""
