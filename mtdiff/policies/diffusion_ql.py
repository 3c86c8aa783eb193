"""Diffusion-QL for many tasks (MTDQL; Wang, Hunt and Zhou 2023): a denoised action that a critic pulls upwards."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mtdiff.activations import ACTIVATIONS, Activation
from mtdiff.backbones.backbone import TimestepEmbedding
from mtdiff.conditioning.encoder import Condition, Role, mlp
from mtdiff.diffusion import denoising_loss, draw_noise, sample
from mtdiff.errors import at_least
from mtdiff.policies.critics import Critics, Heads, TaskBatch, ValuePolicy
from mtdiff.registry import POLICIES, SCHEDULERS
from mtdiff.schedulers.solver import Solver, probe
from mtdiff.schedulers.vp import PredictionType

_TIME = 16  # width of the timestep's embedding, the authors'


class DenoisingActor(nn.Module):
    """A perceptron that predicts from a noisy action, a timestep and what is seen, read once for all timesteps.

    Args:
        seen: width of what is seen.
        hidden: widths of the hidden layers.
        action_dim: A.
        activation: of the hidden layers.
    """

    def __init__(self, *, seen: int, hidden: Sequence[int], action_dim: int, activation: Activation):
        super().__init__()
        self.time = TimestepEmbedding(_TIME, 2 * _TIME)
        self.look = nn.Linear(seen, hidden[0])
        self.enter = nn.Linear(action_dim + _TIME, hidden[0], bias=False)
        self.rest = nn.Sequential(ACTIVATIONS[activation](), mlp([*hidden, action_dim], activation))

    def forward(self, x: Tensor, timestep: Tensor, look: Tensor) -> Tensor:
        """Predict from x (B, 1, A) at `timestep`, (B,) or (1,), and what `look` made of what is seen; (B, 1, A)."""
        time = self.time(timestep).expand(len(x), -1)
        return self.rest(self.enter(torch.cat([x[:, 0], time], dim=1)) + look)[:, None]


@POLICIES.register("diffusion_ql", runtime=("state_dim", "action_dim", "num_tasks", "roles"))
class DiffusionQLPolicy(ValuePolicy):
    """Diffusion-QL: a diffusion model of one action, told the task, that also climbs a critic (MTDQL).

    The actor minimises its denoising loss minus eta Q(s, a) / mean |Q'(s, a)|, with a sampled through all timesteps and
    its gradient through them; Q and Q' are the two critics, either first by a coin for every sample, and the mean is
    the sample's task's. Both critics learn r + discount (1 - terminated) min_i Q'_i(s', a'), a' from an actor that
    follows. To act, it samples some actions and takes one by what the target critics say; a task that was not trained
    has no critic, and the first sample is taken.

    A task's rewards are divided by their range, and not shifted. An episode that was only cut off, also by whoever
    recorded it, because it had succeeded, goes on: its last rewards are extended. Gradients of the losses share one
    optimiser: train with `max_grad_norm: 0`.

    Args:
        width: C, width of condition tokens.
        hidden: widths of the hidden layers of the actor.
        critic_hidden: widths of the hidden layers of the critics, of each head.
        activation: of the actor's hidden layers; "mish" is the authors'.
        heads: of the critics, "per_task" (the paper), a network for each task, or "shared", one that reads the task's
            number.
        length: L, states it looks back on, at least 1.
        discount: what a reward is worth one step later, at least 0 and below 1.
        tau: share of the new weights that the targets of actor and critics take over in every update, above 0, at
            most 1.
        eta: weight of the critic, at least 0; 0 is cloning.
        timesteps: K, of training and of sampling, at least 1.
        prediction_type: what the actor predicts; "epsilon" is the authors'.
        candidates: actions that are sampled to act, at least 1.
        pick: which of them is taken: "softmax" draws by exp Q, as the authors do, "argmax" takes the best.
        state_dim: O, from the data.
        action_dim: A, from the data.
        num_tasks: from the data.
        roles: the conditions, from the conditioning.
    """

    @register_to_config
    def __init__(
        self,
        *,
        width: int = 64,
        hidden: tuple[int, ...] = (256, 256, 256),
        critic_hidden: tuple[int, ...] = (256, 256),
        activation: Activation = "mish",
        heads: Heads = "per_task",
        length: int = 1,
        discount: float = 0.99,
        tau: float = 0.005,
        eta: float = 1.0,
        timesteps: int = 5,
        prediction_type: PredictionType = "sample",
        candidates: int = 50,
        pick: Literal["softmax", "argmax"] = "softmax",
        state_dim: int,
        action_dim: int,
        num_tasks: int,
        roles: Sequence[Role | Mapping[str, Any]],
    ):
        super().__init__()
        self._remember(
            roles=roles, width=width, length=length, num_tasks=num_tasks, action_dim=action_dim, discount=discount,
            tau=tau, hidden=hidden, critic_hidden=critic_hidden,
        )  # fmt: skip
        at_least(0, eta=eta)
        at_least(1, timesteps=timesteps, candidates=candidates)
        seen = length * state_dim
        self.action_dim = action_dim
        actor = DenoisingActor(seen=seen + width, hidden=hidden, action_dim=action_dim, activation=activation)
        self.actor = self._target("actor", actor)
        judges: dict[str, Any] = {"hidden": critic_hidden, "num_tasks": num_tasks, "heads": heads, "estimates": 2}
        self.critic = self._target("critic", Critics(inputs=seen + action_dim, **judges))

    @functools.cached_property
    def scheduler(self) -> Any:
        """The noise, MTDiff's variance-preserving schedule."""
        config = self.config
        return SCHEDULERS.build(
            {"name": "ddpm", "num_train_timesteps": config.timesteps, "prediction_type": config.prediction_type}
        )

    @functools.cached_property
    def solver(self) -> Solver:
        """Ancestral sampling through all timesteps."""
        return probe(self.scheduler, self.config.timesteps)

    def draw(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        chain = (size, self.config.timesteps + 1, 1, self.action_dim)
        return {
            "timestep": torch.randint(self.config.timesteps, (size,), generator=generator),
            "noise": torch.randn(size, 1, self.action_dim, generator=generator),
            "chain": torch.randn(chain, generator=generator),
            "next_chain": torch.randn(chain, generator=generator),
            "coin": torch.rand(size, generator=generator) < 0.5,
        }

    def losses(self, fields: Mapping[str, Tensor], condition: Condition, drawn: Mapping[str, Tensor]) -> Tensor:
        states, actions, next_states, tasks = self._batch(fields)
        with torch.no_grad():
            later = self._sample(self.actor_target, self._see(next_states, condition), drawn["next_chain"])
            good = self.critic_target(torch.cat([next_states, later], dim=1), tasks).amin(dim=0)
            target = self._learnt(fields, good)
        errors = (self.critic(torch.cat([states, actions], dim=1), tasks) - target).square().sum(dim=0)
        seen = self._see(states, condition)
        look = self.actor.look(seen)
        x0 = actions[:, None]
        cloning = denoising_loss(
            lambda x, timestep, *_: self.actor(x, timestep, look),
            self.scheduler,
            x0=x0,
            weight=torch.ones_like(x0),
            fields=fields,
            timestep=drawn["timestep"],
            noise=drawn["noise"],
        )
        if not self.config.eta:
            return cloning + errors
        own = self._sample(self.actor, seen, drawn["chain"], look=look)
        q = self.critic(torch.cat([states, own], dim=1), tasks, frozen=True)
        climbs, other = torch.where(drawn["coin"], q, q.flip(0))
        size = tasks.mean(other.detach().abs()).clamp(min=1e-6)
        return cloning + errors - self.config.eta * climbs / size

    def _sample(self, actor: DenoisingActor, seen: Tensor, chain: Tensor, look: Tensor | None = None) -> Tensor:
        """Denoise actions (B, A) in [-1, 1] from noise (B, K + 1, 1, A); gradients pass through all timesteps."""
        look = actor.look(seen) if look is None else look
        timesteps = torch.tensor(self.solver.timesteps, device=seen.device)
        bounds = seen.new_tensor([[-1.0, 1.0]]).expand(self.action_dim, 2)
        x0 = sample(
            lambda x, i: actor(x, timesteps[i : i + 1], look)[None],
            self.solver,
            chain.transpose(0, 1),
            prediction_type=self.config.prediction_type,
            bounds=bounds,
        )
        return x0[:, 0]

    def act(
        self, fields: Mapping[str, Tensor], condition: Condition, generators: Sequence[torch.Generator | None]
    ) -> Tensor:
        states, count = fields["history"].flatten(1), self.config.candidates
        noise = draw_noise((count, self.action_dim), generators, self.config.timesteps + 1).to(states)
        chain = noise.permute(1, 2, 0, 3).flatten(0, 1)[:, :, None]  # (B N, K + 1, 1, A)
        seen = self._see(states, condition).repeat_interleave(count, dim=0)
        actions = self._sample(self.actor, seen, chain)
        if count == 1:
            return self._model_actions(actions)
        known = fields["task"] >= 0
        tasks = TaskBatch(fields["task"].clamp(min=0), self.num_tasks).repeat(count)
        both = torch.cat([states.repeat_interleave(count, dim=0), actions], dim=1)
        scores = self.critic_target(both, tasks).amin(dim=0).view(-1, count)
        if self.config.pick == "softmax":  # the largest of scores and Gumbel noise is drawn by exp of the scores
            uniform = draw_uniform(count, generators).to(scores).clamp(1e-20, 1 - 1e-7)
            scores = scores - (-uniform.log()).log()
        best = torch.where(known, scores.argmax(dim=1), 0)
        chosen = actions.view(len(states), count, -1)[torch.arange(len(states), device=best.device), best]
        return self._model_actions(chosen)


def draw_uniform(count: int, generators: Sequence[torch.Generator | None]) -> Tensor:
    """Draw `count` numbers in [0, 1) for every sample from that sample's own generator; (B, count), on the CPU."""
    drawn = [torch.rand(count, generator=g, device=g.device if g else "cpu").cpu() for g in generators]
    return torch.stack(drawn)
