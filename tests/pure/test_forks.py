"""What gunicorn's arbiter does before it forks a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys

CODE = """
import gc, json, os, types
from server import gunicorn

gunicorn.pre_fork(types.SimpleNamespace(num_workers=3), None)
reading, writing = os.pipe()
if not os.fork():
    os.write(writing, json.dumps([gunicorn.ARBITER.n_slots, gc.get_freeze_count(), len(gc.get_objects())]).encode())
    os._exit(0)
os.wait()
print(os.read(reading, 1000).decode())
"""


def test_a_worker_does_not_look_for_garbage_in_what_the_arbiter_has_imported() -> None:
    command = [sys.executable, "-c", CODE]
    environ = {"PATH": os.environ["PATH"], "REDIS_URL": "redis://127.0.0.1:1"}
    found = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    slots, frozen, looked_at = json.loads(found.stdout)
    assert slots == 3
    assert frozen > 10_000
    assert looked_at < frozen / 100
