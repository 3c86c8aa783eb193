"""One update of an offline learner: mtdiff's, against the loop one writes first.

    OMP_NUM_THREADS=1 python benchmarks/learners.py --json benchmarks/results/learners.json

The plain loops keep two critics as two networks, optimise with Adam as it comes, let targets follow parameter by
parameter, draw batches field by field, and send the policy's gradient through the critic's weights as well. Before
anything is timed, both must give the same policy after updates on the same batches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measure import interleave, parse, ratio, show, spread, table, write
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from mtdiff.learners import IQL, TD3BC, Batches, Learner
from mtdiff.learners.networks import Perceptrons

STATE, ACTION, HIDDEN = 39, 4, 256  # the sizes of Meta-World
TRANSITIONS, BATCH = 100_000, 256
UPDATES = {"td3_bc": 60, "iql": 40}  # a round
CHECKED = 4  # updates after which the policies must agree
MATMUL, MATMULS = 256, 200  # of the matrix product that says what the core can do


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)
    )


def follow(target: nn.Module, source: nn.Module, tau: float) -> None:
    for old, new in zip(target.parameters(), source.parameters(), strict=True):
        old.data.copy_(tau * new.data + (1 - tau) * old.data)


def take(plain: nn.Sequential, ours: Perceptrons, member: int = 0) -> None:
    """Copy the weights of one of our networks."""
    for layer, weight, bias in zip(plain[::2], ours.weights, ours.biases, strict=True):
        layer.weight.data.copy_(weight.data[member].T)
        layer.bias.data.copy_(bias.data[member, 0])


class PlainLoop:
    """What both plain learners share.

    Args:
        like: mtdiff's learner whose settings and first weights are taken.
        data: the fields of transitions, on the device.
    """

    def __init__(self, like: Learner, data: dict[str, Tensor]):
        self.like, self.data, self.updates = like, data, 0
        self.critics = [network(STATE + ACTION, 1) for _ in range(2)]
        for i, critic in enumerate(self.critics):
            take(critic, like.critic, i)
        self.targets = [copy.deepcopy(critic) for critic in self.critics]
        self.critic_optimizer = torch.optim.Adam([p for c in self.critics for p in c.parameters()], lr=3e-4)

    def draw(self) -> dict[str, Tensor]:
        rows = torch.randint(TRANSITIONS, (BATCH,))
        return {name: values[rows] for name, values in self.data.items()}

    def standard(self, states: Tensor) -> Tensor:
        return (states - self.like.state_loc) / self.like.state_scale

    def learn_critics(self, both: Tensor, target: Tensor) -> None:
        loss = sum(mse_loss(critic(both).squeeze(1), target) for critic in self.critics)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()


class PlainTD3BC(PlainLoop):
    """TD3+BC."""

    def __init__(self, like: TD3BC, data: dict[str, Tensor]):
        super().__init__(like, data)
        self.actor = network(STATE, ACTION)
        take(self.actor, like.networks["actor"])
        self.actor_target = copy.deepcopy(self.actor)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=3e-4)

    def update(self, batch: dict[str, Tensor], generator: torch.Generator | None = None) -> None:
        self.updates += 1
        state, after = self.standard(batch["state"]), self.standard(batch["next_state"])
        with torch.no_grad():
            noise = torch.randn(batch["action"].shape, generator=generator) * 0.2
            action = (torch.tanh(self.actor_target(after)) + noise.clamp(-0.5, 0.5)).clamp(-1, 1)
            both = torch.cat([after, action], 1)
            q = torch.min(self.targets[0](both), self.targets[1](both)).squeeze(1)
            target = batch["reward"] + 0.99 * (1 - batch["terminated"]) * q
        self.learn_critics(torch.cat([state, batch["action"]], 1), target)
        if self.updates % 2 == 0:
            chosen = torch.tanh(self.actor(state))
            q = self.critics[0](torch.cat([state, chosen], 1))
            weight = 2.5 / q.abs().mean().detach()
            loss = -weight * q.mean() + mse_loss(chosen, batch["action"])
            self.actor_optimizer.zero_grad()
            loss.backward()
            self.actor_optimizer.step()
            for target_network, critic in zip(self.targets, self.critics, strict=True):
                follow(target_network, critic, 0.005)
            follow(self.actor_target, self.actor, 0.005)


class PlainIQL(PlainLoop):
    """IQL, one loss after the other."""

    def __init__(self, like: IQL, data: dict[str, Tensor]):
        super().__init__(like, data)
        self.mean, self.log_std = network(STATE, ACTION), nn.Parameter(torch.zeros(ACTION))
        take(self.mean, like.networks["actor"].mean)
        self.actor = nn.Sequential(self.mean, nn.Tanh())
        self.value = network(STATE, 1)
        take(self.value, like.networks["value"])
        self.actor_optimizer = torch.optim.Adam([*self.mean.parameters(), self.log_std], lr=3e-4)
        self.value_optimizer = torch.optim.Adam(self.value.parameters(), lr=3e-4)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.actor_optimizer, like.planned)

    def update(self, batch: dict[str, Tensor], generator: torch.Generator | None = None) -> None:
        state, after = self.standard(batch["state"]), self.standard(batch["next_state"])
        both = torch.cat([state, batch["action"]], 1)
        with torch.no_grad():
            q = torch.min(self.targets[0](both), self.targets[1](both)).squeeze(1)
            next_value = self.value(after).squeeze(1)
        advantage = q - self.value(state).squeeze(1)
        loss = (torch.abs(0.7 - (advantage < 0).float()) * advantage**2).mean()
        self.value_optimizer.zero_grad()
        loss.backward()
        self.value_optimizer.step()
        self.learn_critics(both, batch["reward"] + 0.99 * (1 - batch["terminated"]) * next_value)
        for target_network, critic in zip(self.targets, self.critics, strict=True):
            follow(target_network, critic, 0.005)
        weight = torch.exp(3.0 * advantage.detach()).clamp(max=100.0)
        policy = Normal(self.actor(state), self.log_std.clamp(-5, 2).exp())
        loss = -(weight * policy.log_prob(batch["action"]).sum(1)).mean()
        self.actor_optimizer.zero_grad()
        loss.backward()
        self.actor_optimizer.step()
        self.schedule.step()


def numbers(seed: int) -> dict[str, np.ndarray]:
    """Random transitions in the shape of Meta-World's."""
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(TRANSITIONS + 1, STATE)).astype(np.float32)
    return {
        "state": state[:-1],
        "action": rng.uniform(-1, 1, (TRANSITIONS, ACTION)).astype(np.float32),
        "reward": rng.normal(size=TRANSITIONS).astype(np.float32),
        "next_state": state[1:],
        "terminated": rng.random(TRANSITIONS) < 0.01,
    }


