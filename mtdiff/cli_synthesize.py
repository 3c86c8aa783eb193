"""The verb `mtdiff synthesize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mtdiff.verbs import JsonOption, RevisionOption, TrustOption


def synthesize(
    source: Annotated[str, typer.Argument(metavar="RUN", help="A synthesizer: a run, a saved pipeline, a repository.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes: sampling.num_inference_steps=10 sampling.temperature=0.8"),
    ] = None,
    *,
    task: Annotated[list[str], typer.Option(metavar="NAME", help="A task to write data of; may be repeated.")],
    transitions: Annotated[int, typer.Option(metavar="N", help="Of every task, rounded up to whole samples.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The dataset's folder.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK=FILE", help="A prompt of `mtdiff prompt make` for a task; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise and of which prompts are shown.")] = 0,
    batch: Annotated[int, typer.Option(help="Samples at once, at most; they share a prompt.")] = 256,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> Any:
    """Write synthetic trajectories of tasks with a synthesizer.

    Finished shards are kept when it is interrupted; the same command goes on from there.
    For several processes or GPUs: accelerate launch -m mtdiff synthesize RUN ...
    """
    from mtdiff.hub import given
    from mtdiff.prompting import prompt_files
    from mtdiff.synthesis import synthesize as write
    from mtdiff.terminal import print_synthesized

    summary = write(
        given(source, revision=revision, trust_remote_code=trust_remote_code),
        tasks=task,
        transitions=transitions,
        folder=out,
        prompts=prompt_files(prompt or []),
        seed=seed,
        batch=batch,
        overrides=overrides or [],
    )
    if not as_json:
        print_synthesized(summary)
    return summary
