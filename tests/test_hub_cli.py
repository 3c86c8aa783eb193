"""The verbs take a repository where they take a run: real commands, and a Hub of the tests' own."""

import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from fault_server import RECIPE, Server, only
from hub_client import environment
from hub_server import Hub

from mtdiff.runs import Run

PLANNER, WRITER_OF_DATA, DATA = "user/planner", "user/writer", "user/episodes"
SMALL = ("data.trajectories_per_task=3", "evaluation.episodes_per_task=2")
SYNTHESIZER = """
imports: [toy_suite]
extends: presets/synthesizer
suite: {name: toy, tasks: [towards, mirrored]}
data: {name: collected, trajectories_per_task: 3, prompts_per_task: 1, prompt_min_steps: 4}
conditioning: {task: {name: trajectory_prompt, length: 4, hidden: [8]}, history: null, return: null}
backbone: {name: residual_mlp, width: 16, num_layers: 1}
scheduler: {name: ddpm, num_train_timesteps: 20}
sampling: {num_inference_steps: 2, prompts_per_task: 1}
training: {updates: 2, batch_per_task: 2, log_every: 2, validation: 0.0, log_with: []}
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hub():
    made = Hub()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shell(hub, tmp_path_factory):
    """A working directory with a trained and evaluated planner, pushed together with its data."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "toy.yaml").write_text(RECIPE)
    (folder / "writer.yaml").write_text(SYNTHESIZER)
    server = Server(folder, **environment(hub, folder / "home"))
    done = server("train", "toy.yaml", *SMALL, "--workers", 1)
    assert done.status == 0, done.err
    run = only(folder / "outputs" / "runs").relative_to(folder)
    for verb in (
        ["evaluate", run, "evaluation.demonstrator=false"],
        ["push", run, PLANNER],
        ["push", data(folder), DATA],
    ):
        done = server(*verb)
        assert done.status == 0, done.err
    yield server
    server.close()


def data(folder):
    return only(folder / "outputs" / "data").relative_to(folder)


def document(done):
    assert done.status == 0, done.err[-3000:]
    return json.loads(done.out)


def test_push_says_what_it_did(shell, hub):
    run = only(shell.folder / "outputs" / "runs").relative_to(shell.folder)
    again = shell("push", run, PLANNER)
    files = len(hub.model(PLANNER).tree()) - 1
    assert again.out == f"{hub.url}/{PLANNER} has all {files} files as they are here; nothing was pushed\n"
    said = document(shell("push", run, "user/new", "--private", "--message", "Mine", "--license", "mit", "--json"))
    assert hub.model("user/new").private and said["commit"] == hub.model("user/new").branches["main"]
    shown = shell("push", run, "user/new", "--revision", "cc", "--license", "cc-by-4.0")
    card = hub.model("user/new").tree("cc")["README.md"].decode()
    assert re.fullmatch(
        rf"1 files sent \(0\.0 MB\), {files - 1} unchanged\n{hub.url}/user/new \(cc, \w{{12}}\)\n", shown.out
    )
    assert "license: cc-by-4.0" in card
    proposed = shell("push", run, "user/new", "--license", "cc0-1.0", "--pr")
    assert proposed.out.endswith(f"\n{hub.url}/user/new/discussions/1\n")


def test_the_card_has_what_the_evaluation_measured(shell, hub):
    card = hub.model(PLANNER).tree()["README.md"].decode()
    run = Run(only(shell.folder / "outputs" / "runs"))
    (numbers,) = run.folder.glob("evaluation/*/findings.json")
    row = json.loads(numbers.read_text())["result"]["tasks"]["towards"]
    assert f"| towards | {row['success']:.2f} |" in card
    assert f"evaluation/{numbers.parent.name}/findings.json" in hub.model(PLANNER).tree()
    assert "license: mit" in card and "**Data.** Recorded in the simulator of the suite `toy`" in card


def test_evaluate_by_name(shell, hub):
    refused = shell("evaluate", PLANNER)
    assert (refused.status, refused.said) == (
        2,
        f"{PLANNER}: its recipe would import 'toy_suite', which runs the code of that module. Nothing that is pulled "
        "runs code; if you trust it, pass trust_remote_code=True, on the command line --trust-remote-code",
    )
    run = only(shell.folder / "outputs" / "runs").relative_to(shell.folder)
    there = document(shell("evaluate", PLANNER, "--trust-remote-code", "--json"))
    here = document(shell("evaluate", run, "--json"))
    assert there["tasks"] == here["tasks"], "the same weights in the same episodes"
    assert there["report"] == "outputs/evaluations/user--planner/report.html"
    main = hub.model(PLANNER).branches["main"]
    again = document(shell("evaluate", PLANNER, "--revision", main, "--trust-remote-code", "--json"))
    assert (
        again["tasks"] == here["tasks"] and again["report"] == f"outputs/evaluations/user--planner@{main}/report.html"
    )
    with_folder = shell("evaluate", run, "--revision", "main")
    assert with_folder.said == f"{run}: is a folder here, and only a repository has revisions, got main"


