"""Reading the learner's stored state without running what is in it."""

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from conjoint.envs.types import ConjointError
from conjoint.rollouts.engine.process_environment import changed_environment


@contextmanager
def tensors_only(folder: Path) -> Iterator[None]:
    """Whatever is unpickled by torch.load within the block may hold tensors, plain values and the
    three plain classes of DeepSpeed's own states. DeepSpeed asks for any object, which is to say
    for any code: torch overrules it.

    Raises ConjointError naming `folder` if a file holds anything else.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    forced = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": None}
    allowed = [LossScaler, ZeroStageEnum, fragment_address]
    try:
        with changed_environment(forced), torch.serialization.safe_globals(allowed):
            yield
    except pickle.UnpicklingError as error:
        names = re.search(r"GLOBAL (\S+)", str(error))
        raise ConjointError(
            f"the learner state in {folder} is not read: a file of it holds "
            f"{names[1] if names else 'something'} besides tensors, which could run commands; "
            f"conjoint writes no such file, so use another checkpoint, or its weights alone with "
            f"model={folder / 'hf'}"
        ) from error
