"""What user code may do to its worker: event loops, processes of its own, prints, and a `load` that
fails.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.helpers import Project

HEAD = """
import asyncio, logging, multiprocessing, os, subprocess, sys, threading, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from pipeline import Object, Pipeline

t = Pipeline("t", source="up/")

async def fetched(name):
    await asyncio.sleep(0)
    return name.upper()

def square(n):
    return n * n
"""

LOOPS = {
    "asyncio.run": (
        """
        @t.transform
        def f(obj: Object):
            return {"name": asyncio.run(fetched(obj.name))}
        """
    ),
    "asyncio.run in a batch": (
        """
        @t.transform(batch_size=2)
        def f(objs):
            return [{"name": asyncio.run(fetched(o.name))} for o in objs]
        """
    ),
    "asyncio.run in a class, its load and its generator": (
        """
        @t.transform
        class F:
            def load(self):
                self.more = asyncio.run(fetched(""))
            def __call__(self, obj):
                yield {"name": asyncio.run(fetched(obj.name)) + self.more}
        """
    ),
    "a loop of its own": (
        """
        @t.transform
        def f(obj: Object):
            loop = asyncio.new_event_loop()
            try:
                return {"name": loop.run_until_complete(fetched(obj.name))}
            finally:
                loop.close()
        """
    ),
    "async def": (
        """
        @t.transform
        async def f(obj: Object):
            return {"name": await fetched(obj.name)}
        """
    ),
    "an async generator": (
        """
        @t.transform
        async def f(obj: Object):
            yield {"name": await fetched(obj.name)}
        """
    ),
    "an async batch": (
        """
        @t.transform(batch_size=2)
        async def f(objs):
            names = await asyncio.gather(*(fetched(o.name) for o in objs))
            return [{"name": name} for name in names]
        """
    ),
    "an async class, whose calls share what load made": (
        """
        @t.transform
        class F:
            async def load(self):
                self.lock, self.loop = asyncio.Lock(), asyncio.get_running_loop()
            async def __call__(self, obj):
                async with self.lock:
                    assert self.loop is asyncio.get_running_loop()
                    return {"name": await fetched(obj.name)}
        """
    ),
    "a plain function that returns a coroutine": (
        """
        @t.transform
        def f(obj: Object):
            async def rows():
                return {"name": await fetched(obj.name)}
            return rows()
        """
    ),
}


def project_of(folder: Path, code: str, *names: str) -> Project:
    import textwrap

    project = Project(folder, HEAD + textwrap.dedent(code))
    for name in names:
        project.upload(name, name)
    return project


@pytest.mark.parametrize("code", LOOPS.values(), ids=LOOPS.keys())
def test_user_code_has_no_event_loop_around_it_and_may_be_async(tmp_path: Path, code: str) -> None:
    project = project_of(tmp_path, code, "a", "b", "c")
    assert project.run()["committed"] == 3
    assert project.sql("SELECT name FROM t ORDER BY name") == [
        {"name": "A"},
        {"name": "B"},
        {"name": "C"},
    ]


def test_an_async_generator_that_fails_sets_its_file_aside_and_is_closed(tmp_path: Path) -> None:
    project = project_of(
        tmp_path,
        """
        @t.transform
        async def f(obj: Object):
            try:
                for n in range(200):
                    if obj.name == "b" and n == 150:
                        raise ValueError("the 150th")
                    yield {"name": await fetched(obj.name), "n": n}
            finally:
                print("closed", obj.name)
        """,
        "a",
        "b",
    )
    done = project.call("run", "--json", code=1)
    assert json.loads(done.stdout)["rows"] == 200
    assert sorted(done.stderr.split("\n"))[1:] == ["up/a: closed a", "up/b: closed b"]
    [entry] = json.loads(project.call("quarantine list", "--json", code=1).stdout)
    assert entry["reason"] == "ValueError: the 150th"


# -- processes of its own --------------------------------------------------------------------------

SLEEPS = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
STARTED = {
    "a subprocess": (
        """
        subprocess.Popen([sys.executable, "-c", SLEEPS, PIDS + "/child"])
        """
    ),
    "one in a session of its own, whose parent is gone": (
        """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                Path(PIDS, "child").write_text(str(os.getpid()))
                time.sleep(600)
            os._exit(0)
        os.wait()
        """
    ),
    "one that ignores signals": (
        """
        def deaf():
            import signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            Path(PIDS, "child").write_text(str(os.getpid()))
            time.sleep(600)
        multiprocessing.get_context("fork").Process(target=deaf).start()
        """
    ),
    "a thread that never ends": (
        """
        Path(PIDS, "child").write_text(str(os.getpid()))
        threading.Thread(target=time.sleep, args=(600,)).start()
        """
    ),
}
ENDS = {
    "the run ends": "",
    "the call is killed": "time.sleep(600) if obj.name == 'b' else None",
    "the worker dies": "os._exit(3) if obj.name == 'b' else None",
}


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def until(what: Callable[[], object]) -> None:
    """Wait for it; nothing depends on how long it takes."""
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def starting(
    folder: Path, what: str, then: str, limits: str = "timeout_s=1, max_attempts=1"
) -> Project:
    import textwrap

    body = textwrap.indent(textwrap.dedent(what).strip(), "        ")
    code = f"""
