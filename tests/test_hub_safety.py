"""What is pulled is whole and what was pushed, and runs nothing: refused by name where it is not so."""

import json
import sys

import pytest
from test_train_init import recipe

import mtdiff
from mtdiff.errors import DataError, MTDiffError
from mtdiff.sharing.push import push

TINY = "user/tiny"


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset, prompts):
    return mtdiff.train(recipe(), dataset=dataset, prompts=prompts, root=tmp_path_factory.mktemp("outputs"))


@pytest.fixture
def pushed(hub, run):
    return push(run.folder, TINY)


def refused(work, *arguments, error=MTDiffError, **options):
    with pytest.raises(error) as caught:
        work(*arguments, **options)
    return str(caught.value)


def damaged(hub, change):
    """Change what the repository holds, as somebody with the right to write might."""
    files = hub.model(TINY).tree()
    change(files)
    hub.model(TINY)._add("main", dict(files), None, "damage", [])
    return refused(mtdiff.load, TINY)


def found_damaged(said, what):
    begin, end = (
        f"{TINY}: is damaged: {what}. Remove ",
        (" and what it links to, to pull it again; if that does not help, it was pushed so"),
    )
    assert said.startswith(begin) and said.endswith(end), said


WEIGHTS = "backbone/diffusion_pytorch_model.safetensors"


def test_a_missing_a_truncated_and_a_foreign_file_are_refused_by_name(hub, pushed):
    whole = dict(hub.model(TINY).tree())
    found_damaged(damaged(hub, lambda files: files.pop(WEIGHTS)), f"{WEIGHTS} is missing")
    size = len(whole[WEIGHTS])
    hub.model(TINY).tree()[WEIGHTS] = whole[WEIGHTS][:-9]
    found_damaged(damaged(hub, lambda files: None), f"{WEIGHTS} has {size - 9} bytes, should have {size}")
    hub.model(TINY).tree()[WEIGHTS] = whole[WEIGHTS][:-9] + bytes(9)
    found_damaged(
        damaged(hub, lambda files: None),
        f"{WEIGHTS} has changed since it was written (remove checksums.json if the change is yours)",
    )
    hub.model(TINY).tree()[WEIGHTS] = whole[WEIGHTS]
    found_damaged(
        damaged(hub, lambda files: files.update({"backbone/more.safetensors": b"x"})),
        "backbone/more.safetensors does not belong to it (checksums.json does not name it)",
    )


def test_a_file_that_is_cut_off_in_the_cache(pushed, run):
    from mtdiff.hub import fetch

    file = fetch(TINY) / WEIGHTS
    file.resolve().write_bytes(file.read_bytes()[:100])
    said = refused(mtdiff.load, TINY, error=DataError)
    found_damaged(said, f"{WEIGHTS} has 100 bytes, should have {(run.pipeline / WEIGHTS).stat().st_size}")


TRUST = "Nothing that is pulled runs code; if you trust it, pass trust_remote_code=True, on the command line"


def test_nothing_that_is_pulled_runs_code(hub, pushed, monkeypatch, tmp_path):
    model = hub.model(TINY)
    whole = dict(model.tree())
    for name in ("backbone/diffusion_pytorch_model.bin", "backbone/evil.py", "prompts/prompts.pkl"):
        said = damaged(hub, lambda files, name=name: files.update({name: b"import os"}))
        assert said == (
            f"{TINY}: {name} could run code when it is read, and only JSON and safetensors are. {TRUST} "
            "--trust-remote-code"
        )
        assert refused(mtdiff.PlannerPipeline.from_pretrained, TINY) == said
        del model.tree()[name]
    index = json.loads(whole["model_index.json"]) | {"_class_name": ["evil", "Pipeline"]}
    unsealed = {name: content for name, content in whole.items() if name != "checksums.json"}
    model._add("main", unsealed | {"model_index.json": json.dumps(index).encode(), "evil.py": b"1 / 0"}, None, "", [])
    assert refused(mtdiff.load, TINY) == (
        f"{TINY}: its model_index.json asks for a pipeline class of its own. {TRUST} --trust-remote-code"
    )
    (tmp_path / "parts_of_theirs.py").write_text("ran = True")
    recipe_text = b"imports: [parts_of_theirs]\n" + whole["recipe.yaml"]
    model._add("main", unsealed | {"recipe.yaml": recipe_text}, None, "imports", [])
    for work in (mtdiff.load, lambda source: mtdiff.train(f"hub:{source}", root=tmp_path)):
        assert refused(work, TINY) == (
            f"{TINY}: its recipe would import 'parts_of_theirs', which runs the code of that module. {TRUST} "
            "--trust-remote-code"
        )
    assert refused(mtdiff.load, TINY, trust_remote_code=True) == (
        "imports: cannot import 'parts_of_theirs': it is not installed here."
    )
    monkeypatch.syspath_prepend(tmp_path)
    # Named twice: what the recipe's own reader takes counts, which is the first, where YAML's would be the last.
    twice = b"imports: [parts_of_theirs]\nimports: []\n" + whole["recipe.yaml"]
    model._add("main", unsealed | {"recipe.yaml": twice}, None, "twice", [])
    for work in (mtdiff.load, lambda source: mtdiff.train(f"hub:{source}", root=tmp_path)):
        assert "its recipe would import 'parts_of_theirs'" in refused(work, TINY)
    assert "parts_of_theirs" not in sys.modules
    model._add("main", unsealed | {"recipe.yaml": recipe_text}, None, "imports again", [])
    mtdiff.load(TINY, trust_remote_code=True)
    assert sys.modules.pop("parts_of_theirs").ran
