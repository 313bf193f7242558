"""The app that the tests of the stand-in deploy. FOLDER is where its functions leave notes."""

APP = """
import asyncio, os, signal, sys, time
from pathlib import Path
import modal

app = modal.App("works")
image = modal.Image.debian_slim().env({"COLOUR": "deep blue"})
folder = Path("FOLDER")

def note(name, text):
    with open(folder / name, "a") as file:
        file.write(f"{text}\\n")

@app.function(image=image, schedule=modal.Cron("*/5 * * * *", timezone="Europe/Berlin"), gpu=["T4",
    "A10:2"])
def tick():
    return double.remote(4)

@app.function(image=image)
def double(x):
    if x == 13:
        raise ValueError("unlucky")
    return 2 * x

@app.function(max_containers=1)
def add(a, b=0):
    note("added", f"{a} {modal.current_function_call_id()} {modal.current_input_id()}")
    return a + b

@app.function()
async def parent(n):
    calls = [await double.spawn.aio(i) for i in range(n)]
    mapped = [x async for x in double.map.aio(range(n))]
    return await asyncio.gather(*[c.get.aio() for c in calls]), mapped

@app.function(retries=modal.Retries(max_retries=2, initial_delay=0.0, backoff_coefficient=1.0))
def flaky(name, succeed_at):
    note(name, "try")
    if (folder / name).read_text().count("try") < succeed_at:
        raise RuntimeError("not yet")
    return "at last"

@app.function(timeout=1)
def slow():
    time.sleep(60)

@app.function()
def sleepy(name, seconds):
    note(name, os.environ["MODAL_TASK_ID"])
    time.sleep(seconds)
    return "slept"

@app.function()
def dies(name, times):
    note(name, "run")
    if (folder / name).read_text().count("run") <= times:
        os._exit(3)
    return "alive"

@app.function(secrets=[modal.Secret.from_name("keys", required_keys=["TOKEN"]),
    modal.Secret.from_dict({"ONE": "1"})], image=image)
def environment():
    return dict(os.environ)

@app.function(volumes={"FOLDER/volume": modal.Volume.from_name("disk", create_if_missing=True)})
def volume(text=None):
    if text:
        Path("FOLDER/volume/file").write_text(text)
    modal.Dict.from_name("ledger", create_if_missing=True)["seen"] = True
    return Path("FOLDER/volume/file").read_text()

@app.function()
@modal.batched(max_batch_size=4, wait_ms=150)
def batch(xs):
    note("batches", len(xs))
    return [x * 10 for x in xs]

@app.cls(max_containers=1)
class Model:
    @modal.enter()
    def enter(self):
        self.weight = 3
        note("entered", os.environ["MODAL_TASK_ID"])

    @modal.exit()
    def leave(self):
        note("left", os.environ["MODAL_TASK_ID"])

    @modal.method()
    def infer(self, x):
        return self.weight * x

    @modal.method()
    async def other(self, x):
        return self.weight + x

@app.cls()
class Batched:
    factor: int = modal.parameter(default=1)

    @modal.batched(max_batch_size=3, wait_ms=100)
    def infer(self, xs):
        return [(self.factor * x, len(xs)) for x in xs]

@app.function()
@modal.asgi_app()
def hint():
    async def application(scope, receive, send):
        if scope["type"] != "http":
            return
        body = (await receive())["body"]
        asked = scope["query_string"].decode()
        text = f"{scope['method']} {scope['path']}?{asked} ".encode() + body
        await send({"type": "http.response.start", "status": 202, "headers": [(b"x-kind",
            b"asgi")]})
        await send({"type": "http.response.body", "body": text, "more_body": True})
        await send({"type": "http.response.body", "body": b"!"})
    return application

@app.function()
@modal.wsgi_app()
def plain():
    def application(environ, start_response):
        start_response("200 OK", [("content-type", "text/plain")])
        return [environ["PATH_INFO"].encode()]
    return application
"""
