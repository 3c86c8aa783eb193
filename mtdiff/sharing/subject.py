"""What is shared of a trained pipeline: its files, and everything that is known about it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdiff.errors import MTDiffError
from mtdiff.hub import fetch, load
from mtdiff.sharing.repository import Repository
from mtdiff.whole import SEAL, seal, write_text

if TYPE_CHECKING:
    from mtdiff.findings import Findings
    from mtdiff.pipelines.trained import TrainedPipeline
    from mtdiff.recipe import Recipe

CARD, RECIPE, RUN, EVALUATION = "README.md", "recipe.yaml", "run.json", "evaluation"
_TRAINED = ("policy", "backbone", "conditioning", "representation", "normalizer", "copies")
_SHAPED = ("prompts", "scheduler")  # what a measurement depends on besides


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained pipeline and what is known about it.

    Attributes:
        pipeline: ready to sample.
        folder: where it is saved; None if it is in memory alone.
        recipe: what it was trained by, or None if nobody knows.
        info: of `run.json`, without the paths of this machine; empty if nobody knows.
        findings: what evaluations of these very weights found.
        provenance: Markdown on where its training data come from.
        license: of the weights, an identifier of the Hub's, or None.
    """

    pipeline: TrainedPipeline
    folder: Path | None = None
    recipe: Recipe | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Findings] = ()
    provenance: str = ""
    license: str | None = None

    def stage(self, folder: Path, *, card: str) -> None:
        """Lay out the repository in an empty folder: never checkpoints, always safetensors.

        Args:
            folder: made if need be.
            card: the text of README.md.

        Raises:
            MTDiffError: weights in another format.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.folder is None:
            self.pipeline.save_pretrained(folder)
        else:
            shutil.copytree(
                self.folder, folder, copy_function=_link, dirs_exist_ok=True, ignore=_left_out, symlinks=False
            )
        odd = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".json", ".safetensors")]
        if odd := [path for path in odd if path.name not in (RECIPE, CARD)]:
            raise MTDiffError(
                f"{self.folder}/{odd[0].relative_to(folder)}: only safetensors, JSON and the recipe are shared; remove "
                "it"
            )
        for path in folder.rglob("*.json"):  # a pipeline that was loaded remembers where it lay
            config = json.loads(path.read_bytes())
            if config.pop("_name_or_path", None) is not None:
                _write(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
        if self.recipe is not None:
            _write(folder / RECIPE, self.recipe.to_yaml())
        if self.info:
            _write(folder / RUN, json.dumps(self.info, indent=2) + "\n")
        seal(folder)  # before what people may change there: the card, and what the evaluations found
        for found in self.findings:
            place = folder / EVALUATION / found.folder.name
            place.mkdir(parents=True)
            _write(place / "findings.json", json.dumps(found.to_dict(), indent=1))
            for task, video in found.videos.items():
                (place / f"{task}.mp4").write_bytes(video.mp4)
        _write(folder / CARD, card)


def of_source(source: str | Path | Repository, *, license: str | None = None) -> Subject:
    """Return what is known of a run, a saved pipeline's folder, or a repository.

    Raises:
        MTDiffError: there is nothing of that kind, or it is damaged.
    """
    folder = fetch(source)
    return _known(load(folder), folder, folder, license=license, measured=True)


def of_pipeline(pipeline: TrainedPipeline, *, license: str | None = None) -> Subject:
    """Return what is known of a pipeline in memory.

    If it was loaded from a run and still has its weights, it was trained by the run's recipe; if it samples as the
    run's does too, the run's evaluations measured it.
    """
    name = str(pipeline.config.get("_name_or_path") or "")
    folder = Path(name)
    if not name or not (folder / "model_index.json").is_file() or not _equal(pipeline, folder, _TRAINED):
        return Subject(pipeline=pipeline, license=license)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    settings = {key: index.get(key, default) for key, default in _plain(_settings(pipeline)).items()}
    measured = _equal(pipeline, folder, _SHAPED) and settings == _plain(_settings(pipeline))
    return _known(pipeline, folder, None, license=license, measured=measured)


def _known(
    pipeline: TrainedPipeline, folder: Path, saved: Path | None, *, license: str | None, measured: bool
) -> Subject:
    from mtdiff.data.card import OWN_SOURCES
    from mtdiff.findings import Findings
    from mtdiff.recipe import load_recipe
    from mtdiff.runs import Run

    recipe = load_recipe(folder / RECIPE) if (folder / RECIPE).is_file() else None
    run = next((Run(place) for place in (folder.parent, folder) if (place / RUN).is_file()), None)
    info = run.info if run else {}
    places = sorted((run.folder / EVALUATION).glob("*/findings.json")) if run and measured else []
    found = [Findings.load(path.parent) for path in places]
    # Weights of others, pulled or begun with, have a license of theirs.
    mine = run is not None and run.folder == folder.parent and "init" not in info
    collected = mine and recipe is not None and recipe.get("data.name") in OWN_SOURCES
    return Subject(
        pipeline=pipeline,
        folder=saved,
        recipe=recipe,
        info=public(info),
        findings=[one for one in found if one is not None],
        provenance=_provenance(info),
        license=license or ("mit" if collected else None),
    )


def public(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return `run.json` without paths of this machine."""
    kept = json.loads(json.dumps(dict(info)))
    kept.get("data", {}).pop("folder", None)
    source = kept.get("init", {}).get("source", "")
    if source and Path(source).exists():
        kept["init"]["source"] = Path(source).name
    return kept


def _provenance(info: Mapping[str, Any]) -> str:
    """What the card of the training data says about where they come from, if they are still there."""
    folder = (info.get("data") or {}).get("folder")
    card = Path(folder) / CARD if folder else None
    if card is None or not card.is_file():
        return ""
    found = re.search(r"^## Where it comes from\n+(.*?)(?=^## |\Z)", card.read_text(encoding="utf-8"), re.M | re.S)
    return found[1].strip() if found else ""


def _settings(pipeline: TrainedPipeline) -> dict[str, Any]:
    return {name: pipeline.config[name] for name in pipeline.settings()}


def _equal(pipeline: TrainedPipeline, folder: Path, names: Sequence[str]) -> bool:
    """Whether parts are those that are saved in a folder."""
    import torch
    from safetensors.torch import load_file

    for name in names:
        part = pipeline.components.get(name)
        if part is None:  # no such part, or none of it: then none may be saved either
            if (folder / name).is_dir():
                return False
            continue
        configs = [folder / name / file for file in ("config.json", "scheduler_config.json")]
        texts = [path.read_text(encoding="utf-8") for path in configs if path.is_file()]
        saved: dict[str, Any] = json.loads(texts[0]) if texts else {}
        mine = _plain(dict(part.config))
        if saved.get("_class_name") != type(part).__name__ or _open(saved) != _open(mine):
            return False
        if isinstance(part, torch.nn.Module):
            files = (folder / name).glob("*.safetensors")
            there = {key: value for file in files for key, value in load_file(file).items()}
            here = part.state_dict()
            if there.keys() != here.keys() or any(not torch.equal(here[k].cpu(), there[k]) for k in here):
                return False
    return True


def _open(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _plain(values: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(dict(values), default=list))


def _left_out(folder: str, names: list[str]) -> set[str]:
    """What stays here: checksums of before, hidden files, a card, what is half written."""
    return {name for name in names if name in (SEAL, CARD) or name.startswith(".") or name.endswith(".partial")}


def _link(source: str, target: str) -> str:
    """Copy without copying, where the disk can."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
    return target


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # it may be a link to the original
    write_text(path, text)
