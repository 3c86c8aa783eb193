"""What a planner makes of its conditions, its noise and its numbers."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

import mtdiff
from mtdiff.compose import compose
from mtdiff.pipelines import PlannerOutput

HISTORY = torch.linspace(-1, 1, 15).reshape(3, 5)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def plan(pipe, **changes):
    arguments = {"prompt": "reach-v3", "history": HISTORY, "generator": seeded()} | changes
    return pipe(**arguments).actions


def close(a, b, tolerance=1e-6):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


@pytest.fixture
def forwards(planner):
    """Batch sizes of the backbone's calls."""
    sizes = []
    planner.backbone.head.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    return sizes


# prompts


@pytest.mark.parametrize("count", [1, 2, 7, 29, 49, 50])
def test_as_many_prompts_as_demonstrations_use_each_once(values, dataset, count):
    rng = np.random.default_rng(0)
    demonstrations = mtdiff.TrajectoryDataset.from_arrays(
        states=rng.normal(size=(2 * count, 5, 5)),
        actions=np.zeros((2 * count, 4, 2)),
        rewards=np.zeros((2 * count, 4)),
        tasks=["reach-v3", "push-v3"] * count,
    )
    values["sampling"]["prompts_per_task"] = count
    library = compose(values, dataset, demonstrations)[0].prompts
    for task in library:
        assert len({float(prompt.states[0, 0]) for prompt in library[task]}) == count


def test_all_forms_of_a_prompt_mean_the_same(planner):
    prompt = planner.prompts["reach-v3"][0]
    expected = plan(planner)
    forms = [
        prompt,
        {"states": prompt.states, "actions": prompt.actions},
        {"states": prompt.states.numpy().astype(np.float64), "actions": prompt.actions.tolist()},
        ["reach-v3"],
        (prompt,),
    ]
    for form in forms:
        assert torch.equal(plan(planner, prompt=form), expected)
    assert not torch.allclose(plan(planner, prompt="push-v3"), expected, atol=1e-5)
    assert not torch.allclose(plan(planner, prompt=planner.prompts["reach-v3"][1]), expected, atol=1e-5)


# history


def test_forms_of_history(planner):
    expected = plan(planner)
    forms = [
        HISTORY.numpy(),
        HISTORY[None],
        HISTORY.double(),
        torch.cat([torch.full((4, 5), 9.0), HISTORY]),  # only the last L states are read
    ]
    for form in forms:
        assert torch.equal(plan(planner, history=form), expected)


def test_states_before_the_episode_are_zeros_in_model_space(planner):
    loc = planner.normalizer.state_loc[None]  # what becomes zero
    assert loc.abs().max() > 0.1
    short = plan(planner, history=HISTORY[-1:])
    close(short, plan(planner, history=torch.cat([loc, loc, HISTORY[-1:]])))
    assert not torch.allclose(short, plan(planner, history=torch.cat([0 * loc, 0 * loc, HISTORY[-1:]])), atol=1e-6)


# batches


def test_conditions_broadcast(planner):
    generators = [seeded(s) for s in range(3)]
    together = plan(
        planner,
        prompt=["reach-v3", "push-v3", "reach-v3"],
        history=HISTORY,
        target_return=[0.0, 0.5, 1.0],
        generator=generators,
    )
    assert together.shape == (3, 8, 2)
    for s, (prompt, target) in enumerate((("reach-v3", 0.0), ("push-v3", 0.5), ("reach-v3", 1.0))):
        alone = plan(planner, prompt=prompt, target_return=target, generator=seeded(s))
        close(together[s : s + 1], alone)  # other batch sizes round sums otherwise: 1e-6


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DPMSolverMultistepScheduler])
def test_a_samples_plan_does_not_depend_on_its_batch(planner, scheduler):
    planner.scheduler = scheduler.from_config(planner.scheduler.config)
    histories = torch.randn(4, 3, 5, generator=seeded(5))
    names = ["reach-v3", "push-v3"] * 2

    def some(samples, **options):
        return plan(
            planner,
            prompt=[names[s] for s in samples],
            history=histories[list(samples)],
            generator=[seeded(s) for s in samples],
            **options,
        )

    for options in ({}, {"guidance_scale": 2.0}):
        everyone = some(range(4), **options)
        close(everyone[[3, 1]], some([3, 1], **options))
        close(everyone[[2]], some([2], **options))


def test_one_generator_gives_every_sample_its_own_noise(planner):
    actions = plan(planner, prompt=["reach-v3"] * 2)
    assert not torch.allclose(actions[0], actions[1], atol=1e-4)
    assert torch.equal(actions, plan(planner, prompt=["reach-v3"] * 2))


