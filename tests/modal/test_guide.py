"""What docs/guides/modal.md types works, in its order, and prints what it shows.

A command that is new there must be added here.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.modal.helpers import SECRET, Cloud
from tests.support.helpers import ROOT
from tests.support.servers import KEYS

GUIDE = ROOT / "docs" / "guides" / "modal.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
DECLARATION = re.compile(r"^events = Pipeline\(.*?\)$", re.DOTALL | re.MULTILINE)
BUCKET, APP = "acme-uploads", "tidemill-events"
AS_TYPED = ("tidemill ", "python -m infra.iam_policy ", "printf ", "modal app stop ")
"""Commands that run as the guide has them."""
EXIT_CODES = {
    "tidemill run events.py --engine modal --wait": 1,
    "tidemill quarantine list events.py": 1,
}
VARYING = (
    (r"[─ ]+", " "),
    (r"\d+(\.\d+)? (B|kB)/s", "<rate>"),
    (r"\d+(\.\d+)? s\b", "<time>"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "<when>"),
    (r"(under )?\$[\d.]+\d", "<dollars>"),
    (r"\d+(\.\d+)? kB", "<size>"),
)


class Session:
    """A shell in which the guide is typed."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.folder = cloud.folder
        self.jobs: dict[str, str] = {}
        programs = self.folder / "bin"
        programs.mkdir()
        for name, module in (
            ("tidemill", "-m pipeline.cli"),
            ("modal", "-m modal"),
            ("python", ""),
        ):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
            program.chmod(0o755)
        self.environment = {
            **os.environ,
            **KEYS,
            **cloud.modal.env,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TIDEMILL_ENDPOINT_URL": cloud.url,
            "TIDEMILL_MOUNT_ROOT": str(self.folder / "mnt"),
        }

    def write(self, source: str) -> None:
        """A file, or the new declaration in the one that `init` made."""
        head, _, rest = source.partition("\n")
        if head == "# in events.py":
            file = self.folder / "events.py"
            changed, n = DECLARATION.subn(rest.rstrip(), file.read_text())
            assert n == 1
            file.write_text(changed)
        else:
            (self.folder / head.removeprefix("# ")).write_text(source)

    def type(self, line: str) -> str:
        """A command line; what it prints."""
        for start, instead in INSTEAD.items():
            if line.startswith(start):
                return instead(self, line)
        assert line.startswith(AS_TYPED), (
            f"the guide has a command that nothing here stands for: {line}"
        )
        for shown, made in self.jobs.items():
            line = line.replace(shown, made)
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(line, shell=True, cwd=self.folder, env=self.environment, **output)  # noqa: S602
        assert done.returncode == EXIT_CODES.get(line, 0), f"{line}\n{done.stdout}"
        return PROGRESS.sub("", done.stdout)

    # -- what stands for commands that need the world outside

    def nothing(self, line: str) -> str:
        return ""

    def change_folder(self, line: str) -> str:
        self.folder = self.folder / line.split()[1]
        return ""

    def set_variable(self, line: str) -> str:
        name, _, value = line.removeprefix("export ").partition("=")
        self.environment[name] = value
        return ""

    def make_secret(self, line: str) -> str:
        """The values in the guide are dots: the stand-in's secret gets the test server's keys."""
        self.cloud.modal.secrets[line.split()[3]] = dict(KEYS)
        return ""

    def copy_to_s3(self, line: str) -> str:
        """`aws s3 cp FILE URL`, or `--recursive FOLDER URL`."""
        *options, source, url = shlex.split(line)[3:]
        bucket, _, key = url.removeprefix("s3://").partition("/")
        path = self.folder / source
        for file in sorted(path.iterdir()) if options == ["--recursive"] else [path]:
            self.cloud.s3.put_object(
                Bucket=bucket, Key=key + file.name if options else key, Body=file.read_bytes()
            )
        return ""

    def tick(self, line: str) -> str:
        """Five minutes pass: the schedule fires. What the tick says is the log."""
        self.cloud.modal.fire(APP, "tick")
        self.cloud.modal.wait_idle()
        return "\n".join(said for said in self.cloud.modal.logs().splitlines() if said) + "\n"

    def post(self, line: str) -> str:
        """`curl` against the endpoint where the stand-in serves it."""
        words = shlex.split(line)
        assert words[words.index("POST") + 1] == f"https://acme--{APP}-hint.modal.run"
        url = self.cloud.modal.url(APP, "hint")
        with urllib.request.urlopen(url, words[words.index("-d") + 1].encode()) as answer:
            said: str = answer.read().decode()
        self.cloud.modal.wait_idle()
        return said + "\n"


PROGRESS = re.compile(r"^\w+: [\d,]+ of [\d,]+ files, .*\n", re.MULTILINE)
"""What a command says after each five seconds, on a machine that is slow."""

INSTEAD: dict[str, Callable[[Session, str], str]] = {
    "pip install 'tidemill[modal]'": Session.nothing,
    "modal token new": Session.nothing,
    "modal secret create ": Session.make_secret,
    "modal app logs ": Session.tick,
    "aws s3 cp ": Session.copy_to_s3,
    "curl -X POST ": Session.post,
    "cd ": Session.change_folder,
    "export ": Session.set_variable,
}


def test_the_guide_is_typed_and_prints_what_it_shows(cloud: Cloud) -> None:
    """All blocks in order, as one session."""
    cloud.s3.create_bucket(Bucket=BUCKET)
    del cloud.modal.secrets[SECRET]  # the guide makes it
    session = Session(cloud)
    for language, text in BLOCK.findall(GUIDE.read_text()):
        if language == "python":
            session.write(text)
            continue
        assert language == "console"
        for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            line, _, shown = step.partition("\n")
            said = session.type(line)
            if line.startswith("tidemill submit"):
                session.jobs[shown.strip()] = said.strip()
            for there, made in session.jobs.items():
                shown = shown.replace(there, made)
            assert matches(shown, said), (
                f"$ {line}\n--- the guide shows\n{shown}--- it printed\n{said}"
            )
    assert cloud.modal.apps() == []  # its last command


def test_the_hint_endpoint_wants_a_proxy_token(cloud: Cloud) -> None:
    """What the guide says of notices: Modal asks callers for a token before they reach the app."""
    project = cloud.project((ROOT / "examples" / "nightly" / "flows.py").read_text())
    project.deploy()
    assert cloud.modal.functions(project.app)["hint"].webhook_config.requires_proxy_auth


def test_the_guides_links_lead_somewhere() -> None:
    """Relative links are files of this repository."""
    links = re.findall(r"\]\(([^)]+)\)", GUIDE.read_text())
    assert links
    assert [link for link in links if not Path(GUIDE.parent, link).is_file()] == []


def matches(shown: str, said: str) -> bool:
    """Whether what was printed is what is shown: `...` is anything, times, dates, rates and prices
    differ.
    """
    lines = [
        re.escape(line.strip()).replace(r"\.\.\.", ".*") + "\n"
        for line in varied(shown).splitlines()
    ]
    pattern = "".join("(.*\n)*" if line == ".*\n" else line for line in lines)
    return (
        re.fullmatch(pattern, "".join(line.strip() + "\n" for line in varied(said).splitlines()))
        is not None
    )


def varied(text: str) -> str:
    for pattern, instead in VARYING:
        text = re.sub(pattern, instead, text)
    return text