PIDS = {str(folder)!r}
SLEEPS = {SLEEPS!r}

@t.transform({limits})
def f(obj: Object):
    if obj.name == "b":
{body}
        while not Path(PIDS, "child").exists() or not Path(PIDS, "child").read_text():
            time.sleep(0.01)
    {then or "pass"}
    return {{"name": obj.name}}
"""
    project = Project(folder, HEAD + code)
    project.upload("b", "x")
    project.upload("a", "x")
    return project


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere only what stays in the worker's group is found"
)
@pytest.mark.parametrize("then", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("what", STARTED.values(), ids=STARTED.keys())
def test_nothing_that_user_code_starts_outlives_its_worker(
    tmp_path: Path, what: str, then: str
) -> None:
    project = starting(tmp_path, what, then)
    report = project.run(code=1 if then else 0)
    assert (report["committed"], report["quarantined"]) == ((1, 1) if then else (2, 0))
    assert ended(int((tmp_path / "child").read_text())), "gone as soon as the command is over"


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere only what stays in the worker's group is found"
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("whole_group", [True, False], ids=["group", "process"])
def test_nothing_is_left_when_tidemill_itself_is_ended(
    tmp_path: Path, number: int, whole_group: bool
) -> None:
    """Neither processes, nor folders for temporary files."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    what = STARTED["one in a session of its own, whose parent is gone"]
    project = starting(tmp_path, what, ENDS["the call is killed"], "timeout_s=600")
    project.environment["TMPDIR"] = str(temporary)
    command = project.command("run", str(project.file), "--workers", "1")
    # below `nohup` it is ignored
    heard = signal.signal(number, signal.SIG_DFL) if number == signal.SIGHUP else None
    process = subprocess.Popen(
        command, env=project.env(), cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE
    )
    if heard is not None:
        signal.signal(number, heard)
    child = tmp_path / "child"
    until(lambda: process.poll() is not None or (child.exists() and child.read_text()))
    workers = [one.pid for one in psutil.Process(process.pid).children(recursive=True)]
    (os.killpg if whole_group else os.kill)(process.pid, number)
    assert process.stderr is not None
    process.stderr.read()  # ends once nobody has it any more
    process.wait()
    for pid in (*workers, int(child.read_text())):
        until(lambda pid=pid: ended(pid))
    until(lambda: not list(temporary.iterdir()))


