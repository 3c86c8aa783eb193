"""Decision transformers: actions by attention over the last steps (Chen et al. 2021; with prompts, Xu et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mtdiff.activations import Activation
from mtdiff.backbones.backbone import TimestepEmbedding, role_list
from mtdiff.conditioning.encoder import Condition, Role, mlp
from mtdiff.errors import at_least, fraction
from mtdiff.policies.harmony import Stack, TaskMasks
from mtdiff.policies.policy import Policy
from mtdiff.policies.return_scale import ReturnScale
from mtdiff.registry import POLICIES

if TYPE_CHECKING:
    from mtdiff.data.normalizer import Normalizer
    from mtdiff.data.trajectories import TrajectoryDataset


@POLICIES.register("decision_transformer", runtime=("state_dim", "action_dim", "num_tasks", "roles", "updates"))
class DecisionTransformer(Policy):
    """GPT-2 blocks over the last steps, each a return still to come, a state and an action; by mean squared error.

    tokens = LN([conditions, R_1, s_1, a_1, ..., R_n, s_n] + E), causal; a_t is read off the token of s_t. Told the
    task's number it is MTDT; shown a prompt, PromptDT; with `sparsity` each task has its own mask on the weights, and
    it is HarmoDT (Hu et al. 2024).

    R_t is the sum of the rewards from step t to the episode's end, over the task's largest. When acting, `return` asks
    for R_1 between the task's 5 % (0) and 95 % (1) quantiles, and what was gained is subtracted; R_t never leaves the
    range that the task's data have. A task that was not trained gets the medians of the others.

    Args:
        width: C, embedding width; divisible by `num_heads`, even.
        num_layers: number of blocks.
        num_heads: attention heads.
        hidden: widths of the hidden layers that embed a state; none as in the papers.
        dropout: of attention, residuals and embeddings, in training.
        activation: of the feed-forward parts.
        length: K, steps it looks back on, the present one included, at least 1.
        horizon: H, actions it gives at once, read off one token, at least 1; `sampling.execute` are carried out.
        return_tokens: show the returns; without them it is cloning with attention.
        action_tokens: show the actions of earlier steps; where these are noisy, a network likes to copy them.
        action_dropout: probability of hiding the action of a step in training, against copying.
        tokens: a step's return, state and action are "separate" tokens, as in the papers; or the return, the state and
            the action before are summed in a "joint" one, which is up to three times cheaper.
        step_embedding: what tells the place of a step: its number in the "window", its number in the "episode", as in
            the papers (in acting at most the longest episode's of the data), or "none".
        sparsity: share of the blocks' weights that are masked for a task; 0 for no masks, 0.2 in HarmoDT.
        mask_every: updates between two changes of the masks.
        released: share of a task's masked weights that one change exchanges, halfway through training; it rises from
            and falls to 0 along a cosine. In HarmoDT 100 of about a million, 1e-4, in each of 2000 changes.
        agreement: gamma, how much agreement with the other tasks' gradients counts beside a weight's own importance.
        state_dim: O, from the data.
        action_dim: A, from the data.
        num_tasks: from the data.
        roles: the conditions, from the conditioning.
        updates: optimiser updates of the whole training, which the masks' schedule follows.
    """

    @register_to_config
    def __init__(
        self,
        *,
        width: int = 128,
        num_layers: int = 3,
        num_heads: int = 4,
        hidden: tuple[int, ...] = (),
        dropout: float = 0.1,
        activation: Activation = "gelu",
        length: int = 20,
        horizon: int = 1,
        return_tokens: bool = True,
        action_tokens: bool = True,
        action_dropout: float = 0.0,
        tokens: Literal["separate", "joint"] = "separate",
        step_embedding: Literal["window", "episode", "none"] = "window",
        sparsity: float = 0.0,
        mask_every: int = 500,
        released: float = 1e-4,
        agreement: float = 10.0,
        state_dim: int,
        action_dim: int,
        num_tasks: int,
        roles: Sequence[Role | Mapping[str, Any]],
        updates: int = 0,
    ):
        super().__init__()
        at_least(1, width=width, num_layers=num_layers, num_heads=num_heads, length=length, horizon=horizon)
        at_least(1, mask_every=mask_every)
        at_least(0, agreement=agreement)
        fraction(dropout=dropout, action_dropout=action_dropout, sparsity=sparsity, released=released)
        if width % num_heads:
            raise ValueError(f"width: must be a multiple of num_heads={num_heads}, got {width}")
        if action_dropout and not action_tokens:
            raise ValueError(f"action_dropout: must be 0 where action_tokens is false, got {action_dropout}")
        known = role_list(roles)
        self.register_to_config(roles=[dict(vars(role)) for role in known])
        self.length, self.horizon, self.action_dim = length, horizon, action_dim
        self.order = [role.name for role in known]
        self.joint, self.action_dropout = tokens == "joint", action_dropout
        self.embed_state = mlp([state_dim, *hidden, width], activation)
        self.embed_action = nn.Linear(action_dim, width) if action_tokens else None
        self.embed_return = nn.Linear(1, width) if return_tokens else None
        self.reads = ("return",) if return_tokens else ()
        self.step_embedding = step_embedding
        if step_embedding == "window":
            self.places = nn.Parameter(torch.zeros(length, width))
        elif step_embedding == "episode":
            self.clock = TimestepEmbedding(width, 2 * width)
            self.longest: Tensor
            self.register_buffer("longest", torch.zeros((), dtype=torch.long))
        self.lead = sum(role.num_tokens for role in known)
        self.lead_places = nn.Parameter(torch.zeros(self.lead, width)) if self.lead else None
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(dropout)
        self.blocks = Stack(width, num_heads, num_layers, dropout, activation, tasks_apart=sparsity > 0)
        self.final_norm = nn.LayerNorm(width)
        self.head = mlp([width, width, horizon * action_dim], activation)
        self.scale = ReturnScale(num_tasks)
        self.masks = None
        if sparsity:
            self.masks = TaskMasks(
                self.blocks, num_tasks, sparsity=sparsity, every=mask_every, released=released, agreement=agreement,
                updates=updates,
            )  # fmt: skip

    def window(self) -> dict[str, Any]:
        return {"past": True}

    def measure(self, normalizer: Normalizer, dataset: TrajectoryDataset) -> None:
        self.scale.measure(dataset)
        if self.step_embedding == "episode":
            self.longest.fill_(int(dataset.lengths.max()) - 1)

    def draw(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        if not self.action_dropout:
            return {}
        return {"hidden": torch.rand(size, self.length, generator=generator) < self.action_dropout}

    def forward(
        self,
        states: Tensor,
        actions: Tensor,
        returns: Tensor,
        steps: Tensor,
        condition: Condition,
        *,
        task: Tensor | None = None,
        hidden: Tensor | None = None,
        last: bool = False,
    ) -> Tensor:
        """Predict the actions of n consecutive steps, each from what came before it alone.

        Args:
            states: (B, n, O) in model space.
            actions: (B, n, A) in model space; the last step's is never looked at.
            returns: (B, n, 1), scaled.
            steps: (B, n), their numbers in the episode; read if `step_embedding` is "episode".
            condition: of the episodes.
            task: (B,) numbers of the tasks, read where tasks have masks.
            hidden: (B, n), steps whose action is not shown.
            last: only of the last step, which costs less.

        Returns:
            (B, n, H, A) in model space, or (B, 1, H, A).
        """
        count, per_step, tokens = states.shape[1], 1, self.embed_state(states)
        at = self._of_steps(steps, count)
        acted = None if self.embed_action is None else self.embed_action(actions)
        if acted is not None and hidden is not None:
            acted = acted.masked_fill(hidden[:, :, None], 0.0)
        returned = None if self.embed_return is None else self.embed_return(returns)
        if self.joint:
            tokens = tokens + at + (0.0 if returned is None else returned)
            if acted is not None:
                tokens = tokens + nn.functional.pad(acted, (0, 0, 1, -1))
        else:
            kinds = [kind + at for kind in (returned, tokens, acted) if kind is not None]
            tokens, per_step = torch.stack(kinds, dim=2).flatten(1, 2), len(kinds)
            if acted is not None:
                tokens = tokens[:, :-1]  # nobody sees the last action
        if self.lead_places is not None:
            told = torch.cat([condition.tokens[name] for name in self.order], dim=1)
            tokens = torch.cat([told + self.lead_places, tokens], dim=1)
        if condition.added is not None:
            tokens = tokens + condition.added[:, None]
        tokens = self.drop(self.norm(tokens))
        if self.masks is None:
            mixed = self.blocks(tokens, last=1 if last else None)
        else:
            assert task is not None
            mixed = self.masks(tokens, task)
        first = self.lead + (returned is not None and not self.joint)
        mixed = mixed[:, -1:] if last else mixed[:, first::per_step]
        return self.head(self.final_norm(mixed)).unflatten(-1, (self.horizon, self.action_dim))

    def losses(self, fields: Mapping[str, Tensor], condition: Condition, drawn: Mapping[str, Tensor]) -> Tensor:
        seen, task = fields["seen"], fields["task"]
        first = first_steps(seen, self.length)
        ahead = torch.cat([fields["past_actions"], fields["actions"][:, 1:]], dim=1)
        there = torch.cat([torch.ones_like(first, dtype=torch.bool), fields["mask"][:, 1:]], dim=1)
        targets = ahead.unfold(1, self.horizon, 1).transpose(2, 3)  # (B, K, H, A)
        exists = there.unfold(1, self.horizon, 1)
        predicted = self(
            in_front(fields["history"], first),
            in_front(fields["past_actions"], first),
            in_front(self.scale(fields["to_go"], task), first),
            self._numbers(fields["steps"], seen) if self.step_embedding == "episode" else seen,
            condition,
            task=task,
            hidden=drawn.get("hidden") if self.training else None,
        )
        errors = (predicted.float() - in_front(targets, first)).square().mean(dim=3)
        known = torch.arange(self.length, device=seen.device) < seen[:, None]
        return (errors * in_front(exists, first) * known[:, :, None]).mean(dim=(1, 2))

    def act(
        self, fields: Mapping[str, Tensor], condition: Condition, generators: Sequence[torch.Generator | None]
    ) -> Tensor:
        seen, task = fields["seen"], fields["task"]
        if self.masks is not None:
            self.masks.refuse_unknown(task)
        count, least = (int(value) for value in torch.stack([seen.max(), seen.min()]).tolist())
        first, dtype = first_steps(seen, self.length)[:, :count], self.norm.weight.dtype
        asked = self.scale.still_asked(fields["return"], fields["gained"], fields["past_rewards"], task)
        shown = (fields["history"], fields["past_actions"], asked)
        predicted = self(
            *(in_front(value, first).to(dtype) for value in shown),
            self._numbers(fields["steps"], seen)[:, :count],
            condition,
            task=task,
            last=count == least,
        )
        if count == least:
            return predicted[:, 0]
        return predicted[torch.arange(len(seen), device=seen.device), seen - 1]

    def updated(self, updates: int) -> None:
        if self.masks is not None:
            self.masks.updated(updates)

    def _of_steps(self, steps: Tensor, count: int) -> Tensor | float:
        """Embeddings of the steps' places, (n, C) or (B, n, C)."""
        if self.step_embedding == "window":
            return self.places[:count]
        if self.step_embedding == "none":
            return 0.0
        numbers = torch.minimum(steps, self.longest)
        return self.clock(numbers.flatten()).unflatten(0, steps.shape)

    def _numbers(self, steps: Tensor, seen: Tensor) -> Tensor:
        """Numbers (B, K) in the episode of the steps that are shown, of which `steps` (B,) is the last seen."""
        places = torch.arange(self.length, device=steps.device)
        return (steps - seen + 1)[:, None] + places


def first_steps(seen: Tensor, length: int) -> Tensor:
    """Places (B, K) of the steps in the order in which they are shown: those that there are come first.

    Windows have what lies before an episode in front. Behind, under causal attention, nothing sees it.
    """
    places = torch.arange(length, device=seen.device) + (length - seen)[:, None]
    return places.clamp(max=length - 1)


def in_front(values: Tensor, places: Tensor) -> Tensor:
    """Take values (B, K, ...) from the places (B, n)."""
    return values[torch.arange(len(values), device=values.device)[:, None], places]
