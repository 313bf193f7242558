"""The deployed app on Modal as an executor.

Orders go to its functions; what they did is read from the bucket.

Three of Modal's ways of running batches meet here. `gather` (`.map`): the pass waits for all
answers. `detached` (`.spawn_map`): the pass leaves as soon as all orders are handed over; receipts
are found later. `jobs` (`.spawn`): detached too, and each call's id is kept. The fourth,
`@modal.batched`, is how deployed functions take small orders together (see
pipeline/work/worker_pools.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Literal

from pipeline.errors import ObjectNotFound, SettingsError, StateInvalid, StoreUnavailable
from pipeline.model import keys
from pipeline.model.loss import Loss
from pipeline.model.receipt import Receipt
from pipeline.model.task import Assignment
from pipeline.ports import Finished, Store
from pipeline.state import codec
from pipeline.work.orders import Answer, Order, decode_answer, encode, order_for
from pipeline.work.worker_pools import Pools

Way = Literal["gather", "detached", "jobs"]


@contextlib.contextmanager
def explained_modal(what: str, *, missing: str = "run  tidemill deploy  first") -> Iterator[None]:
    """Errors of Modal's client as errors of ours, in one line."""
    from modal import exception as modal

    try:
        yield
    except modal.AuthError as error:
        raise SettingsError(
            f"Modal refused the token: {_line(error)}; run  modal token new,  or see  tidemill"
            " doctor"
        ) from None
    except modal.NotFoundError as error:
        raise SettingsError(f"{what}: {_line(error)}; {missing}") from None
    except (modal.ConnectionError, modal.ServiceError, modal.InternalError, TimeoutError) as error:
        raise StoreUnavailable(
            f"Modal does not answer ({_line(error)}); {what} can be run again"
        ) from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


