"""The processes that `accelerate launch` started together: what the first one does for all, and what all share.

Without a launcher there is one process, and everything here does what it would do anyway.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env

from mtdiff.errors import MTDiffError, TrainingFault

T = TypeVar("T")

_PATIENCE = timedelta(days=2)  # all others wait while the first process collects the data
_SHARDING = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM"}


def join() -> PartialState:
    """Join the other processes, if there are any; calls after the first return the same state.

    Raises:
        TrainingFault: a launcher asked for what does not work here.
    """
    for kind in _SHARDING:
        if parse_flag_from_env(f"ACCELERATE_USE_{kind}"):
            refuse_sharding(kind)
    fresh = not PartialState._shared_state
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=_PATIENCE)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and state.num_processes == 1:
        raise TrainingFault(
            f"{started} processes were started, but no GPU was found, so that each would do all the work alone. "
            "On CPUs, set ACCELERATE_USE_CPU=true; docs/scale.md has whole commands"
        )
    if fresh and state.num_processes > 1:
        atexit.register(state.destroy_process_group)
    return state


def refuse_sharding(kind: str) -> None:
    """Refuse accelerate's kinds of distribution that cut the weights into pieces.

    Raises:
        TrainingFault: `kind` is one of them.
    """
    if kind in _SHARDING:
        raise TrainingFault(
            f"accelerate is set up for {_SHARDING[kind]}, but weights that are cut into pieces cannot be averaged "
            "and saved here. Keep them whole on every GPU: `accelerate launch --multi_gpu`, or `accelerate config` "
            f"without {_SHARDING[kind]}"
        )


def on_main(work: Callable[[], T]) -> T:
    """Do `work` in the first process while all others wait; return its result in all of them.

    Args:
        work: what returns something that can be pickled.

    Raises:
        MTDiffError: in every process, if `work` raised one in the first.
        KeyboardInterrupt: likewise.
    """
    state = join()
    if state.num_processes == 1:
        return work()
    outcome = [attempt(work) if state.is_main_process else None]
    broadcast_object_list(outcome)
    return result_of(outcome[0])


def together(work: Callable[[], T]) -> list[T]:
    """Do `work` in every process; return all results, in the order of the processes, in all of them.

    Raises:
        MTDiffError: in every process, if `work` raised one in any.
        KeyboardInterrupt: likewise.
    """
    if join().num_processes == 1:
        return [work()]
    return [result_of(outcome) for outcome in gather_object([attempt(work)])]


def attempt(work: Callable[[], T]) -> tuple[T | None, type[BaseException] | None, str]:
    """Result, kind of error and its text, for another process to know."""
    try:
        return work(), None, ""
    except (MTDiffError, KeyboardInterrupt) as error:
        return None, type(error), str(error)


def result_of(outcome: Any) -> Any:
    """What `attempt` got, in whichever process: returned, or raised."""
    value, kind, text = outcome
    if kind is None:
        return value
    error = kind.__new__(kind)
    error.args = (text,)
    raise error


def planning_device() -> torch.device:
    """Where this process plans: on its GPU, if it has one."""
    device = join().device
    return device if device.type == "cuda" else torch.device("cpu")


def neighbours() -> int:
    """Processes on this machine that share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "0")) or join().num_processes
