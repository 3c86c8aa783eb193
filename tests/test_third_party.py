"""Parts that others register in a module of their own: checked, composed, trained on, saved and loaded as mtdiff's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import mtdiff
from mtdiff.compose import compose, windows
from mtdiff.recipe import InvalidRecipe, Recipe, load_recipe
from mtdiff.registry import BACKBONES, CONDITIONING

MODULE = '''
"""Two parts of somebody else's."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mtdiff.backbones.backbone import Backbone
from mtdiff.conditioning.encoder import Condition, Encoder, Role
from mtdiff.registry import BACKBONES, CONDITIONING


@CONDITIONING.register("their_prompt", runtime=("state_dim", "action_dim", "width"))
class TheirPrompt(Encoder):
    """The mean of a demonstration.

    Args:
        length: J, steps that are shown.
        dropout: probability of withholding it in training.
        state_dim: O.
        action_dim: A.
        width: C.
    """

    reads = ("prompt_states", "prompt_actions")

    def __init__(self, *, length: int = 5, dropout: float = 0.0, state_dim: int, action_dim: int, width: int):
        super().__init__(dropout=dropout, width=width)
        self.length = length
        self.embed = nn.Linear(state_dim + action_dim, width)

    def window(self) -> dict[str, Any]:
        return {"prompt": self.length}

    def encode(self, fields: Mapping[str, Tensor]) -> Tensor:
        steps = torch.cat([fields["prompt_states"], fields["prompt_actions"]], dim=-1)
        return self.embed(steps).mean(dim=1, keepdim=True)


@BACKBONES.register("their_net", runtime=("channels", "horizon", "roles"))
class TheirNet(Backbone):
    """One linear layer.

    Args:
        width: C.
        rate: of something, at most one half.
        channels: D.
        horizon: H.
        roles: the conditions.
    """

    @register_to_config
    def __init__(
        self, *, width: int = 16, rate: float = 0.1, channels: int, horizon: int,
        roles: Sequence[Role | Mapping[str, Any]],
    ):
        super().__init__()
        if rate > 0.5:
            raise ValueError(f"rate: must be at most 0.5, got {rate}")
        self.register_to_config(roles=[r if isinstance(r, dict) else dict(vars(r)) for r in roles])
        self.granularity = horizon
        self.rates = [rate.item() for rate in torch.linspace(0, rate, 3)]  # a common idiom, impossible without memory
        self.layer = nn.Linear(horizon * channels + width + 1, horizon * channels)

    def forward(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        told = sum(tokens.mean(dim=1) for tokens in condition.tokens.values())
        time = timestep.to(x.dtype).expand(len(x))[:, None] / 200
        return self.layer(torch.cat([x.flatten(1), told, time], dim=-1)).view_as(x)
'''
RECIPE = """
imports: [their_parts]
representation: {name: actions, horizon: 8}
conditioning:
  task: {name: their_prompt, dropout: 0.2}
backbone: {name: their_net, rate: 0.2}
scheduler: {name: ddpm, num_train_timesteps: 20}
sampling: {num_inference_steps: 4, guidance_scale: 1.5, prompts_per_task: 2}
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a package of somebody else's on the path, and a recipe that imports it."""
    (tmp_path / "their_parts").mkdir()
    (tmp_path / "their_parts" / "__init__.py").write_text(MODULE)
    (tmp_path / "theirs.yaml").write_text(RECIPE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for registry, name in ((CONDITIONING, "their_prompt"), (BACKBONES, "their_net")):
        registry._parts.pop(name, None)
    sys.modules.pop("their_parts", None)


def plan(pipe: Any) -> torch.Tensor:
    return pipe(prompt="reach-v3", generator=torch.Generator().manual_seed(0)).actions


def composed(recipe: Recipe, dataset: Any, prompts: Any) -> Any:
    return compose({k: v for k, v in recipe.values.items() if k != "suite"}, dataset, prompts)[0]


def test_they_are_checked_composed_saved_and_loaded(theirs: Path, dataset: Any, prompts: Any) -> None:
    with pytest.raises(InvalidRecipe) as error:
        load_recipe("theirs.yaml", allow_imports=False)
    assert str(error.value) == (
        "theirs.yaml:2: imports: 'their_parts' would be imported, which runs its code, and this recipe is not trusted "
        "to do so. Import their_parts yourself if you trust it."
    )
    assert "their_parts" not in sys.modules

    recipe = load_recipe("theirs.yaml", ["conditioning.task.length=4"])
    assert recipe.values["backbone"] == {"name": "their_net", "width": 16, "rate": 0.2}
    assert recipe.values["conditioning"] == {"task": {"name": "their_prompt", "length": 4, "dropout": 0.2}}
    recipe.save("saved.yaml")
    again = load_recipe("saved.yaml")
    assert again.values == recipe.values and again.hash() == recipe.hash()
    assert again.values["imports"] == ["their_parts"]

    pipe = composed(recipe, dataset, prompts)
    assert type(pipe.backbone).__module__ == "their_parts"
    batch = windows(pipe, dataset, prompts).sample(2, torch.Generator().manual_seed(0))
    assert batch["prompt_states"].shape[1] == 4
    actions = plan(pipe)
    assert actions.shape == (1, 8, 2) and torch.isfinite(actions).all()
    pipe.save_pretrained("pipeline")
    assert torch.equal(plan(mtdiff.load("pipeline")), actions)


def test_checking_them_leaves_torchs_generator_alone(theirs: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    load_recipe("theirs.yaml")
    assert torch.equal(torch.rand(3), expected)


def test_their_limits_are_held_too(theirs: Path) -> None:
    with pytest.raises(InvalidRecipe) as error:
        load_recipe("theirs.yaml", ["backbone.rate=0.7", "conditioning.task.length=21"])
    assert str(error.value).splitlines() == [
        "command line: backbone.rate: must be at most 0.5, got 0.7",
        "command line: conditioning.task.length: must be at most data.prompt_min_steps=20, got 21",
    ]
    with pytest.raises(InvalidRecipe) as error:
        load_recipe("theirs.yaml", ["backbone.size=1"])
    assert str(error.value) == "command line: backbone.size: their_net takes no 'size'. Allowed: width, rate."


@pytest.mark.parametrize(
    ("module", "code", "expected"),
    [
        ("their_prats", None, "cannot import 'their_prats': it is not installed here."),
        ("needs", "import not_installed_anywhere", "cannot import 'needs': 'not_installed_anywhere', which it needs, "
            "is not installed here."),
        ("broken", "1 / 0", "cannot import 'broken': ZeroDivisionError: division by zero"),
        ("clash", "from mtdiff.registry import BACKBONES\n@BACKBONES.register('gpt2')\nclass GPT2: ...",
            "cannot import 'clash': ValueError: backbone 'gpt2' is registered twice: by "
            "mtdiff.backbones.gpt2.GPT2Backbone and clash.GPT2"),
    ],
)  # fmt: skip
def test_imports_that_fail(theirs: Path, module: str, code: str | None, expected: str) -> None:
    BACKBONES.names()  # mtdiff's own are registered first
    if code is not None:
        Path(f"{module}.py").write_text(code)
    Path("r.yaml").write_text(f"imports:\n  - {module}\nbackbone: unknown_without_it\n")
    with pytest.raises(InvalidRecipe) as error:
        load_recipe("r.yaml")
    assert str(error.value) == f"r.yaml:2: imports: {expected}"
    sys.modules.pop(module, None)


@pytest.mark.slow
def test_a_new_process_finds_them_beside_the_recipe(theirs: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mtdiff", "check", "theirs.yaml", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["values"]["backbone"]["name"] == "their_net"
