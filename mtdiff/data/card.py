"""The card of a trajectory dataset: what is in it and how it came about, for a reader on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from mtdiff.data.trajectories import TrajectoryDataset

_ORIGIN = {
    "expert": """\
Every episode succeeded: a scripted expert with Gaussian noise on its actions, whose size is drawn per
episode; failed episodes were recorded again with another goal, which favours easy goals and little noise.""",
    "near_optimal": """\
The competence c of the episodes of a task goes from 0 to 1 in their order, as a learner's would, and stays
at 1 for the last two sevenths. The less of it, the more an episode suffers from a constant error in its
actions, an arm that stops for good, a gripper that does the contrary, and noise.""",
    "sub_optimal": """\
The first half of a sweep of the competence c from 0 to 1, so at most 0.7. The less of it, the more an
episode suffers from a constant error in its actions, an arm that stops for good, a gripper that does the
contrary, and noise.""",
}


def write_card(parts: Mapping[str, TrajectoryDataset], *, metadata: Mapping[str, Any]) -> str:
    """Return the README.md of a dataset with the given splits."""
    main = parts["trajectories"]
    suite, source = metadata.get("suite", {}), metadata.get("data", {})
    name = suite.get("name", "own data")
    front: dict[str, Any] = {
        "pretty_name": f"{name} trajectories" + (f" ({source['quality']})" if "quality" in source else ""),
        "task_categories": ["reinforcement-learning", "robotics"],
        "tags": ["mtdiff", "offline-rl", "trajectories", *([name] if suite else [])],
        "configs": [{"config_name": "trajectories", "data_files": "data/*.parquet", "default": True}],
    }
    if source.get("name") == "collected":
        front = {"license": "mit", **front}
    if "prompts" in parts:
        front["configs"].append({"config_name": "prompts", "data_files": "prompts/*.parquet"})
    text = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {front['pretty_name']}",
        f"{len(main)} episodes of {len(main.summary())} tasks, {main.num_steps} steps; states of "
        f"{main.states.shape[1]} numbers, actions of {main.actions.shape[1]} in [-1, 1].",
    ]
    if "prompts" in parts:
        text.append(f"Also {len(parts['prompts'])} demonstrations to be shown as prompts.")
    if source.get("name") == "collected":
        text += [
            "## Where it comes from",
            _HOW.format(name=name, origin=_ORIGIN[source["quality"]]),
        ]
        if "prompts" in parts:
            text.append("Prompts are separate episodes without noise or faults, cut at success.")
    elif source:
        sections = yaml.safe_dump({"data": dict(source)}, sort_keys=False)
        text += [
            "## Where it comes from",
            f"Read from files of others, which have a license of their own:\n\n```yaml\n{sections}```",
        ]
        if clipped := sum(main.labels.get("clipped", [])):
            text.append(
                f"{clipped} numbers of the actions were beyond [-1, 1] and are clipped; the label `clipped` says where."
            )
        if not main.success.any():
            text.append("No step is marked as a success: the files do not say, or there was none.")
    text += ["## Tasks", _table(parts), "Success: at any step of the episode.", "## Columns", _COLUMNS]
    if source.get("name") == "collected":
        sections = yaml.safe_dump({"suite": dict(suite), "data": dict(source)}, sort_keys=False)
        text += [
            "## Collect it again",
            f"Save this as `recipe.yaml` and run `mtdiff collect recipe.yaml`:\n\n```yaml\n{sections}```",
        ]
    if versions := metadata.get("versions"):
        text.append("Versions: " + ", ".join(f"{key} {value}" for key, value in versions.items()) + ".")
    text += ["## Read it", _READ]
    if source.get("name") == "collected":
        text += ["## License", "MIT, like Meta-World and mtdiff." if name == "metaworld" else "MIT."]
    return "\n\n".join(part for part in text if part) + "\n"


_HOW = """\
Recorded in the simulator of the suite `{name}` with its scripted experts, a new random goal in every
episode. **It is not the replay buffer of a reinforcement learner**, such as the SAC buffers that MTDiff's
authors used: noise and faults were put into the experts' actions on purpose, and every episode's labels say
which. {origin}"""

_COLUMNS = """\
One row per episode of T steps, in physical units: `states` (T + 1), `actions` (T), `rewards` (T), `success`
(T, per step), `terminated` (the task ended it), `truncated` (it was cut off), `task`, `steps`, `return`,
`succeeded`; all other columns are labels."""

_READ = """```python
from mtdiff.data.trajectories import TrajectoryDataset
TrajectoryDataset.load("FOLDER")                    # or split="prompts"

import datasets
datasets.load_dataset("FOLDER", split="train")      # or "FOLDER", "prompts", split="train"
```"""


def _table(parts: Mapping[str, TrajectoryDataset]) -> str:
    rows = ["| task | episodes | steps | success | mean return | mean length | tries in vain | prompts |"]
    rows.append("|---|" + "---:|" * 7)
    for row in parts["trajectories"].summary():
        failed, shown = 0, 0
        for split, part in parts.items():
            own = np.flatnonzero(part.task_index == part.tasks.index(row["task"]))
            shown += len(own) * (split == "prompts")
            failed += sum(part.labels["attempt"][e] for e in own) if "attempt" in part.labels else 0
        rows.append(
            f"| {row['task']} | {row['episodes']} | {row['steps']} | {row['success']:.2f} "
            f"| {row['mean_return']:.1f} | {row['mean_length']:.0f} | {failed} | {shown} |"
        )
    return "\n".join(rows)
