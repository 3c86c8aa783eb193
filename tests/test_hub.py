"""Pipelines on a Hub of the tests' own, with the unmodified client: what is pushed comes back, and what does not."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler
from hub_client import environment
from hub_server import READER, WRITER
from test_train_init import recipe

import mtdiff
from mtdiff.errors import MTDiffError
from mtdiff.sharing.push import push

TINY = "user/tiny"
FILES = [
    "README.md", "backbone/config.json", "backbone/diffusion_pytorch_model.safetensors", "checksums.json",
    "conditioning/config.json", "conditioning/diffusion_pytorch_model.safetensors", "model_index.json",
    "normalizer/config.json", "normalizer/diffusion_pytorch_model.safetensors", "prompts/config.json",
    "prompts/diffusion_pytorch_model.safetensors", "recipe.yaml", "representation/config.json",
    "representation/diffusion_pytorch_model.safetensors", "run.json", "scheduler/scheduler_config.json",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset, prompts):
    """A planner that samples with DDPM."""
    return mtdiff.train(recipe(), dataset=dataset, prompts=prompts, root=tmp_path_factory.mktemp("outputs"))


@pytest.fixture
def pushed(hub, run):
    """What the push of the run said; the requests are forgotten."""
    done = push(run.folder, TINY)
    hub.requests.clear()
    return done


def plan(pipe):
    noise = torch.Generator().manual_seed(0)
    return pipe(prompt="push-v3", history=np.ones((1, 5)), generator=noise).actions


def refused(work, *arguments, error=MTDiffError, **options):
    with pytest.raises(error) as caught:
        work(*arguments, **options)
    return str(caught.value)


def test_what_a_push_sends(hub, run):
    done = push(run.folder, TINY)
    model = hub.model(TINY)
    assert done["sent"] == FILES and (done["removed"], done["unchanged"]) == ([], 0)
    assert done["url"] == f"{hub.url}/{TINY}" and done["commit"] == model.branches["main"]
    assert sorted(model.tree()) == [".gitattributes", *FILES], "no checkpoints, metrics or trackers"
    assert len(model.commits) == 2, "one commit besides the Hub's own"
    assert model.tree()["recipe.yaml"].decode() == run.recipe.to_yaml()
    said = json.loads(model.tree()["run.json"])
    assert said["hash"] == run.info["hash"] and said["versions"] == run.info["versions"] and len(said["code"]) == 12
    everything = b"".join(model.tree().values())
    assert str(run.folder.parents[1]).encode() not in everything, "no path of this machine"


@pytest.mark.parametrize(
    "load",
    [mtdiff.load, mtdiff.PlannerPipeline.from_pretrained, DiffusionPipeline.from_pretrained],
    ids=["mtdiff.load", "PlannerPipeline", "DiffusionPipeline"],
)
def test_every_way_of_loading_by_name_gives_the_same_samples(pushed, run, load):
    pipe = load(TINY)
    assert type(pipe) is mtdiff.PlannerPipeline
    assert torch.equal(plan(pipe), plan(mtdiff.load(run.folder)))


@pytest.mark.slow
def test_loading_in_a_fresh_process(hub, pushed, run, tmp_path):
    torch.save(plan(mtdiff.load(run.folder)), tmp_path / "here.pt")
    code = f"""
import mtdiff.pipelines, numpy, torch
from diffusers import DiffusionPipeline
torch.set_num_threads({torch.get_num_threads()})
here = torch.load({str(tmp_path / "here.pt")!r})
for load in (mtdiff.load, DiffusionPipeline.from_pretrained):
    noise = torch.Generator().manual_seed(0)
    there = load("{TINY}")(prompt="push-v3", history=numpy.ones((1, 5)), generator=noise).actions
    assert torch.equal(there, here)