POOLS = {
    "a pool in load": (
        """
        @t.transform
        class F:
            def load(self):
                self.pool = ProcessPoolExecutor(2)
            def __call__(self, obj):
                return [{"n": n} for n in self.pool.map(square, range(3))]
        """
    ),
    "a pool that is never closed": (
        """
        @t.transform
        def f(obj: Object):
            return [{"n": n} for n in multiprocessing.get_context("fork").Pool(2).map(square,
                range(3))]
        """
    ),
    "a manager": (
        """
        @t.transform
        class F:
            def load(self):
                self.manager = multiprocessing.get_context("fork").Manager()
                self.shared = self.manager.list(range(3))
            def __call__(self, obj):
                return [{"n": n} for n in self.shared]
        """
    ),
    "new interpreters": (
        """
        @t.transform
        class F:
            def load(self):
                self.pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
            def __call__(self, obj):
                return [{"n": n} for n in self.pool.map(square, range(3))]
        """
    ),
    "threads that never end": (
        """
        @t.transform
        class F:
            def load(self):
                threading.Thread(target=threading.Event().wait).start()
                import atexit
                atexit.register(threading.Event().wait)
            def __call__(self, obj):
                return [{"n": n} for n in range(3)]
        """
    ),
}


@pytest.mark.parametrize("code", POOLS.values(), ids=POOLS.keys())
def test_pools_and_threads_do_not_keep_a_run_from_ending(tmp_path: Path, code: str) -> None:
    project = project_of(tmp_path, code, "a", "b")
    assert project.run()["rows"] == 6


def test_a_call_that_waits_for_its_pool_ends_at_its_time_limit(tmp_path: Path) -> None:
    project = project_of(
        tmp_path,
        """
        @t.transform(timeout_s=1, max_attempts=1)
        def f(obj: Object):
            with multiprocessing.get_context("fork").Pool(2) as pool:
                pool.map(time.sleep, [0, 600 if obj.name == "b" else 0])
            return {"name": obj.name}
        """,
        "a",
        "b",
    )
    assert project.run(code=1)["committed"] == 1
    [entry] = json.loads(project.call("quarantine list", "--json", code=1).stdout)
    assert entry["reason"] == "time limit: one call took longer than 1 s (timeout_s)"


FORKS = {
    "returns": "pass",
    "raises": "raise ValueError('in the child')",
    "leaves": "sys.exit(5)",
    "is interrupted": "raise KeyboardInterrupt",
}


@pytest.mark.parametrize("how", FORKS.values(), ids=FORKS.keys())
@pytest.mark.parametrize("generator", [False, True], ids=["function", "generator"])
def test_a_fork_of_user_code_never_becomes_a_second_worker(
    tmp_path: Path, how: str, generator: bool
) -> None:
    """Its file is committed once, by the process that was asked for it; the other one ends where it
    leaves the user's code.
    """
    give = "yield" if generator else "return"
    project = project_of(
        tmp_path,
        f"""
        @t.transform
        def f(obj: Object):
            child = os.fork()
            if child == 0:
                {how}
            else:
                Path({str(tmp_path)!r},
                    obj.name).write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
            {give} {{"name": obj.name, "child": child == 0}}
        """,
        "a",
        "b",
        "c",
    )
    report = project.run()
    assert (report["committed"], report["rows"]) == (3, 3)
    assert project.sql("SELECT DISTINCT child FROM t") == [{"child": False}]
    wanted = {"pass": "0", "sys.exit(5)": "5"}.get(how, "1")
    assert {(tmp_path / name).read_text() for name in "abc"} == {wanted}
    assert len(list(tmp_path.glob("bucket/tables/**/*.parquet"))) == len(
        project.sql("SELECT DISTINCT _task FROM t")
    )
    project.audit()


# -- what it prints --------------------------------------------------------------------------------

NOISY = """
print("at import")
subprocess.run(["echo", "a program at import"])

@t.transform(max_attempts=1, timeout_s=2)
def f(obj: Object):
    print("printed", obj.name)
    logging.warning("logged %s", obj.name)
    subprocess.run(["echo", "a program for", obj.name])
    if obj.name == "raises":
        print("the password is", os.environ["MY_PASSWORD"], "." * 5000)
        raise ValueError("no")
    if obj.name == "dies":
        os._exit(9)
    if obj.name == "hangs":
        time.sleep(600)
    return {"name": obj.name}
"""


