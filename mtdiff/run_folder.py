"""A run's folder: what is in it, and how a pipeline gets there whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from mtdiff.errors import DataError
from mtdiff.recipe import Recipe, load_recipe
from mtdiff.whole import seal, take_place, writing

if TYPE_CHECKING:
    from mtdiff.pipelines.trained import TrainedPipeline

_ALWAYS = ("name", "hash", "complete", "data", "versions", "hardware")  # what run.json has
_AT_THE_END = ("updates", "seconds")


@dataclass(frozen=True)
class Run:
    """One run's folder.

    Attributes:
        folder: where everything of the run is.
        reused: whether `train` found it finished and had nothing to train.
    """

    folder: Path
    reused: bool = field(default=False, compare=False)

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return load_recipe(self.folder / "recipe.yaml")

    @property
    def info(self) -> dict[str, Any]:
        """What `run.json` says: hash, data, versions, hardware, updates, seconds, complete.

        Raises:
            DataError: it is damaged, or lacks something.
        """
        path = self.folder / "run.json"
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
            for key in (*_ALWAYS, *(_AT_THE_END if info["complete"] else ())):
                info[key]
        except (ValueError, KeyError, TypeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise DataError(f"{path}: is damaged ({what}). Train again with --restart.") from error
        return info

    @property
    def complete(self) -> bool:
        """Whether training has ended and the pipeline is saved."""
        saved = (self.pipeline / "model_index.json").is_file()  # it may have been killed while replacing it
        return saved and (self.folder / "run.json").is_file() and self.info["complete"]

    @property
    def pipeline(self) -> Path:
        """Where the trained pipeline is."""
        return self.folder / "pipeline"

    @property
    def best(self) -> Path:
        """Where the pipeline with the weights of the lowest held-out loss is, if any loss was held out."""
        return self.folder / "best"

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Rows of training's metrics."""
        from mtdiff.training.checkpoints import MetricsFile

        path = self.folder / "metrics.jsonl"
        return MetricsFile.read(path) if path.is_file() else []


def save_pipeline(run: Run, recipe: Recipe, pipeline: TrainedPipeline, *, place: Path | None = None) -> None:
    """Save a pipeline with its recipe beside it, whole or not at all; as the run's own, or in another `place`."""
    place = place or run.pipeline
    partial = run.folder / f"{place.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with writing(place, SafetensorError):
            pipeline.save_pretrained(partial)
        recipe.save(partial / "recipe.yaml")
        seal(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk has no room for half of it
        raise
    take_place(partial, place)