"""
    home = os.environ | environment(hub, tmp_path / "another_home")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=home)
    assert done.returncode == 0, done.stderr


def test_pushing_again_sends_only_what_differs(hub, pushed, run):
    again = push(run.folder, TINY)
    assert (again["sent"], again["bytes"], again["unchanged"]) == ([], 0, len(FILES))
    assert again["commit"] == pushed["commit"]
    assert [request for request in hub.requests if "lfs" in request or "/commit/" in request] == []

    pipe = mtdiff.load(TINY)
    with torch.no_grad():
        pipe.backbone.load_state_dict({name: value + 1 for name, value in pipe.backbone.state_dict().items()})
    hub.requests.clear()
    assert pipe.push_to_hub(TINY) == f"{hub.url}/{TINY}"
    sent = hub.model(TINY).commits[hub.model(TINY).branches["main"]].sent
    weights = "backbone/diffusion_pytorch_model.safetensors"
    assert weights in sent and not {"prompts/diffusion_pytorch_model.safetensors", "model_index.json"} & set(sent)
    assert sum(request.startswith("PUT") for request in hub.requests) == 1
    # Of weights that nobody trained, nothing is known: what was there of them went in the same commit.
    card = hub.model(TINY).tree()["README.md"].decode()
    assert "Nothing is known of how it was trained" in card
    assert torch.equal(plan(mtdiff.load(TINY)), plan(pipe))


def test_what_an_earlier_push_brought_goes_and_what_others_added_stays(hub, pushed, run):
    files = hub.model(TINY).tree()
    files |= {"backbone/old.safetensors": b"", "LICENSE": b"mine", "notes/read.md": b"mine"}
    done = push(run.folder, TINY)
    assert (done["sent"], done["removed"]) == ([], ["backbone/old.safetensors"])
    assert {"LICENSE", "notes/read.md"} <= hub.model(TINY).tree().keys()


def test_ddpm_pushed_and_dpm_solver_pulled_in_two_lines(pushed):
    pipe = mtdiff.load(TINY)
    assert type(pipe.scheduler) is DDPMScheduler
    before = plan(pipe)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    after = plan(pipe)
    assert after.shape == before.shape and not torch.equal(before, after)
    # Another two: the sampling scheduler that is pushed is the one that is there.
    pipe.push_to_hub("user/fast")
    assert torch.equal(plan(mtdiff.load("user/fast")), after)


def test_push_to_hub_brings_the_run_along_while_it_has_its_weights(hub, pushed, run):
    pipe = mtdiff.load(run.folder)
    pipe.push_to_hub("again")  # a name alone is one of mine
    assert hub.model("user/again").tree()["run.json"] == hub.model(TINY).tree()["run.json"]
    assert hub.model("user/again").tree()["recipe.yaml"] == hub.model(TINY).tree()["recipe.yaml"]
    pipe.save_pretrained(run.folder.parent / "other", push_to_hub=True, repo_id="user/other")
    assert hub.model("user/other").tree()["README.md"].decode().startswith("---\nlibrary_name: mtdiff\n")


def test_private_branch_and_pull_request(hub, pushed, run):
    push(run.folder, "user/secret", private=True, message="First")
    secret = hub.model("user/secret")
    assert secret.private and secret.commits[secret.branches["main"]].message == "First"
    done = push(run.pipeline, "user/secret", revision="v2")
    assert done["revision"] == "v2" and secret.branches["v2"] == done["commit"]
    assert refused(push, run.folder, TINY, private=True) == (
        f"{TINY}: is public, and stays so whoever pushes. Make it private in its settings, or push without private"
    )
    pipe = mtdiff.load(TINY, num_inference_steps=2)
    before = dict(hub.model(TINY).branches)
    assert pipe.push_to_hub(TINY, create_pr=True) == f"{hub.url}/{TINY}/discussions/1"
    assert {name: sha for name, sha in hub.model(TINY).branches.items() if name in before} == before
    proposed = mtdiff.load(TINY, revision="refs/pr/1")
    assert (proposed.config.num_inference_steps, mtdiff.load(TINY).config.num_inference_steps) == (2, 3)
    assert refused(push, run.folder, TINY, revision="v2", create_pr=True) == (
        f"{TINY}@v2: a pull request is made against the main branch; leave out the revision"
    )


def test_revisions_by_name_and_by_commit(hub, pushed):
    mtdiff.load(TINY, num_inference_steps=2).push_to_hub(TINY, revision="fast")
    for source, steps in ((TINY, 3), (f"{TINY}@fast", 2), (f"{TINY}@{pushed['commit']}", 3), (f"hub:{TINY}@fast", 2)):
        assert mtdiff.load(source).config.num_inference_steps == steps
    assert refused(mtdiff.load, TINY, revision="fasd") == (
        f"{TINY}@fasd: unknown revision 'fasd'. Allowed: main, fast. Did you mean 'fast'?"
    )
    assert refused(mtdiff.load, f"{TINY}@fast", revision="main") == (
        f"{TINY}@fast: names another revision than the one that was asked for, main"
    )


def test_a_wrong_token_and_none_and_one_that_only_reads(hub, pushed, run, monkeypatch):
    where = f"{hub.url}/settings/tokens"
    unknown = "it is wrong, or no longer valid. Make one that"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert refused(push, run.folder, "user/new") == (
        f"user/new: the Hub does not know the token HF_TOKEN: {unknown} may write at {where}"
    )
    assert refused(mtdiff.load, TINY) == (
        f"{TINY}: the Hub does not know the token HF_TOKEN: {unknown} may read it at {where}"
    )
    assert refused(mtdiff.load(run.folder).push_to_hub, TINY, token="hf_other") == (
        f"{TINY}: the Hub does not know the token that was given: {unknown} may write at {where}"
    )
    monkeypatch.setenv("HF_TOKEN", READER)
    assert refused(push, run.folder, TINY, message="x", revision="v2") == (
        f"{TINY}@v2: the token HF_TOKEN does not allow this (Forbidden: you must use a write token to upload to a "
        "repository)"
    )
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert refused(push, run.folder, "another/name") == (
        "another/name: the token HF_TOKEN does not allow this (You don't have the rights to create a model under the "
        "namespace another)"
    )
    monkeypatch.delenv("HF_TOKEN")
    hub.requests.clear()
    assert refused(push, run.folder, TINY) == (
        f"{TINY}: pushing needs a token. Log in with `hf auth login`, or set HF_TOKEN"
    )
    assert hub.requests == [], "before anything was asked"


def test_what_is_no_repository(hub, pushed, run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert refused(mtdiff.load, "user/nothing") == (
        "user/nothing: no such folder here, and no such model repository on the Hub, or a private one that your token "
        "does not open"
    )
    assert refused(mtdiff.load, "a/b/c") == (
        "a/b/c: no such run or pipeline folder, and not a repository id like user/name"
    )
    assert refused(push, run.folder, "a/b/c") == "a/b/c: not a repository id; it should be like user/name"
    assert refused(push, tmp_path / "gone" / "x", TINY) == (
        f"{tmp_path}/gone/x: no such run or pipeline folder, and not a repository id like user/name"
    )
    (tmp_path / "empty").mkdir()
    assert refused(push, tmp_path / "empty", TINY) == (
        f"{tmp_path}/empty: neither a run nor a saved pipeline; it has no model_index.json"
    )
    del hub.model(TINY).tree()["model_index.json"]
    assert refused(mtdiff.load, TINY) == f"{TINY}: holds no saved pipeline; it has no model_index.json"
    assert refused(mtdiff.load, run.folder, revision="main") == (
        f"{run.folder}: is a folder here, and only a repository has revisions, got main"
    )


def test_without_the_hub(hub, pushed, run, monkeypatch, tmp_path):
    from huggingface_hub import constants

    here = plan(mtdiff.load(TINY))
    hub.requests.clear()
    assert torch.equal(plan(mtdiff.load(TINY, local_files_only=True)), here)
    place = tmp_path / "elsewhere"
    assert refused(mtdiff.load, TINY, local_files_only=True, cache_dir=place) == (
        f"{TINY}: only the cache may be asked, and it is not whole in the cache {place}"
    )
    assert torch.equal(plan(mtdiff.load(TINY, cache_dir=place)), here) and list(place.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub.requests.clear()
        assert torch.equal(plan(mtdiff.load(TINY)), here)
        assert refused(mtdiff.load, "user/other") == (
            "user/other: the Hub may not be asked, because HF_HUB_OFFLINE is set, and it is not whole in the cache "
            f"{constants.HF_HUB_CACHE}"
        )
        assert hub.requests == []
    hub.dies_at = "."
    assert torch.equal(plan(mtdiff.load(TINY)), here), "what is in the cache serves while the Hub is away"
    said = refused(mtdiff.load, "user/other")
    assert said.startswith(f"user/other: the Hub at {hub.url} cannot be reached (")
    said = refused(push, run.folder, TINY)
    assert said.startswith(f"{TINY}: the Hub at {hub.url} cannot be reached (")
    assert said.endswith("). Nothing of it was changed: push again")


@pytest.mark.parametrize("moment", ["PUT /lfs", "POST /lfs/verify", "POST /api/models/user/tiny/commit"])
def test_a_server_that_dies_in_the_middle_leaves_the_old_revision(hub, pushed, run, monkeypatch, moment):
    before = dict(hub.model(TINY).branches)
    old = plan(mtdiff.load(TINY))
    pipe = mtdiff.load(run.folder)
    with torch.no_grad():
        pipe.backbone.load_state_dict({name: value + 1 for name, value in pipe.backbone.state_dict().items()})
    hub.dies_at = moment
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client tries again five times, later and later
    said = refused(pipe.push_to_hub, TINY)
    assert said.startswith(f"{TINY}: the Hub at {hub.url} cannot be reached (")
    assert said.endswith("). Nothing of it was changed: push again")
    assert hub.fell.is_set()
    hub.revive()
    assert hub.model(TINY).branches == before
    assert torch.equal(plan(mtdiff.load(TINY)), old)
    pipe.push_to_hub(TINY)
    assert torch.equal(plan(mtdiff.load(TINY)), plan(pipe))


def test_somebody_else_pushes_in_the_meantime(hub, pushed, run):
    pipe = mtdiff.load(TINY, num_inference_steps=2)
    model, commit = hub.model(TINY), hub.model(TINY).commit

    def first(revision, lines, large, *, pr):
        header = {"key": "header", "value": {"summary": "theirs"}}
        commit("main", [header, {"key": "file", "value": {"path": "note", "content": ""}}], large, pr=False)
        return commit(revision, lines, large, pr=pr)

    model.commit = first
    assert refused(pipe.push_to_hub, TINY) == (
        f"{TINY}: was changed by somebody else in the meantime. Nothing was pushed: push again"
    )
    assert "note" in model.tree() and model.tree()["README.md"] == model.tree(pushed["commit"])["README.md"]
