"""The command line: one function per verb.

A verb returns what `--json` prints, and prints for people through `mtdiff.terminal`. With `--json` stdout
carries exactly one JSON document; whatever else would be written there goes to stderr. Nothing heavy is
imported at the top, so that `mtdiff --help` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mtdiff import cli_ablate, cli_augment, cli_finetune, cli_prompt, cli_push, cli_synthesize
from mtdiff.documents import describe
from mtdiff.environments.processes import available_cores
from mtdiff.errors import MTDiffError, choices
from mtdiff.verbs import JsonOption, OutputOption, RevisionOption, TrustOption, WorkersOption, verb_of

app = typer.Typer(
    name="mtdiff",
    help="Diffusion models for offline RL: a recipe names parts, and the parts become a pipeline.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help fits 80 columns and pipes
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
verb = verb_of(app)

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A .yaml file, a shipped recipe's name, or hub:user/name.")
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes, in YAML, such as: backbone.width=128 sampling.scheduler=ddpm"),
]


def main() -> None:
    """Run the command line."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # `imports:` finds modules beside the user, as under `python -m`
    # Without torchvision, transformers warns at every start about image models that nobody here asks for.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # One core is left to everything else. Where cores are shared, torch's threads wait for each other instead of
    # working: with one busy neighbour on two cores, two threads took 2 to 10 times as long as one.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() - 1)))
    app()


@verb
def parts(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A part, a kind of parts, or a section of settings.")
    ] = None,
    imports: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="A module that registers parts of its own; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> Any:
    """List the parts that recipes can name, or the arguments of one."""
    from mtdiff.recipe import SECTIONS, SettingsSection
    from mtdiff.recipe.check import import_modules
    from mtdiff.recipe.places import InvalidRecipe
    from mtdiff.registry import REGISTRIES
    from mtdiff.terminal import print_part, print_parts

    if problems := import_modules(dict.fromkeys(imports or []), allow=True):
        raise InvalidRecipe(problems)
    settings = {key: section for key, section in SECTIONS.items() if isinstance(section, SettingsSection)}
    chosen = {kind: r for kind, r in REGISTRIES.items() if name in (None, kind, r.kind)}
    if chosen:
        found = {kind: [registry[part] for part in registry] for kind, registry in chosen.items()}
        if not as_json:
            print_parts(found, settings)
        return {kind: {part.name: describe(part) for part in members} for kind, members in found.items()}
    matches = [registry[name] for registry in REGISTRIES.values() if name and name in registry]
    matches += [section.part(key) for key, section in settings.items() if key == name]
    if not matches:
        words = [*REGISTRIES, *settings, *(part for registry in REGISTRIES.values() for part in registry)]
        raise MTDiffError(choices("part", name, dict.fromkeys(words)))
    if not as_json:
        for part in matches:
            print_part(part)
    return [{"kind": part.kind, "name": part.name, **describe(part)} for part in matches]


@verb
def check(recipe: RecipeArgument, overrides: OverridesArgument = None, as_json: JsonOption = False) -> Any:
    """Check a recipe, and show every value and where it comes from.

    Lists everything that is wrong at once, each with file and line.
    """
    from mtdiff.sharing.stored import any_recipe
    from mtdiff.terminal import print_recipe

    loaded = any_recipe(recipe, overrides or [])
    if not as_json:
        print_recipe(loaded)
    return {
        "name": loaded.name,
        "path": str(loaded.path) if loaded.path else None,
        "files": [str(file) for file in loaded.files],
        "hash": loaded.hash(),
        "values": loaded.values,
        "origins": {key: loaded.origin(key) for key, _ in loaded.items()},
        "vary": loaded.vary,
    }


@verb
def schema(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write here instead of to stdout.")] = None,
    as_json: JsonOption = False,
) -> Any:
    """Print the JSON Schema of recipes, for editors.

    In an editor with yaml-language-server, begin a recipe with `# yaml-language-server: $schema=FILE`.
    """
    from mtdiff.recipe import json_schema
    from mtdiff.whole import write_text

    document = json_schema()
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if out is None:
        if not as_json:
            sys.stdout.write(text)
        return document
    write_text(out, text)
    print(f"wrote {out}. First line of a recipe: # yaml-language-server: $schema={out}")
    return {"path": str(out)}


