"""Physical units to model space and back."""

import numpy as np
import pytest
import torch

from mtdiff.data.normalizer import Normalization, Normalizer
from mtdiff.errors import RecipeError


def test_z_score_measures_all_steps_of_all_tasks(dataset):
    normalizer = Normalizer.fit(dataset, Normalization(actions="z_score", clip=0.0))
    states = np.concatenate([dataset[e].states for e in range(len(dataset))]).astype(np.float64)
    actions = np.concatenate([dataset[e].actions for e in range(len(dataset))]).astype(np.float64)
    assert len(actions) == 84  # the empty row after each episode does not count
    for name, values in (("state", states), ("action", actions)):
        np.testing.assert_allclose(getattr(normalizer, f"{name}_loc"), values.mean(0), atol=1e-6)
        spread = np.maximum(values.std(0), 0.01)
        np.testing.assert_allclose(getattr(normalizer, f"{name}_scale"), spread, rtol=1e-5)
    assert float(normalizer.state_scale[-1]) == pytest.approx(0.01)  # constant: noise is not blown up
    assert (normalizer.states(torch.from_numpy(dataset.states))[:, -1] == 0).all()


def test_min_max_fills_minus_one_to_one_but_leaves_constants(dataset):
    normalizer = Normalizer.fit(dataset, Normalization(states="min_max", actions="min_max"))
    states = normalizer.states(torch.from_numpy(dataset.states))
    for column in range(4):
        assert states[:, column].min().item() == pytest.approx(-1, abs=1e-5)
        assert states[:, column].max().item() == pytest.approx(1, abs=1e-5)
    assert (states[:, 4] == 0).all()
    assert float(normalizer.state_scale[4]) == 1


def test_none_is_the_identity(dataset):
    normalizer = Normalizer.fit(dataset, Normalization(states="none", clip=0.0))
    states, actions = torch.from_numpy(dataset.states), torch.from_numpy(dataset.actions)
    assert torch.equal(normalizer.states(states), states)
    assert torch.equal(normalizer.actions(actions), actions)


@pytest.mark.parametrize("scale", ["z_score", "min_max", "none"])
def test_actions_come_back_inside_the_limits(dataset, scale):
    normalizer = Normalizer.fit(dataset, Normalization(actions=scale))
    actions = torch.from_numpy(dataset.actions)
    torch.testing.assert_close(normalizer.physical_actions(normalizer.actions(actions)), actions, atol=1e-6, rtol=0)
    wild = normalizer.physical_actions(torch.tensor([[1e6, -1e6]]))
    assert torch.equal(wild, torch.tensor([[1.0, -1.0]]))
    assert normalizer.physical_actions(torch.zeros(3, 2, dtype=torch.bfloat16)).dtype == torch.float32


def test_states_are_clipped(dataset):
    normalizer = Normalizer.fit(dataset, Normalization(clip=1.5))
    wild = torch.tensor([[1e6, -1e6, 0.0, 0.0, 0.5]])
    assert normalizer.states(wild)[0, :2].tolist() == [1.5, -1.5]


def test_single_precision_survives_every_cast(dataset, tmp_path):
    normalizer = Normalizer.fit(dataset, Normalization())
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    normalizer.save_pretrained(tmp_path)
    for other in (
        Normalizer.from_pretrained(tmp_path),
        Normalizer.from_pretrained(tmp_path, dtype=torch.bfloat16),
        Normalizer.from_pretrained(tmp_path).to(torch.bfloat16),
        Normalizer.from_pretrained(tmp_path).half(),
    ):
        for name, value in other.state_dict().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, before[name])
        assert other.config.clip == 6.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"smallest_std": 0.0}, "smallest_std: should be above 0, got 0.0."),
        ({"clip": -1.0}, "clip: should be at least 0, got -1.0."),
    ],
)
def test_settings_that_make_no_sense(arguments, message):
    with pytest.raises(RecipeError) as error:
        Normalization(**arguments)
    assert str(error.value) == message
