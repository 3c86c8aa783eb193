"""What an evaluation of a pipeline found, kept in a folder so that it is not done twice."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtdiff.data.card import OWN_SOURCES
from mtdiff.errors import DataError
from mtdiff.evaluation import EvaluationResult, Video
from mtdiff.whole import beside, writing


@dataclass(kw_only=True)
class Findings:
    """Everything an evaluation of a pipeline found. Written to and read from `folder`.

    Attributes:
        folder: where it is kept.
        result: success with each task's own prompt.
        swapped: success with the next task's prompt, if it was asked for.
        others: further results by label, such as that of copying the prompt's path.
        drawings: maps with plans on them by task, as SVG.
        demonstrator: success of the scripted experts on the same episodes, if it was asked for and there are any.
        latency: percentiles of one plan for one environment, and of the plans of the evaluation.
        videos: films by task.
        no_video_reason: why there are none.
        sampling: how the planner sampled: scheduler, timesteps, guidance and the rest; empty if it was not kept.
        versions: of the packages it was measured with.
        hardware: that it was measured on.
    """

    folder: Path
    result: EvaluationResult
    swapped: EvaluationResult | None
    demonstrator: EvaluationResult | None
    latency: dict[str, dict[str, float] | None]
    versions: dict[str, str]
    hardware: str
    no_video_reason: str | None = None
    videos: dict[str, Video] = field(default_factory=dict)
    others: dict[str, EvaluationResult] = field(default_factory=dict)
    drawings: dict[str, str] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; films are named, not contained."""
        return {
            "result": self.result.to_dict(),
            "swapped": self.swapped.to_dict() if self.swapped else None,
            "demonstrator": self.demonstrator.to_dict() if self.demonstrator else None,
            **({"others": {label: other.to_dict() for label, other in self.others.items()}} if self.others else {}),
            **({"drawings": self.drawings} if self.drawings else {}),
            "latency": self.latency,
            "versions": self.versions,
            "hardware": self.hardware,
            "no_video_reason": self.no_video_reason,
            "sampling": self.sampling,
            "videos": {
                task: {"success": v.success, "steps": v.steps, "total_reward": v.total_reward}
                for task, v in self.videos.items()
            },
        }

    def save(self) -> None:
        """Write the films, then the numbers: a folder with numbers is complete.

        Raises:
            StorageFault: a file could not be written; what was found before is still there.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        numbers = self.folder / "findings.json"
        with contextlib.ExitStack() as stack:  # all is written before any takes its place, the numbers last
            stack.enter_context(beside(numbers)).write_text(json.dumps(self.to_dict(), indent=1))
            for task, video in self.videos.items():
                stack.enter_context(beside(self.folder / f"{task}.mp4")).write_bytes(video.mp4)
            numbers.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> Findings | None:
        """Read it again, or None if the folder holds nothing complete.

        Raises:
            DataError: its numbers are damaged.
        """
        path = folder / "findings.json"
        if not path.is_file():
            return None
        try:
            return cls._read(folder, json.loads(path.read_text(encoding="utf-8")))
        except (DataError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: is damaged ({type(error).__name__}: {error}). Measure again with --again."
            ) from error

    @classmethod
    def _read(cls, folder: Path, found: dict[str, Any]) -> Findings | None:
        films = {task: folder / f"{task}.mp4" for task in found["videos"]}
        if not all(film.is_file() for film in films.values()):
            return None
        results = {
            name: EvaluationResult.from_dict(found[name]) if found[name] else None
            for name in ("result", "swapped", "demonstrator")
        }
        if results["result"] is None:
            raise DataError("it has no result")
        return cls(
            folder=folder,
            result=results["result"],
            swapped=results["swapped"],
            demonstrator=results["demonstrator"],
            others={label: EvaluationResult.from_dict(other) for label, other in found.get("others", {}).items()},
            drawings=found.get("drawings", {}),
            latency=found["latency"],
            versions=found["versions"],
            hardware=found["hardware"],
            no_video_reason=found["no_video_reason"],
            sampling=found.get("sampling") or {},
            videos={task: Video(mp4=films[task].read_bytes(), **found["videos"][task]) for task in films},
        )

    @property
    def random_goals(self) -> bool:
        """Whether every episode had a goal of its own, and not just a start."""
        return self.result.suite.get("name") != "gymnasium" and self.result.suite.get("goals") != "fixed"

    def notes(self, origin: str | None, told_by: str) -> list[str]:
        """What a reader must know to judge the numbers.

        Args:
            origin: the source of data that the pipeline was trained on, None if nobody knows.
            told_by: how the planner is told its task: "prompt", "label" or "".
        """
        notes = []
        if origin in OWN_SOURCES and self.random_goals:
            notes.append(
                "Every evaluation episode has a random goal that is in neither the training data nor the prompts."
            )
        else:
            notes.append("Every evaluation episode follows from a seed that is used for evaluation only.")
        if self.swapped:
            told = {"label": "told the next task", "map": "shown the next task's map"}.get(
                told_by, "shown the next task's demonstration"
            )
            notes.append(
                f"Swapped {told_by or 'prompt'}: the same episodes while the planner is {told}. "
                f"Where {self.result.measure} stays high, the state alone gives the task away."
            )
        if origin in OWN_SOURCES:
            notes.append(
                f"The data come from {OWN_SOURCES[origin]}, not from an agent's replay buffer: "
                "the numbers do not compare with the paper's."
            )
        elif origin:
            notes.append(
                "The data were brought along, not recorded by mtdiff: it knows no more of them than their table says."
            )
        if self.result.settings["demonstrator"] and not self.demonstrator:
            notes.append("This suite has no scripted expert to compare with.")
        return notes
