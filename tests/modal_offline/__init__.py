"""An offline stand-in for Modal: the real client and the real container entry point, against a
server on the loopback interface.

    with Offline(tmp_path, s3_endpoint=url, aws=keys) as modal_cloud:
        subprocess.run([sys.executable, "-m", "modal", "deploy", "app.py"], env={**os.environ,
            **modal_cloud.env})
        modal_cloud.fire("app", "tick")
        modal_cloud.wait_idle()

- `offline.py`: what a test uses. `world.py`: the state, the faults, the limits.
- `rpc.py`: calls as plain methods. `catalogue.py`, `stores.py`: what is defined. `calls.py`: inputs
  and results.
- `fleet.py`: queues and containers. `box.py`: a container's files, environment and process.
- `buckets.py`, `mountpoint.py`, `s3.py`: CloudBucketMounts. `web.py`: blobs and web endpoints.

A container is a process of the same interpreter. It sees installed packages, what the client
uploaded, and nothing of the client's environment. Image build commands are recorded, and of them
only ENV and copied local files take effect. A container says who it is by a header
(MODAL_OVERRIDE_HEADERS), since FunctionGetInputs carries a function's id only.

When Modal's minor version moves:
1. Run `pytest tests/modal_offline`. A call that is new answers "the offline stand-in has no X",
   also in `problems()`.
2. Compare `modal_proto/api_pb2.pyi` of both versions for the messages named in `catalogue.py`,
   `calls.py`, `fleet.py`.
3. Read the diff of `modal/_container_entrypoint.py`, `_runtime/container_io_manager.py` (what a
   container asks and answers), `_functions.py` and `parallel_map.py` (submission, retries by the
   caller, map outputs by entry id), `runner.py` (deploying), `mount.py`, `_utils/blob_utils.py`.
4. What leans on internals: the header above, `FunctionRetryInputs` (a JWT without signature whose
   payload has `idx`), ASGI inputs (pickled scope, DATA_FORMAT_ASGI chunks), `modal._serialization`,
   `modal.client._Client._client_from_env`.
"""

from tests.modal_offline.buckets import mount_kind
from tests.modal_offline.offline import Offline

__all__ = ["Offline", "mount_kind"]