def require_equal(learner: Learner, plain: Any, batches: Batches) -> None:
    """The same policy, after the same updates."""
    generator = torch.Generator().set_state(learner.generator.get_state())
    for _ in range(CHECKED):
        batch = batches.draw(learner.updates)
        learner.update(batch)
        plain.update(batch, generator)
    with torch.no_grad():
        ours, theirs = learner.policy(batch["state"]), plain.actor(plain.standard(batch["state"]))
        theirs = theirs.tanh() if isinstance(plain, PlainTD3BC) else theirs
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def flops(update: Callable[[], Any]) -> float:
    """Floating point operations of the matrix products of an update: the mean of two, for every second is longer."""
    with FlopCounterMode(display=False) as counter:
        update()
        update()
    return counter.get_total_flops() / 2


def main() -> None:
    options = parse(__doc__.splitlines()[0], rounds=15)
    transitions = numbers(options.seed)
    fields = {name: torch.from_numpy(values).float() for name, values in transitions.items()}
    batches = Batches([(transitions, 1.0)], batch=BATCH, seed=options.seed)
    square = torch.randn(MATMUL, MATMUL)
    rows: list[dict[str, Any]] = []
    for name, kind, loop in (("td3_bc", TD3BC, PlainTD3BC), ("iql", IQL, PlainIQL)):
        learner = kind(state_dim=STATE, action_dim=ACTION, seed=options.seed)
        learner.begin(transitions["state"], updates=1_000_000)
        plain, count = loop(learner, fields), UPDATES[name]
        require_equal(learner, plain, batches)
        runs: dict[str, Callable[[], Any]] = {
            "mtdiff": lambda learner=learner: learner.update(batches.draw(learner.updates)),
            "plain loop": lambda plain=plain: plain.update(plain.draw()),
        }
        work = {who: flops(update) for who, update in runs.items()}
        repeated = {who: lambda u=update, n=count: [u() for _ in range(n)] for who, update in runs.items()}
        seconds = interleave(
            {**repeated, "matmul": lambda: [square @ square for _ in range(MATMULS)]}, rounds=options.rounds
        )
        peak = spread([2 * MATMUL**3 * MATMULS / value for value in seconds.pop("matmul")])
        for who, measured in seconds.items():
            per_update = spread([value / count for value in measured])
            rows.append(
                {
                    "learner": name,
                    "name": who,
                    "batch": BATCH,
                    "rounds": options.rounds,
                    "updates_per_round": count,
                    "cpu_seconds_per_update": per_update,
                    "flops_per_update": work[who],
                    "matmul_peak_flops": peak,
                    "share_of_peak": work[who] / per_update["median"] / peak["median"],
                    "times": ratio(seconds["plain loop"], measured),
                }
            )
    print(
        f"states of {STATE}, actions of {ACTION}, 2 hidden layers of {HIDDEN}, batch {BATCH}, {options.rounds} rounds"
    )
    cells = [
        (
            f"{row['learner']}, {row['name']}",
            show(row["cpu_seconds_per_update"], scale=1000),
            f"{row['flops_per_update'] / 1e9:.3f}",
            show(row["matmul_peak_flops"], scale=1e-9, digits=0),
            f"{row['share_of_peak']:.0%}",
            show(row["times"]),
        )
        for row in rows
    ]
    print(table(("", "CPU ms per update", "GFLOP", "matmul peak, GFLOP/s", "share of peak", "times"), cells))
    write(options.json, seed=options.seed, rows=rows)


if __name__ == "__main__":
    main()