def test_train_again_what_a_repository_holds(shell, hub):
    run = Run(only(shell.folder / "outputs" / "runs"))
    trust = ("--trust-remote-code", "--workers", 1)
    same = document(shell("train", f"hub:{PLANNER}", *trust, "--json"))
    assert same["reused"] and same["hash"] == run.info["hash"], "equal work is recognised"
    done = shell("train", f"hub:{PLANNER}", "--output", "elsewhere", *trust)
    assert done.status == 0, done.err
    again = Run(only(shell.folder / "elsewhere" / "runs"))
    assert again.folder.name == run.folder.name and again.info["data"]["fingerprint"] == run.info["data"]["fingerprint"]
    name = f"toy-{run.info['hash']}"
    assert f"reproduce: {name} again, with the same recipe, data, code, versions and hardware\n" in done.err
    assert again.info["reproduces"] == {"name": "toy", "hash": run.info["hash"], "differences": []}
    weights = "pipeline/backbone/diffusion_pytorch_model.safetensors"
    assert (again.folder / weights).read_bytes() == (run.folder / weights).read_bytes()

    files = hub.model(PLANNER).tree()
    info = json.loads(files["run.json"])
    info["versions"]["torch"], info["code"] = "1.0", "0" * 12
    hub.model(PLANNER).branch("old", "main")
    unsealed = {key: value for key, value in files.items() if key != "checksums.json"}
    hub.model(PLANNER)._add("old", unsealed | {"run.json": json.dumps(info).encode()}, None, "older", [])
    done = shell("train", f"hub:{PLANNER}@old", "data.trajectories_per_task=4", "--output", "third", *trust)
    assert done.status == 0, done.err
    said = done.err[done.err.index("reproduce:") :]
    here = run.info
    assert said.startswith(
        f"reproduce: {name} again; what differs:\n"
        "  recipe: data.trajectories_per_task is 4, set on the command line\n"
        f"  data: 6 episodes ({here['data']['fingerprint'][:12]}) there, 8 episodes ("
    )
    assert f"  torch: 1.0 there, {here['versions']['torch']} here\n" in said
    assert f"  code of mtdiff: 000000000000 there, {here['code']} here\n" in said


def test_other_data_and_first_weights_from_the_hub(shell, hub):
    arguments = (f"data={{name: hub, repo: {DATA}}}", "training.updates=2", "--output", "fourth", "--json")
    done = shell("train", "toy.yaml", *arguments, "--init", PLANNER, "--trust-remote-code")
    said = document(done)
    assert said["init"]["source"] == PLANNER and said["init"]["left"] == []
    main = hub.model(PLANNER).branches["main"]
    again = document(shell("train", "toy.yaml", *arguments, "--init", f"{PLANNER}@{main}", "--trust-remote-code"))
    assert again["reused"], "the content counts, not the name"
    assert "reproduces" not in said


def test_a_push_that_is_killed_leaves_the_old_revision(shell, hub):
    """All files are sent, and the commit is under way: the process dies and can no longer tidy up."""
    run = only(shell.folder / "outputs" / "runs").relative_to(shell.folder)
    before = dict(hub.model(PLANNER).branches)
    hub.dies_at, hub.hangs = r"/commit/", True
    with ThreadPoolExecutor() as pool:
        pushing = pool.submit(shell, "push", run, PLANNER, "--license", "cc0-1.0")
        assert hub.fell.wait(60)
        (child,) = psutil.Process(shell.process.pid).children()
        child.kill()
        assert pushing.result(60).status == -signal.SIGKILL
    hub.revive()
    assert hub.model(PLANNER).branches == before
    assert document(shell("push", run, PLANNER, "--license", "cc0-1.0", "--json"))["sent"][0] == "README.md"


def test_synthesize_by_name_and_push_what_was_written(shell, hub):
    done = shell("train", "writer.yaml", "--output", "writers", "--workers", 1)
    assert done.status == 0, done.err
    run = only(shell.folder / "writers" / "runs").relative_to(shell.folder)
    shell("push", run, WRITER_OF_DATA)
    card = hub.model(WRITER_OF_DATA).tree()["README.md"].decode()
    assert f"`mtdiff synthesize {WRITER_OF_DATA} --task TASK" in card and "Writes pieces of episodes" in card
    options = ("--task", "towards", "--transitions", 50, "--json")
    here = document(shell("synthesize", run, *options, "--out", "written"))
    there = document(shell("synthesize", WRITER_OF_DATA, *options, "--out", "pulled", "--trust-remote-code"))
    assert there["fingerprint"] == here["fingerprint"]
    assert (
        there["generator"]["name"] == "user--writer" and there["generator"]["content"] == here["generator"]["content"]
    )
    said = document(shell("push", "pulled", "user/synthetic", "--json"))
    assert (
        said["kind"] == "dataset"
        and "These data are synthetic" in hub.dataset("user/synthetic").tree()["README.md"].decode()
    )
