"""The card of a trajectory dataset: what is in it and how it came about, for a reader on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from mtdiff.data.split_summary import SplitSummary

OWN_SOURCES = {"collected": "scripted experts", "acted": "what a recipe had learnt after few updates"}
"""Sources that are recorded here, so that the data have no license of others, and what acted."""

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


def write_card(parts: Mapping[str, SplitSummary], *, metadata: Mapping[str, Any]) -> str:
    """Return the README.md of a dataset with the given splits."""
    main = parts["trajectories"]
    suite, source = metadata.get("suite", {}), metadata.get("data", {})
    quality = source.get("quality")
    name, synthetic = suite.get("name", "own data"), source.get("name") == "synthesized"
    front: dict[str, Any] = {
        "pretty_name": f"{name} trajectories" + (f" ({quality})" if quality else "") + " (synthetic)" * synthetic,
        "task_categories": ["reinforcement-learning", "robotics"],
        "tags": ["mtdiff", "offline-rl", "trajectories", *["synthetic"] * synthetic, *([name] if suite else [])],
        "configs": [{"config_name": "trajectories", "data_files": "data/*.parquet", "default": True}],
    }
    if source.get("name") in OWN_SOURCES:
        front = {"license": "mit", **front}
    if "prompts" in parts:
        front["configs"].append({"config_name": "prompts", "data_files": "prompts/*.parquet"})
    text = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {front['pretty_name']}",
        f"{main.episodes} episodes of {len(main.rows)} tasks, {main.steps} steps; states of "
        f"{main.state_dim} numbers, actions of {main.action_dim} in [-1, 1].",
    ]
    if "prompts" in parts:
        text.append(f"Also {parts['prompts'].episodes} demonstrations to be shown as prompts.")
    if source.get("name") in OWN_SOURCES:
        text += [
            "## Where it comes from",
            _HOW.format(name=name, origin=_ORIGIN[source["quality"]]) if quality else _ACTED.format(**source),
        ]
        if "prompts" in parts:
            text.append("Prompts are separate episodes without noise or faults, cut at success.")
    elif synthetic:
        text += _synthetic(source)
    elif source:
        sections = yaml.safe_dump({"data": dict(source)}, sort_keys=False)
        text += [
            "## Where it comes from",
            f"Read from files of others, which have a license of their own:\n\n```yaml\n{sections}```",
        ]
        if main.clipped:
            text.append(
                f"{main.clipped} numbers of the actions were beyond [-1, 1] and are clipped; the label `clipped` says "
                "where."
            )
        if not main.succeeded:
            text.append("No step is marked as a success: the files do not say, or there was none.")
    success = "Success is not synthesized: no step says it." if synthetic else "Success: at any step of the episode."
    text += ["## Tasks", _table(parts, synthetic=synthetic), success, "## Columns", _COLUMNS]
    if source.get("name") in OWN_SOURCES:
        sections = yaml.safe_dump({"suite": dict(suite), "data": dict(source)}, sort_keys=False)
        text += [
            "## Collect it again",
            f"Save this as `recipe.yaml` and run `mtdiff collect recipe.yaml`:\n\n```yaml\n{sections}```",
        ]
    if versions := metadata.get("versions"):
        text.append("Versions: " + ", ".join(f"{key} {value}" for key, value in versions.items()) + ".")
    text += ["## Read it", _READ]
    if source.get("name") in OWN_SOURCES:
        text += ["## License", "MIT, like Meta-World and mtdiff." if name == "metaworld" else "MIT."]
    return "\n\n".join(part for part in text if part) + "\n"


_HOW = """\
Recorded in the simulator of the suite `{name}` with its scripted experts, a new random goal in every
episode. **It is not the replay buffer of a reinforcement learner**, such as the SAC buffers that MTDiff's
authors used: noise and faults were put into the experts' actions on purpose, and every episode's labels say
which. {origin}"""

_ACTED = """\
Recorded in the simulator with what the recipe `{recipe}` had learnt after {updates} updates, each in as many
episodes of a task, in that order, and noise of standard deviation {noise} on every action; a new random goal in every
episode. **It is not the replay buffer of a reinforcement learner**, such as the SAC buffers that MTDiff's
authors used."""

_SYNTHETIC = """\
**These data are synthetic: no environment made them.** A diffusion model, the synthesizer `{name}`, wrote states,
actions and rewards of {transitions} transitions or a few more for every task. They obey the environment only as far as
the model does; nothing here was checked against it. An episode is a piece of one: it begins anywhere, is cut off after
a few steps, and does not say whether the task was solved."""

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


def _synthetic(source: Mapping[str, Any]) -> list[str]:
    """How data were synthesized, and how to do it again."""
    generator, prompts = source["generator"], source["prompts"]
    told = "No prompt was shown: the synthesizer is told the task by other means."
    if prompts:
        rows = [f"| {t} | {p['count']} | {p['from']} | `{p['digest'][:16]}` |" for t, p in prompts.items()]
        table = "\n".join(["| task | prompts | from | digest |", "|---|---:|---|---|", *rows])
        told = f"Shown as prompts, of which the label `prompt` is the number:\n\n{table}"
    made = {"generator": dict(generator), "seed": source["seed"], "sampling": dict(source["sampling"])}
    named = " ".join(f"--task {task}" for task in source["tasks"])
    files = "".join(f" --prompt {task}=FILE" for task, p in prompts.items() if p["from"] == "files")
    command = f"mtdiff synthesize SOURCE {named} --transitions {source['transitions']} --seed {source['seed']}{files}"
    return [
        "## Where it comes from",
        _SYNTHETIC.format(name=generator["name"], transitions=source["transitions"]),
        f"```yaml\n{yaml.safe_dump(made, sort_keys=False)}```",
        "`recipe` is the hash of the recipe that it was trained with, `content` a digest of its weights.",
        told,
        f"With the same synthesizer and the same `sampling`:\n\n```bash\n{command} --out FOLDER\n```",
    ]


def _table(parts: Mapping[str, SplitSummary], *, synthetic: bool) -> str:
    columns = ["episodes", "steps", "success", "mean return", "mean length", "tries in vain", "prompts"]
    if synthetic:
        columns = ["episodes", "steps", "mean return", "mean length"]
    prompts = {row["task"]: row["episodes"] for row in parts["prompts"].rows} if "prompts" in parts else {}
    rows = [f"| task | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for row in parts["trajectories"].rows:
        cells = {
            "episodes": str(row["episodes"]),
            "steps": str(row["steps"]),
            "success": f"{row['success']:.2f}",
            "mean return": f"{row['mean_return']:.1f}",
            "mean length": f"{row['mean_length']:.0f}",
            "tries in vain": str(sum(part.retries.get(row["task"], 0) for part in parts.values())),
            "prompts": str(prompts.get(row["task"], 0)),
        }
        rows.append(f"| {row['task']} | {' | '.join(cells[column] for column in columns)} |")
    return "\n".join(rows)
