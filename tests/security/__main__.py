"""python -m tests.security: all statements that hurt the parser, or do not end, or take all memory;
each is stopped in one line.
"""

import tempfile
import time
from pathlib import Path

from tests.security.escapes import BOMBS, TOO_LONG
from tests.security.test_sql_sandbox import Ground, parse, stop

with tempfile.TemporaryDirectory() as folder:
    ground = Ground(Path(folder))
    for names, check in ((TOO_LONG, parse), (BOMBS, stop)):
        for name in names:
            began = time.monotonic()
            check(ground, name)
            print(f"{name}: stopped or answered after {time.monotonic() - began:.1f} s")
    ground.server.close()
