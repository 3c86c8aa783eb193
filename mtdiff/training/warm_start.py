"""Begin training with the weights of another pipeline instead of random ones."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mtdiff.errors import MTDiffError

if TYPE_CHECKING:
    from mtdiff.data.trajectories import TrajectoryDataset
    from mtdiff.hub import Source
    from mtdiff.pipelines.trained import TrainedPipeline

_SHOWN = 8


def warm_start(pipeline: TrainedPipeline, source: Source, dataset: TrajectoryDataset) -> dict[str, Any]:
    """Take over the weights of a trained pipeline wherever names and shapes agree.

    If states and actions are as wide, its normaliser is taken over too, whatever the recipe says: weights mean
    something only in the units that they were trained in.

    Args:
        pipeline: an untrained pipeline, changed in place.
        source: what `mtdiff.load` takes.
        dataset: what the pipeline is to be trained on; what it measured of it is measured anew in other units.

    Returns:
        `source`; `content`, a digest of its weights and normaliser; `taken`, how many tensors; `normalizer`, whether it
        was taken over; `left`, the tensors of this pipeline that keep their random values, and `unused`, those of the
        source that have no place here, both with the reason.

    Raises:
        MTDiffError: nothing of that kind there; another backbone, or one of which less than half fits.
    """
    from mtdiff.hub import load

    other = load(source)
    part = pipeline.networks[0]
    mine, theirs = type(pipeline.network).__name__, type(other.network).__name__
    if mine != theirs:
        raise MTDiffError(
            f"init: {source} has the {other.networks[0]} {theirs}, and the recipe has {mine}. Take its {part}."
        )
    ours, given = _weights(pipeline), _weights(other)
    fitting = [name for name in ours if name in given and given[name].shape == ours[name].shape]
    _refuse_little(ours, given, fitting, source)
    with torch.no_grad():
        for name in fitting:
            ours[name].copy_(given[name])
    return {
        "source": str(source),
        "content": _content(given | _numbers(other)),
        "taken": len(fitting),
        "normalizer": _take_normalizer(pipeline, other, dataset),
        "left": [_reason(name, ours, given) for name in ours if name not in fitting],
        "unused": [name for name in given if name not in ours],
    }


def describe(outcome: dict[str, Any]) -> list[str]:
    """Return what `warm_start` did as lines for people: a summary, then the tensors that were not taken over."""
    lines = [f"init: {outcome['taken']} tensors of {outcome['source']} taken over"]
    for key, words in (("left", "begin at random"), ("unused", "have no place here")):
        names = outcome[key]
        if names:
            more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"init: {len(names)} {words}: {', '.join(names[:_SHOWN])}{more}")
    if not outcome["normalizer"]:
        lines.append("init: the normaliser is that of the new data, because states or actions have other widths")
    return lines


def _weights(pipeline: TrainedPipeline) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": value
        for part in pipeline.networks
        for name, value in getattr(pipeline, part).state_dict().items()
    }


def _numbers(pipeline: TrainedPipeline) -> dict[str, Tensor]:
    return {f"normalizer.{name}": value for name, value in pipeline.normalizer.state_dict().items()}


def _refuse_little(ours: dict[str, Tensor], given: dict[str, Tensor], fitting: list[str], source: Source) -> None:
    """Refuse a start that would be hardly better than none."""
    network = {name: value.numel() for name, value in ours.items() if not name.startswith("conditioning.")}
    fit = sum(network[name] for name in fitting if name in network)
    if network and 2 * fit < sum(network.values()):
        first = next(_reason(name, ours, given) for name in network if name not in fitting)
        part, every = first.partition(".")[0], sum(network.values())
        raise MTDiffError(
            f"init: the {part} of {source} does not fit this recipe's: {fit:,} of {every:,} weights "
            f"have an equal place there. The first that has none: {first}."
        )


def _reason(name: str, ours: dict[str, Tensor], given: dict[str, Tensor]) -> str:
    if name not in given:
        return f"{name} (not there)"
    return f"{name} ({tuple(given[name].shape)} there, {tuple(ours[name].shape)} here)"


def _take_normalizer(pipeline: TrainedPipeline, other: TrainedPipeline, dataset: TrajectoryDataset) -> bool:
    mine, theirs = pipeline.normalizer.state_dict(), other.normalizer.state_dict()
    if any(mine[name].shape != theirs[name].shape for name in mine):
        return False
    pipeline.normalizer.load_state_dict(theirs)
    pipeline.normalizer.register_to_config(clip=other.normalizer.config.clip)
    if hasattr(pipeline, "representation"):
        pipeline.representation.limit(pipeline.normalizer, dataset)
    return True


def _content(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
