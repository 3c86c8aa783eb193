"""What fine-tuning gained and lost: copies evaluated on their own task and on others, each measured once.

results/<hash>.json      one evaluation of one copy, see `mtdiff.studies.cells`
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtdiff.finetuning.curves import label_of
from mtdiff.studies.cells import Cell

MEASURE = "mtdiff.finetuning.study:measure"


@dataclass(frozen=True, kw_only=True)
class Copy:
    """One finished copy.

    Attributes:
        folder: where it is.
        done: what its `finetune.json` says.
    """

    folder: Path
    done: Mapping[str, Any]

    @property
    def task(self) -> str:
        """What it was fine-tuned for."""
        return self.done["task"]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of its fine-tuning."""
        return self.done["content"]["finetune"]

    @property
    def label(self) -> str:
        """Its regulariser, lambda, least noise, budget, and whether its weights are averaged."""
        told, averaged = self.settings, ", averaged" if self.settings["ema_decay"] else ""
        steps = f"{told['environment_steps'] / 1000:g}k steps"
        return f"{label_of(told)}, {told['regularizer_weight']:g}, floor {told['std_floor']:g}, {steps}{averaged}"


def copies_in(folders: Iterable[Path]) -> list[Copy]:
    """The finished copies below folders, in the order of their names."""
    found = sorted({path for folder in folders for path in Path(folder).rglob("finetune.json")})
    return [Copy(folder=path.parent, done=json.loads(path.read_text(encoding="utf-8"))) for path in found]


def cell(base: Path, copy: Copy | None, task: str, *, suite: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Cell:
    """The evaluation of a copy, or of what was pre-trained, on a task.

    Args:
        base: the pre-trained pipeline's folder.
        copy: None for the pre-trained weights.
        task: that is tried; it may be another than the copy's.
        suite: the suite as a part, its tasks left out.
        evaluation: arguments of `Evaluation`.
    """
    from mtdiff.finetuning.stages import digest_of

    content = {
        "weights": copy.folder.name if copy else digest_of(base)[:12],
        "task": task,
        "suite": dict(suite),
        "evaluation": dict(evaluation),
        "sampling": dict(copy.done["content"]["sampling"]) if copy else "pre-trained",
    }
    label = {"copy": f"{copy.task}, {copy.label}, seed {copy.settings['seed']}" if copy else "pre-trained", "on": task}
    where = {"base": str(base), "copy": str(copy.folder) if copy else None}
    return Cell(measure=MEASURE, content=content, label=label, where=where)


def measure(content: Mapping[str, Any], where: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate one cell."""
    from mtdiff.evaluation import Evaluation, evaluate
    from mtdiff.finetuning.stages import read_weights
    from mtdiff.hub import load
    from mtdiff.pipelines.agent import PlannerAgent
    from mtdiff.pipelines.copies import TaskCopies
    from mtdiff.registry import SUITES

    pipeline = load(Path(where["base"]))
    task = content["task"]
    if where["copy"]:
        settings = pipeline.settings()
        pipeline.register_to_config(**{k: v for k, v in content["sampling"].items() if k in settings})
        pipeline.register_modules(copies=TaskCopies.of({task: read_weights(Path(where["copy"]))}))
    suite = SUITES.build({**content["suite"], "tasks": [task]})
    found = evaluate(
        PlannerAgent(pipeline), suite, settings=Evaluation(**content["evaluation"]), progress=False
    ).by_task[task]
    return {
        "successes": found.successes,
        "episodes": found.episodes,
        "success": found.success,
        "interval": list(found.interval),
        "steps": found.steps,
    }


def pooled(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the same evaluation of several seeds together: mean, its interval over episodes, and each seed's rate."""
    from mtdiff.evaluation.statistics import wilson

    won, count = sum(one["successes"] for one in results), sum(one["episodes"] for one in results)
    return {
        "success": won / count,
        "interval": list(wilson(won, count)),
        "episodes": count,
        "seeds": [one["success"] for one in results],
    }
