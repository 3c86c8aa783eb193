"""What evaluations found, as the tables of a card and as the Hub's own records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from mtdiff.findings import Findings
    from mtdiff.sharing.subject import Subject

_SOLVER = ("scheduler", "num_inference_steps")


def best_known(findings: Sequence[Findings], sampling: Mapping[str, Any]) -> Findings | None:
    """Return the evaluation that a card tells of: sampled as the pipeline does by default, and of most episodes.

    None if there was none with its defaults; one that did not keep how it sampled is second choice.
    """
    fitting = [found for found in findings if found.sampling in (sampling, {})]
    order = [(found.sampling == sampling, len(found.result.episodes), found.folder.name) for found in fitting]
    return fitting[order.index(max(order))] if fitting else None


def results(found: Findings) -> list[EvalResult]:
    """Return a record for each task and one for their mean, as huggingface_hub writes them into a card."""
    from huggingface_hub import EvalResult

    result, suite = found.result, found.result.suite.get("name", "environment")
    counted = result.measure == "success"
    kind, words = ("success_rate", "success rate") if counted else ("mean_reward", "mean return")
    records = []
    for task, row in result.by_task.items():
        interval = row.interval if counted else result.return_interval(task)
        records.append(
            EvalResult(
                task_type="reinforcement-learning",
                task_name=task,
                dataset_type=suite,
                dataset_name=f"{suite} {task}",
                dataset_config=task,
                metric_type=kind,
                metric_name=words,
                metric_value=round(row.success if counted else row.total_reward, 4),
                metric_args={"episodes": row.episodes, **_interval(interval)},
            )
        )
    if len(records) > 1:
        mean = result.mean_success if counted else result.mean_return
        interval = result.mean_interval if counted else result.return_interval()
        records.append(
            EvalResult(
                task_type="reinforcement-learning",
                task_name="mean over tasks",
                dataset_type=suite,
                dataset_name=f"{suite}, {len(records)} tasks",
                metric_type=kind,
                metric_name=f"{words}, mean over tasks",
                metric_value=round(mean, 4),
                metric_args={"episodes": len(result.episodes), **_interval(interval)},
            )
        )
    return records


def success(found: Findings) -> str:
    """Return the table of what was found per task, with 95 % intervals, and how it was found."""
    result = found.result
    counted = result.measure == "success"
    rows = [f"| task | {'success' if counted else 'mean return'} | 95 % interval | episodes |", "|---|---:|---:|---:|"]
    for task, row in result.by_task.items():
        shown = f"{row.success:.2f}" if counted else f"{row.total_reward:.1f}"
        span = _span(row.interval if counted else result.return_interval(task), 2 if counted else 1)
        rows.append(f"| {task} | {shown} | {span} | {row.episodes} |")
    mean = f"{result.mean_success:.2f}" if counted else f"{result.mean_return:.1f}"
    span = _span(result.mean_interval if counted else result.return_interval(), 2 if counted else 1)
    rows.append(f"| **mean** | **{mean}** | {span} | {len(result.episodes)} |")
    settings = {**result.settings, **({"sampling": found.sampling} if found.sampling else {})}
    kind = "Wilson's" if counted else "a bootstrap's"
    return "\n".join(rows) + (
        f"\n\nIntervals are {kind}, over episodes of one training run: another seed of training may lie outside. "
        f"Evaluated with {_words(settings)}."
    )


def swapped_and_expert(found: Findings) -> list[str]:
    """Return what the same episodes gave otherwise, if it was asked for."""
    others = {"Told the next task instead of its own, the planner has": found.swapped}
    others["Scripted experts have"] = found.demonstrator
    lines = []
    for begin, other in others.items():
        if other is None:
            continue
        counted = other.measure == "success"
        mean = other.mean_success if counted else other.mean_return
        span = _span(other.mean_interval if counted else other.return_interval(), 2 if counted else 1)
        what = "success" if counted else "return"
        lines.append(f"{begin} a mean {what} of {mean:.{2 if counted else 1}f} ({span}) in the same episodes.")
    return lines


def by_scheduler(findings: Sequence[Findings], found: Findings | None) -> list[str]:
    """Return the table of schedulers and timesteps, if more than one was measured in the same episodes."""
    if found is None or not found.sampling:
        return []

    def setting(one: Findings) -> Any:
        rest = {key: value for key, value in one.sampling.items() if key not in _SOLVER}
        return rest, one.result.suite, one.result.settings, one.result.measure, one.hardware

    alike = {tuple(one.sampling[key] for key in _SOLVER): one for one in findings if setting(one) == setting(found)}
    if len(alike) < 2:
        return []
    counted = found.result.measure == "success"
    rows = [
        f"| scheduler | timesteps | {'success' if counted else 'mean return'} | 95 % interval | ms per plan |",
        "|---|---:|---:|---:|---:|",
    ]
    for (scheduler, steps), one in sorted(alike.items()):
        result, alone = one.result, one.latency.get("one environment")
        mean = f"{result.mean_success:.2f}" if counted else f"{result.mean_return:.1f}"
        span = _span(result.mean_interval if counted else result.return_interval(), 2 if counted else 1)
        plan = f"{1000 * alone['p50']:.1f}" if alone else "-"
        rows.append(f"| {scheduler} | {steps} | {mean} | {span} | {plan} |")
    return ["\n".join(rows), f"Mean over tasks, in the same episodes; median of a plan alone, on {found.hardware}."]


def limits(subject: Subject, found: Findings | None) -> str:
    """Return what a reader must not expect, as far as it is known."""
    recipe, pipeline = subject.recipe, subject.pipeline
    sizes = pipeline.normalizer.config
    items = [
        f"It takes states of {sizes.state_dim} numbers and gives actions of {sizes.action_dim}, both as in its "
        "training data; there are no images."
    ]
    if found is None:
        items.append("How well it does was not measured" + (" with its defaults." if subject.findings else "."))
    else:
        rows = found.result.by_task
        if found.result.measure == "success" and (weak := [task for task, row in rows.items() if row.success < 0.5]):
            items.append(f"It failed in more than half of the episodes of {', '.join(weak)}.")
        reading = pipeline.conditioning.reading
        told_by = "prompt" if reading("prompt_states") else "label" if reading("task") else ""
        items += found.notes(recipe.get("data.name") if recipe else None, told_by)
        trained = subject.info.get("data", {}).get("tasks", [])
        if missing := [task for task in trained if task not in rows]:
            items.append(f"Trained on, but not evaluated: {', '.join(missing)}.")
    items.append("Nothing was measured on a real robot, or on tasks that are not named here.")
    return "\n".join(f"- {item}" for item in items)


def _interval(interval: Sequence[float] | None) -> dict[str, list[float]]:
    return {"interval_95": [round(end, 4) for end in interval]} if interval else {}


def _span(interval: Sequence[float] | None, digits: int) -> str:
    return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}" if interval else "-"


def _words(settings: Mapping[str, Any]) -> str:
    flat = [
        (key, value)
        for name, one in settings.items()
        for key, value in (one.items() if isinstance(one, Mapping) else [(name, one)])
    ]
    hidden = ("workers", "videos", "swapped_prompt", "demonstrator")
    return ", ".join(f"{key} {value}" for key, value in flat if value is not None and key not in hidden)