class ModalExecutor:
    """See `ports.Executor`. pools: by transform name, the deployed functions that run it.

    way: see the module. ordered: whether gathered answers come in the order of the orders.
    """

    detached = True

    def __init__(
        self,
        *,
        app: str,
        pools: Mapping[str, Pools],
        store: Store,
        parallelism: int,
        way: Way = "detached",
        ordered: bool = False,
        environment: str | None = None,
    ) -> None:
        self.owner: str = f"modal:{app}"
        self.calls: dict[str, str] = {}
        """Task to call id, where the way is `jobs`."""
        self._app = app
        self._pools = pools
        self._store = store
        self._parallelism = parallelism
        self._way = way
        self._ordered = ordered
        self._environment = environment
        self._waiting: dict[str, Assignment] = {}
        self._done: list[Finished] = []
        self._news = asyncio.Event()
        self._failure: Exception | None = None
        self._gathering: list[asyncio.Task[None]] = []

    @property
    def outstanding(self) -> int:
        """Orders whose answer is waited for; 0 unless the way is `gather`."""
        return len(self._waiting) + len(self._done)

    @property
    def parallelism(self) -> int:
        """Containers that may run at the same time."""
        return self._parallelism

    @property
    def under_way(self) -> int:
        """Inputs that running attempts are done with: not known from here."""
        return 0

    async def dispatch(self, assignments: Sequence[Assignment]) -> None:
        """Hand the attempts over.

        Raises SettingsError where the app is not deployed, StoreUnavailable where Modal is away.
        """
        by_function: dict[str, list[tuple[Assignment, str]]] = {}
        for assignment in assignments:
            order = await self._order(assignment)
            function = self._pools[assignment.task.transform].function_for(
                len(assignment.task.inputs)
            )
            by_function.setdefault(function, []).append((assignment, encode(order)))
        for function, orders in by_function.items():
            with explained_modal(f"app {self._app}"):
                await self._send(function, orders)

    async def _order(self, assignment: Assignment) -> Order:
        """An order for the attempt. What it does not hold itself is in the bucket."""
        order, body = order_for(
            assignment, keys.home(assignment.pipeline), awaited=self._way == "gather"
        )
        if body is not None:
            await self._store.put(order.stored, body)
        return order

    async def _send(self, name: str, orders: list[tuple[Assignment, str]]) -> None:
        function = self._function(name)
        await function.hydrate.aio()
        texts = [text for _, text in orders]
        if self._way == "detached":
            await function.spawn_map.aio(texts)
        elif self._way == "jobs":
            for assignment, text in orders:
                self.calls[assignment.task.id] = (await function.spawn.aio(text)).object_id
        else:
            self._begin_gathering(function, [assignment for assignment, _ in orders], texts)

    def _begin_gathering(
        self, function: Any, assignments: list[Assignment], texts: list[str]
    ) -> None:
        tasks = [assignment.task.id for assignment in assignments]
        self._waiting |= dict(zip(tasks, assignments, strict=True))
        self._gathering.append(asyncio.create_task(self._gather(function, tasks, texts)))

    def _function(self, full_name: str) -> Any:
        import modal

        name, _, method = full_name.partition(".")
        if method:
            cls = modal.Cls.from_name(self._app, name, environment_name=self._environment)
            return getattr(cls(), method)
        return modal.Function.from_name(self._app, name, environment_name=self._environment)

    # -- answers -----------------------------------------------------------------------------------

    async def _gather(self, function: Any, tasks: list[str], texts: list[str]) -> None:
        """Take the answers of one `.map`.

        Exceptions do not end it; what has no answer in the end is lost.
        """
        problem = "the container failed without an answer"
        try:
            answers: AsyncIterator[object] = function.map.aio(
                texts, order_outputs=self._ordered, return_exceptions=True
            )
            async for answer in answers:
                if isinstance(answer, BaseException):
                    problem = f"{type(answer).__name__}: {_line(answer)}"
                else:
                    await self._take(answer)
        except Exception as error:  # noqa: BLE001 - the waiting pass must hear of it, whatever it is
            self._failure = error
        self._lose(tasks, problem)
        self._news.set()

    def _lose(self, tasks: list[str], problem: str) -> None:
        for task in tasks:
            assignment = self._waiting.pop(task, None)
            if assignment is not None:
                loss = Loss(reason=problem)
                self._report(Finished(task=task, nonce=assignment.nonce, loss=loss))

    async def _take(self, text: object) -> None:
        answer = decode_answer(text)
        assignment = self._waiting.get(answer.task) if answer is not None else None
        if answer is None or assignment is None:
            return
        if answer.broken:
            self._fail(answer)
            return
        receipt, loss = None, answer.loss
        if loss is None:
            receipt, loss = await self._receipt(assignment, answer.nonce)
        del self._waiting[answer.task]
        self._report(Finished(task=answer.task, nonce=assignment.nonce, receipt=receipt, loss=loss))

    def _fail(self, answer: Answer) -> None:
        why = answer.loss.reason if answer.loss is not None else ""
        self._failure = SettingsError(f"the deployed workers cannot run this: {why}")
        self._news.set()

    async def _receipt(
        self, assignment: Assignment, nonce: str
    ) -> tuple[Receipt | None, Loss | None]:
        """The receipt that an answer speaks of: the bucket counts, not the answer."""
        home = keys.of_generation(keys.home(assignment.pipeline), assignment.task.generation)
        key = keys.receipt(home, assignment.task.id, nonce)
        try:
            return codec.decode(Receipt, (await self._store.get(key)).body, key), None
        except (ObjectNotFound, StateInvalid) as error:
            return None, Loss(reason=str(error))

    def _report(self, finished: Finished) -> None:
        self._done.append(finished)
        self._news.set()

    async def finished(self) -> list[Finished]:
        """Wait for at least one attempt to end."""
        while self._waiting and not self._done and self._failure is None:
            self._news.clear()
            await self._news.wait()
        if self._failure is not None:
            with explained_modal(f"app {self._app}"):
                raise self._failure
        done, self._done = self._done, []
        return done

    def is_gone(self, owner: str) -> bool:
        """Nobody can tell from here; deadlines do."""
        return False

    async def close(self) -> None:
        """Stop waiting. What was handed over goes on, and is settled later."""
        for gathering in self._gathering:
            gathering.cancel()


def cancel_calls(calls: Sequence[str]) -> int:
    """Cancel calls that Modal still knows; how many that were."""
    import modal

    cancelled = 0
    for call in calls:
        with contextlib.suppress(modal.exception.Error):
            modal.FunctionCall.from_id(call).cancel()
            cancelled += 1
    return cancelled