@verb
def collect(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write here, not below --output.")] = None,
    output: OutputOption = Path("outputs"),
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> Any:
    """Collect a recipe's trajectories and prompts, or read others'.

    Finished shards are kept when it is interrupted; the same command goes on from there.
    """
    from mtdiff.sharing.stored import any_recipe

    loaded = any_recipe(recipe, overrides or [])
    from mtdiff.runs import collect_data
    from mtdiff.terminal import print_collected

    summary = collect_data(loaded, root=output, folder=out, workers=workers)
    if not as_json:
        print_collected(summary)
    return summary


@verb
def train(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw the run's folder away first.")] = False,
    init: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Begin with the weights of a run, pipeline or repository.")
    ] = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    output: OutputOption = Path("outputs"),
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> Any:
    """Train a recipe, after collecting its data if they are not there.

    Equal work is recognised: a recipe that was trained before is not trained again.
    hub:user/name trains the recipe again that a repository holds, and says what differs from then. A --revision is
    that of --init if there is one; user/name@REV names any.
    For several processes or GPUs: accelerate launch -m mtdiff train RECIPE
    """
    from mtdiff.hub import given
    from mtdiff.sharing.stored import any_recipe

    trust: Any = {"trust_remote_code": trust_remote_code}
    # A mistake is told before torch is loaded.
    loaded = any_recipe(recipe, overrides or [], revision=None if init else revision, **trust)
    begin = given(init, revision=revision, **trust) if init else None
    from mtdiff.runs import train as train_recipe
    from mtdiff.terminal import print_trained

    run = train_recipe(loaded, root=output, resume=resume, restart=restart, workers=workers, init=begin)
    kind = loaded.get("pipeline")
    document = {"run": str(run.folder), "pipeline": str(run.pipeline), "kind": kind, "reused": run.reused, **run.info}
    if not as_json:
        print_trained(document)
    return document


@verb
def evaluate(
    source: Annotated[str, typer.Argument(metavar="RUN", help="A run, a saved pipeline's folder, or user/name.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes: evaluation.episodes_per_task=50 sampling.execute=2"),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Even if this was evaluated before.")] = False,
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK=FILE", help="A prompt of `mtdiff prompt make` for a task; may be repeated."),
    ] = None,
    demonstrate: Annotated[
        bool, typer.Option("--demonstrate", help="Let scripted experts record prompts for tasks that have none.")
    ] = False,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    output: OutputOption = Path("outputs"),
    as_json: JsonOption = False,
) -> Any:
    """Evaluate a planner or policy on unseen goals and write a report.

    What needs no new training can be changed: the suite, sampling and evaluation.
    """
    from mtdiff.hub import given
    from mtdiff.prompting import prompt_files
    from mtdiff.reporting import evaluate_trained, to_document
    from mtdiff.terminal import print_evaluation

    found = given(source, revision=revision, trust_remote_code=trust_remote_code)
    shown = prompt_files(prompt or [])
    options: Any = {"root": output, "again": again, "prompts": shown, "demonstrate": demonstrate}
    document = to_document(*evaluate_trained(found, overrides or [], **options))
    if not as_json:
        print_evaluation(document)
    return document


verb(cli_finetune.finetune)
verb(cli_synthesize.synthesize)
verb(cli_ablate.ablate)
verb(cli_augment.augment)
verb(cli_push.push)


@verb
def demo(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="What to demonstrate.")] = "quickstart",
    overrides: OverridesArgument = None,
    started: Annotated[float | None, typer.Option(hidden=True)] = None,
    again: Annotated[bool, typer.Option("--again", help="Train and evaluate anew.")] = False,
    output: OutputOption = Path("outputs"),
    as_json: JsonOption = False,
) -> Any:
    """Collect, train, evaluate and report a small planner.

    Only what has changed since the last time is done again.
    """
    from mtdiff.demo import demonstrate
    from mtdiff.terminal import print_demo

    document = demonstrate(recipe, overrides or [], root=output, started=started, again=again)
    if not as_json:
        print_demo(document)
    return document


app.add_typer(cli_prompt.app)
