"""The card of a trained pipeline: what was measured, and, where nothing was, that nothing was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtdiff.pipelines import AGENTS
from mtdiff.sharing.example import another_solver, use
from mtdiff.sharing.measured import best_known, by_scheduler, limits, results, success, swapped_and_expert

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

    from mtdiff.sharing.subject import Subject

_DOES = {
    "planner": (
        "Plans actions for {tasks}. It is told which task is meant {told}, sees the last states, and samples the next "
        "{horizon} actions with a diffusion model; an agent carries out the first {execute} and plans again."
    ),
    "policy": (
        "Acts in {tasks}. It is told which task is meant {told}, sees the last states, and gives the next {ahead} at "
        "once, without planning."
    ),
    "synthesizer": (
        "Writes pieces of episodes, {length} transitions each, of {tasks}, with a diffusion model that is told which "
        "task is meant {told}. What it writes is synthetic: no environment made it."
    ),
}

_CITATION = """\
```bibtex
@inproceedings{he2023diffusion,
  title     = {Diffusion Model is an Effective Planner and Data Synthesizer for Multi-Task Reinforcement Learning},
  author    = {He, Haoran and Bai, Chenjia and Xu, Kang and Yang, Zhuoran and Zhang, Weinan and Wang, Dong and
               Zhao, Bin and Li, Xuelong},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023},
  url       = {https://arxiv.org/abs/2305.18459}
}
```