# noise, temperature, guidance, length


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("backbone", ["gpt2", "residual_mlp"])
def test_planning_fewer_actions_changes_none_of_them(values, dataset, prompts, backbone, scheduler):
    if backbone == "residual_mlp":
        values["backbone"] = {"name": "residual_mlp", "width": 16}
    pipe = compose(values, dataset, prompts)[0]
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    whole = plan(pipe)
    for count in range(1, 9):
        part = plan(pipe, num_actions=count)
        assert part.shape == (1, count, 2)
        close(part, whole[:, :count])


def test_a_causal_backbone_computes_no_more_than_it_must(planner):
    lengths = []
    planner.backbone.head.register_forward_hook(lambda module, inputs, output: lengths.append(inputs[0].shape[1]))
    plan(planner, num_actions=3)
    assert lengths == [2] * 4  # two actions share a token; four sampling timesteps


def test_guidance_of_one_is_one_pass(planner, forwards):
    once = plan(planner, guidance_scale=1.0)
    assert forwards == [1] * 4
    forwards.clear()
    twice = plan(planner, guidance_scale=1.0 + 1e-9)  # the same plan, the long way
    assert forwards == [2] * 4
    close(once, twice)
    assert not torch.allclose(once, plan(planner, guidance_scale=3.0), atol=1e-4)


def test_guidance_of_zero_ignores_what_was_withheld_in_training(planner):
    def at(target, scale):
        return plan(planner, target_return=target, guidance_scale=scale)

    close(at(0.0, 0.0), at(1.0, 0.0))
    assert not torch.allclose(at(0.0, 1.0), at(1.0, 1.0), atol=1e-5)
    other = plan(planner, prompt="push-v3", guidance_scale=0.0)  # the prompt is never withheld
    assert not torch.allclose(other, at(1.0, 0.0), atol=1e-5)


def test_guidance_needs_a_condition_that_was_withheld(values, dataset, prompts):
    values["conditioning"]["return"]["dropout"] = 0.0
    pipe = compose(values, dataset, prompts)[0]
    with pytest.raises(ValueError, match="no condition of this model") as error:
        plan(pipe, guidance_scale=1.2)
    assert str(error.value).startswith("guidance_scale: ")
    plan(pipe, guidance_scale=1.0)


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DPMSolverMultistepScheduler])
def test_temperature_scales_the_spread_of_plans(planner, scheduler):
    planner.scheduler = scheduler.from_config(planner.scheduler.config)
    planner.representation.bounds.mul_(1e6)  # nothing is clamped, so that the spread is the noise's
    planner.normalizer.action_scale.fill_(1e-3)

    def spread(temperature, **options):
        actions = plan(planner, prompt=["reach-v3"] * 256, temperature=temperature, **options)
        return actions.std(dim=0).mean()

    assert spread(0.0) < 1e-9
    assert spread(0.25) / spread(1.0) == pytest.approx(0.5, abs=0.1)
    if scheduler is DPMSolverMultistepScheduler:  # all its noise is the first
        assert spread(0.0, initial_temperature=0.25) == spread(0.25)
        assert spread(1.0, initial_temperature=0.0) < 1e-9


def test_return_dict(planner):
    output = planner("reach-v3", HISTORY, generator=seeded())
    assert isinstance(output, PlannerOutput)
    (actions,) = planner("reach-v3", HISTORY, generator=seeded(), return_dict=False)
    assert torch.equal(actions, output.actions)
    assert not actions.requires_grad


def test_initial_weights_come_from_the_recipes_seed_alone(values, dataset, prompts):
    planner = compose(values, dataset, prompts)[0]
    torch.manual_seed(1234)
    before = torch.random.get_rng_state()
    same = compose(values, dataset, prompts)[0]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(plan(same), plan(planner))
    values["seed"] = 1
    assert not torch.allclose(plan(compose(values, dataset, prompts)[0]), plan(planner), atol=1e-4)


def test_plans_are_made_without_dropout(values, dataset, prompts):
    values["backbone"]["dropout"] = 0.5
    pipe = compose(values, dataset, prompts)[0]
    assert torch.equal(plan(pipe), plan(pipe))


@pytest.mark.parametrize("scale", ["none", "z_score", "min_max"])
def test_clamping_is_at_the_physical_limits(values, dataset, prompts, scale):
    values["normalization"] = {"actions": scale}
    pipe = compose(values, dataset, prompts)[0]
    limits = pipe.normalizer.physical_actions(pipe.representation.bounds.T)
    close(limits, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
