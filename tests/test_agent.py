"""The planner as an agent in many environments at once, against a planner that is called by hand."""

import numpy as np
import pytest
import torch

from mtdiff.compose import compose
from mtdiff.errors import DataError
from mtdiff.pipelines import PlannerAgent

TASKS, SEEDS = ["reach-v3", "push-v3", "reach-v3"], [11, 12, 13]
STATES = np.random.default_rng(0).normal(size=(9, 3, 5)).astype(np.float32)  # step, slot


def act(agent, slots_at, tasks=TASKS, seeds=SEEDS):
    """Reset and act; `slots_at[step]` are the live slots. Returns actions by (step, slot)."""
    agent.reset(tasks, seeds)
    actions = {}
    for step, slots in enumerate(slots_at):
        got = agent.act(STATES[step, slots], np.array(slots))
        assert got.shape == (len(slots), 2)
        assert np.abs(got).max() <= 1
        actions |= {(step, slot): action for slot, action in zip(slots, got, strict=True)}
    return actions


def by_hand(pipe, slot, steps, execute, every_plan=False, **options):
    """The same episode of one slot, written out: its own generator draws the prompt, then every plan's noise."""
    generator = torch.Generator().manual_seed(SEEDS[slot])
    choices = pipe.prompts[TASKS[slot]]

    def draw():
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    prompt, actions = draw(), []
    for step in range(steps):
        if step % execute == 0:
            prompt = draw() if every_plan else prompt
            history = STATES[: step + 1, slot][-3:]
            plan = pipe(prompt, history, generator=generator, **options).actions[0].numpy()
        actions.append(plan[step % execute])
    return actions


ALL = [[0, 1, 2]] * 9


@pytest.mark.parametrize("execute", [1, 3, 8])
@pytest.mark.parametrize("policy", ["episode", "every_plan"])
def test_plans_executes_and_plans_again(planner, execute, policy):
    planner.register_to_config(prompt_policy=policy)
    agent = PlannerAgent(planner, execute=execute)
    actions = act(agent, ALL)
    for slot in range(3):
        expected = by_hand(planner, slot, 9, execute, every_plan=policy == "every_plan")
        for step in range(9):
            np.testing.assert_allclose(actions[step, slot], expected[step], atol=1e-6)
    assert [size for size, _ in agent.plan_seconds] == [3] * -(-9 // execute)
    assert all(seconds > 0 for _, seconds in agent.plan_seconds)


def test_overrides_reach_the_planner(planner):
    actions = act(PlannerAgent(planner, execute=3, guidance_scale=2.0, target_return=0.2), ALL)
    for step, expected in enumerate(by_hand(planner, 1, 9, 3, guidance_scale=2.0, target_return=0.2)):
        np.testing.assert_allclose(actions[step, 1], expected, atol=1e-6)
    plain = act(PlannerAgent(planner, execute=3), ALL)
    assert np.abs(actions[0, 1] - plain[0, 1]).max() > 1e-4


def test_slots_that_finish_early_change_nothing_for_the_others(planner):
    agent = PlannerAgent(planner, execute=2)
    together = act(agent, ALL)
    leaving = act(agent, [[0, 1, 2]] * 3 + [[0, 2]] * 2 + [[2]] * 4)
    for place, action in leaving.items():
        np.testing.assert_allclose(action, together[place], atol=1e-6)


def test_slots_may_begin_at_different_times(planner):
    agent = PlannerAgent(planner, execute=1)
    late = act(agent, [[0], [0, 1], [0, 1, 2], [0, 1, 2]])
    alone = PlannerAgent(planner, execute=1)
    alone.reset(TASKS, SEEDS)
    for step in (2, 3):
        expected = alone.act(STATES[step, [2]], np.array([2]))
        np.testing.assert_allclose(late[step, 2], expected[0], atol=1e-6)


def test_seeds_decide_and_nothing_else(planner):
    agent = PlannerAgent(planner, execute=4)
    first = act(agent, ALL)
    torch.manual_seed(777)
    again = act(agent, ALL)  # reset forgets histories, plans and prompts
    assert all(np.array_equal(first[place], again[place]) for place in first)
    other = act(agent, ALL, seeds=[1, 2, 3])
    assert all(np.abs(first[place] - other[place]).max() > 1e-6 for place in first)
    # Equal seeds draw equal prompts and noise in slots that see the same.
    agent.reset(["reach-v3"] * 2, [5, 5])
    a, b = agent.act(STATES[0, [0, 0]], np.array([0, 1]))
    np.testing.assert_array_equal(a, b)
    act(agent, ALL[:1], seeds=[2**64 - 1, -3, 0])  # any integer is a seed


def test_defaults_come_with_the_pipeline(planner):
    planner.register_to_config(execute=5)
    agent = PlannerAgent(planner)
    act(agent, ALL)
    assert len(agent.plan_seconds) == 2


@pytest.mark.parametrize("conditioning", [{}, {"return": {"name": "target_return", "hidden": (8,)}}])
def test_a_planner_that_is_told_neither_task_nor_history(values, dataset, conditioning):
    values["conditioning"] = conditioning
    agent = PlannerAgent(compose(values, dataset, None)[0], execute=3)
    act(agent, ALL, tasks=["anything"] * 3)
    assert not agent.prompted


@pytest.mark.parametrize("execute", [0, 9])
def test_execute_out_of_range(planner, execute):
    with pytest.raises(ValueError, match="execute") as error:
        PlannerAgent(planner, execute=execute)
    assert str(error.value) == f"execute: must be between 1 and the horizon 8, got {execute}"


def test_a_task_without_prompts(planner):
    with pytest.raises(DataError) as error:
        PlannerAgent(planner).reset(["reach-v3", "pushh-v3"], [0, 1])
    message = "prompts: unknown task 'pushh-v3'. Allowed: push-v3, reach-v3. Did you mean 'push-v3'?"
    assert str(error.value) == message