The method is theirs; this is a reimplementation, `mtdiff`, and not their weights."""


def model_card(subject: Subject, name: str) -> str:
    """Return the README.md of a repository.

    Args:
        subject: what is shared.
        name: "user/name".
    """
    from huggingface_hub import ModelCard

    found = best_known(subject.findings, subject.pipeline.sampling)
    parts = [
        f"# {name.rpartition('/')[2]}",
        _does(subject),
        *_section("Use", _use(subject, name)),
        *_section("Success", [success(found), *swapped_and_expert(found), *_films(found, name)] if found else [_NONE]),
        *_section("Speed", _speed(found)),
        *_section("Schedulers and timesteps", by_scheduler(subject.findings, found)),
        *_section("Parts", [_parts(subject)]),
        *_section("Training", _training(subject)),
        *_section("Limits", [limits(subject, found)]),
        *_section("Reproduce", _reproduce(subject, name)),
        *_section("License", [_license(subject)]),
        *_section("Citation", [_CITATION]),
    ]
    card = ModelCard(f"---\n{metadata(subject, name).to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")
    return str(card)


_NONE = "**Not measured.** No evaluation of these weights was at hand when they were pushed."


def metadata(subject: Subject, name: str) -> ModelCardData:
    """Return what the Hub reads: library, tags, data, and every measured result with its interval."""
    from huggingface_hub import ModelCardData

    found = best_known(subject.findings, subject.pipeline.sampling)
    recipe, suite = subject.recipe, subject.pipeline.config.suite or {}
    source = recipe.get("data") if recipe else {}
    datasets = [source["repo"]] if source.get("name") == "hub" else None
    kind = subject.pipeline.kind
    tags = ["mtdiff", *(["diffusion"] * (kind != "policy")), "offline-rl", "multi-task", kind, suite.get("name")]
    measured = results(found) if found else None
    return ModelCardData(
        library_name="mtdiff",
        pipeline_tag="reinforcement-learning",
        license=subject.license,
        tags=[tag for tag in dict.fromkeys(tags) if tag],
        datasets=datasets,
        metrics=sorted({result.metric_type for result in measured}) if measured else None,
        model_name=name.rpartition("/")[2] if measured else None,
        eval_results=measured,
    )


def _section(title: str, parts: Sequence[str]) -> list[str]:
    return [f"## {title}", *parts] if any(parts) else []


def _does(subject: Subject) -> str:
    pipeline = subject.pipeline
    reading = pipeline.conditioning.reading
    told = "by its number" if reading("task") else "by nothing but the states it sees"
    if prompt := reading("prompt_states"):
        told = f"by {prompt.length} steps of a demonstration"
    tasks = subject.info.get("data", {}).get("tasks") or list(pipeline.prompts)
    horizon = (pipeline.policy if pipeline.kind == "policy" else pipeline.representation).horizon
    return _DOES[pipeline.kind].format(
        tasks=f"{len(tasks)} tasks ({', '.join(tasks)})" if len(tasks) != 1 else f"one task ({tasks[0]})",
        told=told,
        horizon=horizon,
        ahead="action" if horizon == 1 else f"{horizon} actions",
        length=getattr(pipeline, "transitions", None),
        execute=pipeline.config.get("execute"),
    )


def _use(subject: Subject, name: str) -> list[str]:
    acts, samples = subject.pipeline.kind in AGENTS, subject.pipeline.kind != "policy"
    command = f"mtdiff evaluate {name}" if acts else f"mtdiff synthesize {name} --task TASK --transitions N --out DIR"
    return [
        f"```python\n{use(subject.pipeline, name)}```",
        *([f"Another solver, in two lines; the weights are the same:\n\n```python\n{another_solver()}```"] * samples),
        f"On the command line: `{command}`. The folder is a `diffusers` pipeline, so that "
        "`DiffusionPipeline.from_pretrained` loads it too after `import mtdiff.pipelines`.",
    ]


def _films(found: Any, name: str) -> list[str]:
    from huggingface_hub import constants

    where = f"{constants.ENDPOINT}/{name}/resolve/main/evaluation/{found.folder.name}"
    films = [
        f'<figure><video controls muted width="240" src="{where}/{task}.mp4"></video>'
        f"<figcaption>{task}: {'solved' if video.success else 'not solved'}</figcaption></figure>"
        for task, video in found.videos.items()
    ]
    return ["\n".join(["The first episode of each task, solved or not:\n", *films])] if films else []


def _speed(found: Any) -> list[str]:
    rows = [(words, numbers) for words, numbers in (found.latency.items() if found else ()) if numbers]
    if not rows:
        return []
    lines = ["| plan | environments at once | median | 95 % of plans within |", "|---|---:|---:|---:|"]
    for words, numbers in rows:
        p50, p95 = 1000 * numbers["p50"], 1000 * numbers["p95"]
        lines.append(f"| {words} | {numbers['batch']:.0f} | {p50:.1f} ms | {p95:.1f} ms |")
    torch = found.versions.get("torch", "unknown")
    return ["\n".join(lines), f"Measured on {found.hardware}, with PyTorch {torch}."]


def _parts(subject: Subject) -> str:
    rows = ["| part | what it is | numbers in it |", "|---|---|---:|"]
    for name, part in subject.pipeline.components.items():
        if part is None:
            continue
        weights = sum(p.numel() for p in part.parameters()) if hasattr(part, "parameters") else 0
        what = f"`{type(part).__name__}`"
        if name == "conditioning":
            roles = [(role, type(part.encoder(role)).__name__) for role in part.encoders]
            what += ": " + ", ".join(f"{role} by `{kind}`" for role, kind in roles)
        rows.append(f"| {name} | {what} | {f'{weights:,}' if weights else '-'} |")
    settings = ", ".join(f"{key} {value}" for key, value in subject.pipeline.sampling.items() if value is not None)
    verb = "acts" if subject.pipeline.kind == "policy" else "samples"
    return "\n".join(rows) + f"\n\nIt {verb} with: {settings}."


def _training(subject: Subject) -> list[str]:
    info, recipe = subject.info, subject.recipe
    if not info:
        return ["Nothing is known of how it was trained: it was pushed without its run."]
    data = info["data"]
    text = [
        f"Trained for {info['updates']:,} updates in {info['seconds'] / 60:.1f} min on {info['hardware']}, on "
        f"{data['episodes']:,} episodes ({data['steps']:,} steps) of {len(data['tasks'])} tasks."
    ]
    if "init" in info:
        text.append(f"It began with weights of `{info['init'].get('source', 'another pipeline')}`.")
    if subject.provenance:
        text.append(f"**Data.** {subject.provenance}")
    elif recipe is not None:
        text.append(f"**Data.** `{_inline(recipe.get('data'))}`; no more is known of them here.")
    return text


def _reproduce(subject: Subject, name: str) -> list[str]:
    info, recipe = subject.info, subject.recipe
    if recipe is None:
        return []
    data = recipe.get("data")
    where = " data.path=FOLDER" if "path" in data else ""
    again = f"mtdiff train hub:{name}{where}    # the stored recipe again; says what differs here"
    commands = [f"mtdiff train RECIPE --init {name}    # another recipe, from these weights"]
    text = []
    if data["name"] == "given":
        text.append("Its data were handed over by a program, and are not part of the recipe, `recipe.yaml`.")
    else:
        commands.insert(0, again)
    text.append("```bash\n" + "\n".join(commands) + "\n```")
    if info:
        made = {"recipe": info["hash"], "data": info["data"]["fingerprint"][:12], **info["versions"]}
        made |= {"code of mtdiff": info["code"]} if "code" in info else {}
        text.append("Made with: " + ", ".join(f"{key} {value}" for key, value in made.items()) + ".")
    return text


def _license(subject: Subject) -> str:
    if subject.license is None:
        return "None is stated: the weights follow from data, or from weights, of others, whose license decides."
    return f"`{subject.license}`, for these weights."


def _inline(values: Mapping[str, Any]) -> str:
    inner = ", ".join(f"{key}: {value}" for key, value in values.items() if value is not None)
    return "{" + inner + "}"