def test_what_is_printed_is_shown_with_its_file_and_kept_with_one_that_fails(
    tmp_path: Path,
) -> None:
    project = project_of(tmp_path, NOISY, "fine", "raises", "dies", "hangs")
    project.environment["MY_PASSWORD"] = "correct horse battery"
    done = project.call("run", "--json", code=1)
    assert len(done.stdout.splitlines()) == 1, "standard output is for the report"
    for name in ("fine", "raises", "dies", "hangs"):
        for line in (f"printed {name}", f"WARNING:root:logged {name}", f"a program for {name}"):
            assert f"up/{name}: {line}\n" in done.stderr
    entries = {
        e["key"]: e for e in json.loads(project.call("quarantine list", "--json", code=1).stdout)
    }
    assert set(entries) == {"up/raises", "up/dies", "up/hangs"}
    for name in ("dies", "hangs"):
        assert (
            entries[f"up/{name}"]["detail"]
            == f"printed:\nprinted {name}\nWARNING:root:logged {name}\na program for {name}"
        )
    kept = entries["up/raises"]["detail"]
    assert "ValueError: no" in kept
    assert "battery" not in kept
    assert len(kept) < 6_500
    shown = project.call("quarantine show", "up/dies").stdout
    assert "a program for dies" in shown


def test_what_is_printed_at_import_stays_out_of_results(tmp_path: Path) -> None:
    project = project_of(tmp_path, NOISY, "fine")
    project.run()
    for command in (
        ["sql", "SELECT name FROM t", "--format", "json"],
        ["files", "--json"],
        ["plan", "--json"],
        ["status", "--json"],
    ):
        done = project.call(*command)
        json.loads(done.stdout)
        assert "at import\na program at import\n" in done.stderr


def test_the_progress_bar_stays_whole_while_code_prints(tmp_path: Path) -> None:
    """On a terminal: each printed line begins where a line begins, with its file's key."""
    names = [f"f{n}" for n in range(12)]
    project = project_of(
        tmp_path,
        """
        @t.transform
        def f(obj: Object):
            time.sleep(0.15)
            print("printed for", obj.name, flush=True)
            sys.stderr.write("written for " + obj.name)
            return {"name": obj.name}
        """,
        *names,
    )
    ours, theirs = pty.openpty()
    env = project.env() | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        project.command("run", str(project.file)),
        env=env,
        cwd=tmp_path,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            some = os.read(ours, 65536)
        except OSError:
            break
        if not some:
            break
        seen += some
    os.close(ours)
    assert process.wait() == 0
    text = seen.decode()
    assert "━" in text, "there was a bar"
    for name in names:
        assert f"up/{name}: printed for {name}\r\n" in text
        assert f"up/{name}: written for {name}\r\n" in text, text
    for line in text.split("\n"):
        assert (
            "━" not in line.partition("printed for")[0].rpartition("\x1b[2K")[2]
            or "printed for" not in line
        )


# -- a load that fails -----------------------------------------------------------------------------


def test_a_load_that_fails_stops_its_own_pipeline_alone(tmp_path: Path) -> None:
    project = project_of(
        tmp_path,
        """
        @t.transform
        class F:
            def load(self):
                raise RuntimeError("no gpu")
            def __call__(self, obj):
                return None

        other = Pipeline("other", source="up/")

        @other.transform
        def g(obj: Object):
            return {"name": obj.name}
        """,
        "a",
        "b",
    )
    done = project.call("run", code=2)
    line = project.file.read_text().splitlines().index('        raise RuntimeError("no gpu")') + 1
    assert (
        done.stderr.strip()
        == f"tidemill: transform f of t cannot be loaded: {project.file}, line {line}:"
        " RuntimeError: no gpu"
    )
    assert "other: 2 files committed" in done.stdout
    project.write(project.file.read_text().replace('raise RuntimeError("no gpu")', "pass"))
    assert project.call("run").stdout.startswith("t: 2 files committed")
