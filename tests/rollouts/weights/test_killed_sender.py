"""A learner that is killed while it writes weights leaves half of them, and no engine takes them.
The whole run around it is in tests/e2e/test_worker_faults.py."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from conjoint.rollouts.weights.buffer import SharedBuffer
from conjoint.rollouts.weights.manifest import Manifest

SCRIPT = """
import json, sys, torch
from tests.e2e.half_sender import VERSION, KilledHalfWay

def weights(version):
    return [(f"t{i}", torch.full((64,), float(version))) for i in range(20)]

sender = KilledHalfWay(sys.argv[1])
sent = sender.send(weights(VERSION - 1), VERSION - 1)
print(json.dumps(sent.update_info()["manifest"]), flush=True)
sender.send(weights(VERSION), VERSION)
"""


def test_half_written_weights_have_another_checksum(tmp_path: Path):
    path = tmp_path / "buffer"
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert done.returncode == -signal.SIGKILL
    sent = Manifest.from_dict(json.loads(done.stdout))
    buffer = SharedBuffer(sent.path, sent.nbytes, create=False)
    firsts = [np.frombuffer(buffer.view, np.float32, 1, spec.offset)[0] for spec in sent.tensors]
    assert firsts == [3.0] * 10 + [2.0] * 10, "the test does not stop half way"
    assert buffer.checksum(sent.nbytes) != sent.checksum
