"""The stand-in keeps the promises that the tests of the Modal app lean on, seen through the real
client.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import modal
import pytest

from tests.modal_offline import Offline
from tests.modal_offline.sample import APP


def deploy(
    cloud: Offline, folder: Path, source: str, name: str = "works"
) -> subprocess.CompletedProcess[str]:
    file = folder / f"{name}_app.py"
    file.write_text(textwrap.dedent(source).replace("FOLDER", str(folder)))
    command = [sys.executable, "-m", "modal", "deploy", str(file)]
    done = subprocess.run(
        command, env={**os.environ, **cloud.env}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 or "fail" in name, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def cloud_and_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Offline, Path]]:
    folder = tmp_path_factory.mktemp("cloud")
    with pytest.MonkeyPatch.context() as patch, Offline(folder) as cloud:
        cloud.secrets["keys"] = {"TOKEN": "t0k"}
        for name, value in {
            **cloud.env,
            "AWS_ACCESS_KEY_ID": "client",
            "TIDEMILL_HOME": "client",
        }.items():
            patch.setenv(name, value)
        deploy(cloud, folder, APP)
        yield cloud, folder
        assert cloud.problems() == []


@pytest.fixture
def cloud(cloud_and_folder: tuple[Offline, Path]) -> Offline:
    return cloud_and_folder[0]


@pytest.fixture
def folder(cloud_and_folder: tuple[Offline, Path]) -> Path:
    return cloud_and_folder[1]


def function(name: str) -> modal.Function:
    return modal.Function.from_name("works", name)


def lines(file: Path) -> list[str]:
    return file.read_text().split("\n")[:-1] if file.exists() else []


class TestDeploying:
    def test_the_definitions_are_those_the_client_sent(self, cloud: Offline) -> None:
        """Schedules, GPUs, limits, methods and images can be asserted."""
        found = cloud.functions("works")
        assert cloud.apps() == ["works"]
        assert found["tick"].schedule.cron.timezone == "Europe/Berlin"
        assert cloud.gpus("works", "tick") == ["T4:1", "A10:2"]
        assert found["flaky"].retry_policy.retries == 2
        assert found["slow"].timeout_secs == 1
        assert found["batch"].batch_max_size == 4
        assert found["Model.infer"] is found["Model.*"] or found["Model.infer"] == found["Model.*"]
        assert found["hint"].webhook_config.type
        assert "ENV COLOUR='deep blue'" in cloud.image_commands("works", "tick")
        assert cloud.image_commands("works", "tick")[0].startswith("FROM python:3.11")
        assert cloud.mounted_files("works", "tick") == ["/root" + "/works_app.py"]

    def test_a_missing_secret_stops_the_deploy(self, cloud: Offline, tmp_path: Path) -> None:
        """As on Modal: a secret that does not exist, or lacks a key, is an error at deploy."""
        source = """
        import modal
        app = modal.App("refused")
        @app.function(secrets=[modal.Secret.from_name({})])
        def f(): pass
        """
        for secret in ('"absent"', '"keys", required_keys=["OTHER"]'):
            done = deploy(cloud, tmp_path, source.replace("{}", secret), "failing")
            assert done.returncode != 0
            assert "absent" in done.stderr or "OTHER" in done.stderr
        assert "refused" not in cloud.apps()

    def test_source_that_was_not_uploaded_is_missing(
        self, cloud: Offline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A container sees what the client uploaded: without `add_local_python_source` an import
        fails, with it it does not.
        """
        (tmp_path / "beside").mkdir()
        (tmp_path / "beside" / "beside_module.py").write_text("ANSWER = 42\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "beside"))
        source = """
        import modal
        app = modal.App("NAME", image=modal.Image.debian_slim()ADDED)
        @app.function()
        def f():
            import beside_module
            return beside_module.ANSWER
        @app.function()
        def g():
            import pipeline
        """
        deploy(cloud, tmp_path, source.replace("NAME", "without").replace("ADDED", ""), "without")
        with pytest.raises(ModuleNotFoundError, match="beside_module"):
            modal.Function.from_name("without", "f").remote()
        with pytest.raises(ModuleNotFoundError, match="pipeline"):
            modal.Function.from_name("without", "g").remote()
        added = '.add_local_python_source("beside_module")'
        deploy(cloud, tmp_path, source.replace("NAME", "with").replace("ADDED", added), "with")
        assert modal.Function.from_name("with", "f").remote() == 42

    def test_a_module_that_fails_to_import_fails_its_inputs(
        self, cloud: Offline, tmp_path: Path
    ) -> None:
        """Containers that cannot start give up after a few attempts, and the reason reaches the
        caller.
        """
        deploy(cloud, tmp_path, "import modal, os\napp = modal.App('bad')\n"
               "if os.environ.get('MODAL_IS_REMOTE'): import nonsense\n"
               "@app.function()\ndef f(): pass\n", "bad")  # fmt: skip
        with pytest.raises(ModuleNotFoundError, match="nonsense"):
            modal.Function.from_name("bad", "f").remote()

    def test_a_redeploy_lets_running_inputs_finish_and_runs_queued_ones_anew(
        self, cloud: Offline, tmp_path: Path
    ) -> None:
        """Running inputs finish in old containers; queued ones run in the new version."""
        source = """
        import time, modal
        from pathlib import Path
        app = modal.App("again")
        @app.function(max_containers=1)
        def f(name):
            open("FOLDER/" + name, "w").close()
            while name == "first" and not Path("FOLDER/go").exists():
                time.sleep(0.02)
            return "VERSION"
        """
        deploy(cloud, tmp_path, source.replace("VERSION", "one"), "again")
        before = cloud.functions("again")["f"]
        f = modal.Function.from_name("again", "f")
        running = f.spawn("first")
        cloud.wait((tmp_path / "first").exists)
        queued = f.spawn("second")
        deploy(cloud, tmp_path, source.replace("VERSION", "two"), "again")
        assert cloud.functions("again")["f"].mount_ids != before.mount_ids
        (tmp_path / "go").touch()
        assert (running.get(20), queued.get(20)) == ("one", "two")

    def test_an_app_is_deployed_and_stopped_in_process(self, cloud: Offline) -> None:
        """`app.deploy()` with serialised functions, a lookup by name, and `modal app stop`."""
        app = modal.App("in-process")

        def triple(x: int) -> int:
            return 3 * x

        app.function(serialized=True, name="triple")(triple)
        app.deploy()
        assert modal.Function.from_name("in-process", "triple").remote(5) == 15
        subprocess.run(
            [sys.executable, "-m", "modal", "app", "stop", "in-process", "--yes"],
            check=True,
            capture_output=True,
        )
        assert "in-process" not in cloud.apps()
        with pytest.raises(modal.exception.NotFoundError):
            modal.Function.from_name("in-process", "triple").hydrate()

    def test_an_ephemeral_app_runs_and_ends(self, cloud: Offline) -> None:
        """`app.run()` works and leaves nothing behind."""
        app = modal.App("passing")

        def triple(x: int) -> int:
            return 3 * x

        remote = app.function(serialized=True, name="triple")(triple)
        with app.run():
            assert list(remote.map([1, 2])) == [3, 6]
        cloud.wait(lambda: all(one.app != "passing" for one in cloud.containers()))


class TestCalling:
    def test_a_schedule_fires_and_calls_on(self, cloud: Offline) -> None:
        """A fired function runs without arguments and may call others."""
        call = cloud.fire("works", "tick")
        assert modal.FunctionCall.from_id(call).get(20) == 8
        [one] = [one for one in cloud.inputs("works", "tick") if one.call_id == call]
        assert (one.status, one.executions, len(one.tasks)) == ("done", 1, 1)

    def test_remote_map_and_starmap(self, cloud: Offline) -> None:
        """Values, order, and exceptions of maps."""
        double, add = function("double"), function("add")
        assert double.remote(21) == 42
        assert list(add.map(range(60))) == list(range(60))
        assert sorted(double.map(range(12), order_outputs=False)) == [2 * x for x in range(12)]
        assert list(add.starmap([(1, 2), (3, 4)])) == [3, 7]
        found = list(double.map([1, 13, 2], return_exceptions=True))
        assert (found[0], found[2], repr(found[1])) == (2, 4, "ValueError('unlucky')")
        with pytest.raises(ValueError, match="unlucky"):
            list(double.map([1, 13]))

    def test_spawned_calls_are_found_by_id(self, cloud: Offline, folder: Path) -> None:
        """`.spawn` returns at once; the id is known inside the function and leads to the result."""
        spawned = function("add").spawn(40, b=2)
        assert modal.FunctionCall.from_id(spawned.object_id).get(timeout=20) == 42
        assert any(spawned.object_id in line for line in lines(folder / "added"))
        assert [node.function_name for node in spawned.get_call_graph()] == ["add"]

    def test_a_result_that_is_late_or_unknown(self, cloud: Offline, folder: Path) -> None:
        """`get` times out while an input runs, and a cancelled call has no result."""
        spawned = function("sleepy").spawn("cancelled", 60)
        with pytest.raises(TimeoutError):
            spawned.get(timeout=0)
        cloud.wait((folder / "cancelled").exists)
        spawned.cancel()
        with pytest.raises(modal.exception.RemoteError):
            spawned.get(timeout=10)
        cloud.wait_idle(10)
        assert cloud.inputs("works", "sleepy")[-1].status == "cancelled"
        with pytest.raises(modal.exception.NotFoundError):
            modal.FunctionCall.from_id("fc-unknown").get(timeout=0)

    def test_spawn_map_submits_one_call_for_each_input(self, cloud: Offline) -> None:
        """`spawn_map` returns nothing; its inputs run."""
        before = len(cloud.inputs("works", "add"))
        assert function("add").spawn_map(range(5)) is None
        cloud.wait_idle(30)
        added = cloud.inputs("works", "add")[before:]
        assert len({one.call_id for one in added}) == 5
        assert {one.status for one in added} == {"done"}
        call = function("add").experimental_spawn_map(range(5))
        assert (call.num_inputs(), list(call.iter())) == (5, [0, 1, 2, 3, 4])

    def test_the_asynchronous_variants(self, cloud: Offline) -> None:
        """`.aio` works outside and inside of containers."""
        assert asyncio.run(function("parent").remote.aio(3)) == ([0, 2, 4], [0, 2, 4])

    def test_large_payloads_travel_as_blobs(self, cloud: Offline) -> None:
        """Arguments and results beyond the limits go through blob storage, both ways."""
        big = "x" * 3_000_000
        assert function("add").remote(big, b="y") == big + "y"
        assert function("add").spawn(big[:9000], b="").get(20) == big[:9000]

    def test_batches(self, cloud: Offline, folder: Path) -> None:
        """Single items go in and come out; the function sees lists up to its limit."""
        assert list(function("batch").map(range(8))) == [10 * x for x in range(8)]
        sizes = [int(line) for line in lines(folder / "batches")]
        assert sum(sizes) == 8
        assert max(sizes) == 4
        assert list(modal.Cls.from_name("works", "Batched")(factor=7).infer.map([1, 2, 3])) == [
            (7, 3),
            (14, 3),
            (21, 3),
        ]

    def test_classes(self, cloud: Offline, folder: Path) -> None:
        """One object serves several calls after one enter, and leaves when its container is
        stopped.
        """
        model = modal.Cls.from_name("works", "Model")()
        assert [model.infer.remote(2), model.other.remote(2), model.infer.remote(5)] == [6, 5, 15]
        assert len(lines(folder / "entered")) == 1
        assert [one.status for one in cloud.inputs("works", "Model.infer")] == ["done", "done"]
        assert modal.FunctionCall.from_id(cloud.call("works", "Model.infer", 4)).get(10) == 12
        cloud.preempt(lines(folder / "entered")[0])
        cloud.wait(lambda: lines(folder / "left") == lines(folder / "entered"))

    def test_web_endpoints(self, cloud: Offline) -> None:
        """Requests reach ASGI and WSGI applications, and answers stream back."""
        request = urllib.request.Request(
            cloud.url("works", "hint") + "/a/b?c=d", data=b"body", method="POST"
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert (answer.status, answer.headers["x-kind"]) == (202, "asgi")
            assert answer.read() == b"POST /a/b?c=d body!"
        assert function("hint").get_web_url() == cloud.url("works", "hint")
        with urllib.request.urlopen(cloud.url("works", "plain") + "/x", timeout=20) as answer:
            assert answer.read() == b"/x"


class TestSurroundings:
    def test_the_environment_is_the_image_and_the_secrets(self, cloud: Offline) -> None:
        """Nothing of the client's own environment gets in: no cloud credentials, no tokens."""
        found = function("environment").remote()
        assert (found["COLOUR"], found["TOKEN"], found["ONE"]) == ("deep blue", "t0k", "1")
        assert not [name for name in found if name.startswith(("AWS_", "TIDEMILL_", "MODAL_TOKEN"))]

    def test_volumes_and_dictionaries(self, cloud: Offline) -> None:
        """A volume keeps files between containers; a dictionary is shared."""
        assert function("volume").remote("kept") == "kept"
        assert function("volume").remote() == "kept"
        assert modal.Dict.from_name("ledger")["seen"] is True
        assert modal.Dict.from_name("ledger").put("seen", 1, skip_if_exists=True) is False


class TestFailing:
    def test_the_caller_retries_what_it_waits_for(self, cloud: Offline, folder: Path) -> None:
        """`.remote` and `.map` retry through the client; the policy bounds them."""
        assert function("flaky").remote("by-client", 3) == "at last"
        assert list(function("flaky").map(["by-map"], kwargs={"succeed_at": 2})) == ["at last"]
        with pytest.raises(RuntimeError, match="not yet"):
            function("flaky").remote("never", 9)
        assert [len(lines(folder / name)) for name in ("by-client", "by-map", "never")] == [3, 2, 3]

    def test_the_server_retries_what_was_spawned(self, cloud: Offline, folder: Path) -> None:
        """Spawned inputs are retried without a caller."""
        assert function("flaky").spawn("by-server", 3).get(20) == "at last"
        with pytest.raises(RuntimeError, match="not yet"):
            function("flaky").spawn("by-server-never", 9).get(20)
        assert len(lines(folder / "by-server-never")) == 3
        assert cloud.inputs("works", "flaky")[-1].status == "failed"

    def test_a_time_limit_kills(self, cloud: Offline) -> None:
        """An input that exceeds its time limit fails with a timeout."""
        with pytest.raises(modal.exception.FunctionTimeoutError):
            function("slow").remote()

    def test_a_crash_runs_the_same_input_again(self, cloud: Offline, folder: Path) -> None:
        """Whatever ends a container, its input runs again, a bounded number of times."""
        assert function("dies").remote("twice", 2) == "alive"
        assert cloud.inputs("works", "dies")[-1].executions == 3
        with pytest.raises(modal.exception.RemoteError, match="died too often"):
            function("dies").remote("always", 99)
        assert len(lines(folder / "always")) == 8

    @pytest.mark.parametrize("how", ["kill", "preempt"])
    def test_killed_and_preempted_inputs_run_elsewhere(
        self, cloud: Offline, folder: Path, how: str
    ) -> None:
        """The same input id runs in another container."""
        spawned = function("sleepy").spawn(how, 1.0)
        [task_id] = cloud.wait(lambda: lines(folder / how))
        getattr(cloud, how)(task_id)
        assert spawned.get(20) == "slept"
        one = cloud.inputs("works", "sleepy")[-1]
        assert (one.executions, len(set(one.tasks)), one.status) == (2, 2, "done")

    def test_faults_of_delivery(self, cloud: Offline, folder: Path) -> None:
        """Inputs can be run twice, lost, or held."""
        before = len(cloud.inputs("works", "add"))
        cloud.faults.duplicate("add")
        assert function("add").remote(77) == 77
        cloud.wait_idle(20)
        assert sum(line.startswith("77 ") for line in lines(folder / "added")) == 2
        cloud.faults.lose("add")
        lost = function("add").spawn(1)
        cloud.wait_idle(5)
        with pytest.raises(TimeoutError):
            lost.get(timeout=0)
        cloud.pause("add")
        held = function("add").spawn(5)
        cloud.wait_idle(5)
        assert [one.status for one in cloud.inputs("works", "add")[before:]] == [
            "done",
            "lost",
            "queued",
        ]
        cloud.resume("add")
        assert held.get(10) == 5

    def test_faults_of_submission(self, cloud: Offline) -> None:
        """Submissions can be refused for a while, or die half way."""
        before = len(cloud.inputs("works", "double"))
        cloud.faults.exhaust(1)
        with pytest.raises(modal.exception.ResourceExhaustedError):
            function("double").spawn(1)
        cloud.faults.exhaust(2)
        function("double").spawn_map([1, 2, 3])
        assert len(cloud.inputs("works", "double")) == before + 3
        cloud.faults.cut_submission("double", after=2)
        with pytest.raises(modal.exception.ConflictError):
            function("double").spawn_map(range(6))
        assert len(cloud.inputs("works", "double")) == before + 5
        cloud.faults.cuts.clear()

    def test_a_call_that_is_not_there_says_so(self, cloud: Offline) -> None:
        """What the stand-in lacks is an error that names it."""
        with pytest.raises(
            modal.exception.UnimplementedError, match="the offline stand-in has no QueueGetOrCreate"
        ):
            modal.Queue.from_name("none", create_if_missing=True).hydrate()
        assert cloud.problems().pop() == "the offline stand-in has no QueueGetOrCreate"
        cloud._world.problems.clear()
