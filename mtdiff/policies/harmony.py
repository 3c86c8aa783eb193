"""A mask on the weights for every task, moved to where tasks agree (HarmoDT, Hu et al. 2024)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.func import functional_call

from mtdiff.backbones.gpt2 import Block
from mtdiff.errors import DataError


class TaskLinear(nn.Linear):
    """A linear layer that may be given weights (T, out, in): of T tasks, for as many equal parts of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.ndim == 2:
            return super().forward(x)
        grouped = x.reshape(len(self.weight), -1, x.shape[-1])
        return torch.baddbmm(self.bias.to(x.dtype), grouped, self.weight.to(x.dtype).mT).view(*x.shape[:-1], -1)


class TaskBlock(Block):
    """A block whose matrices may differ between tasks."""

    def __init__(self, width: int, num_heads: int, inner: int, dropout: float, activation: str):
        super().__init__(width, num_heads, inner, dropout, activation)
        self.qkv, self.attention_out = TaskLinear(width, 3 * width), TaskLinear(width, width)
        self.mlp[0], self.mlp[2] = TaskLinear(width, inner), TaskLinear(inner, width)


class Stack(nn.ModuleList):
    """Causal GPT-2 blocks, one after the other, with GPT-2's initial weights.

    Args:
        width: C.
        num_heads: attention heads.
        num_layers: number of blocks.
        dropout: of attention and residuals.
        activation: of the feed-forward parts.
        tasks_apart: whether matrices may be given for each task.
    """

    def __init__(
        self, width: int, num_heads: int, num_layers: int, dropout: float, activation: str, *, tasks_apart: bool = False
    ):
        kind = TaskBlock if tasks_apart else Block
        super().__init__(kind(width, num_heads, 4 * width, dropout, activation) for _ in range(num_layers))
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                ends_branch = name.endswith(("attention_out", "mlp.2"))
                nn.init.normal_(module.weight, std=0.02 / (2 * num_layers) ** 0.5 if ends_branch else 0.02)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, last: int | None = None) -> Tensor:
        """Mix tokens (B, N, C); returns the `last` rows only, all by default."""
        *before, final = self
        for block in before:
            tokens = block(tokens, True)
        return final(tokens, True, last=last)


class TaskMasks(nn.Module):
    """Which weights of the blocks' matrices are live for which task.

    In the beginning a share `sparsity` of them is masked at random, for each task apart, in matrices with few inputs
    and outputs for their size more, by Erdos-Renyi-kernel densities. Norms, biases, embeddings and the head have no
    masks. With g_i the gradient of task i's loss to all weights under its mask, and g their mean over tasks, every
    `every` updates n live weights are masked, those of the least agreement * g g_i + g_i^2, and as many masked ones
    become live, those of the greatest g g_i. n follows a cosine, see `share`. The gradients are those of the update
    itself: they cost nothing more.

    Args:
        stack: the blocks, made with `tasks_apart`.
        num_tasks: T.
        sparsity: share of weights masked, above 0 and below 1.
        every: updates between two changes.
        released: share of a task's masked weights that one change exchanges, at most; see `share`.
        agreement: gamma.
        updates: of the whole training.
    """

    def __init__(
        self,
        stack: Stack,
        num_tasks: int,
        *,
        sparsity: float,
        every: int,
        released: float,
        agreement: float,
        updates: int,
    ):
        super().__init__()
        self._stack = (stack,)  # in a tuple: its weights are not this module's
        self.every, self.released, self.agreement, self.updates = every, released, agreement, updates
        self.num_tasks = num_tasks
        self.names = [f"{name}.weight" for name, part in stack.named_modules() if isinstance(part, TaskLinear)]
        shapes = [stack.get_parameter(name).shape for name in self.names]
        for name, shape, density in zip(self.names, shapes, densities(shapes, 1 - sparsity), strict=True):
            live = torch.rand(num_tasks, *shape) < density
            self.register_buffer(_buffer(name), pack(live))
        self.done: Tensor
        self.register_buffer("done", torch.zeros((), dtype=torch.long))  # updates: a resumed training goes on with it
        self._gradients: dict[str, Tensor] = {}
        self._kept: tuple[Any, dict[str, Tensor]] | None = None

    @property
    def stack(self) -> Stack:
        """The blocks."""
        return self._stack[0]

    def live(self, name: str, tasks: Tensor) -> Tensor:
        """Masks (n, out, in) of a matrix for tasks (n,): 1 where a weight is live."""
        packed = getattr(self, _buffer(name))
        return (packed[tasks // 8] >> (tasks % 8).to(torch.uint8)[:, None, None]) & 1

    def forward(self, tokens: Tensor, task: Tensor) -> Tensor:
        """Mix tokens (B, N, C), each sample under the mask of its task (B,)."""
        tasks, which = task.unique(return_inverse=True)
        order = which.argsort(stable=True)
        counts = which.bincount(minlength=len(tasks))
        rank = torch.empty_like(which)
        rank[order] = torch.arange(len(which), device=which.device) - (counts.cumsum(0) - counts)[which[order]]
        most = int(counts.max())
        table = which.new_zeros(len(tasks), most)  # a row of samples for each task; what is too short repeats one
        table[which, rank] = torch.arange(len(which), device=which.device)
        weights = self._masked(tasks) if torch.is_grad_enabled() else self._known(tasks)
        if self.training and torch.is_grad_enabled() and (int(self.done) + 1) % self.every == 0:
            for name, masked in weights.items():
                if masked.requires_grad:
                    masked.register_hook(lambda gradient, name=name: self._note(name, tasks, gradient))
        mixed = functional_call(self.stack, weights, (tokens[table.flatten()],))
        return mixed[which * most + rank]

    def train(self, mode: bool = True) -> TaskMasks:
        """As in torch. What was kept for acting is dropped: averages are copied into weights unseen by autograd."""
        self._kept = None
        return super().train(mode)

    def updated(self, updates: int) -> None:
        """Count an update, and change the masks if it was time to."""
        self.done.fill_(updates)
        if updates % self.every == 0 and self._gradients:
            self.exchange(self._gradients, self.share(updates))
        self._gradients = {}

    def share(self, updates: int) -> float:
        """Share of the masked weights that a change after so many updates exchanges: most halfway, none at the ends."""
        if not self.updates:
            return 0.0
        return self.released * 0.5 * (1 - math.cos(2 * math.pi * min(updates / self.updates, 1.0)))

    @torch.no_grad()
    def exchange(self, gradients: dict[str, Tensor], share: float) -> None:
        """Mask n live weights of every task and make n masked ones live.

        Args:
            gradients: matrix to (T, out, in), of each task's loss to all its weights; summed over processes here.
            share: n of the masked weights of a task, rounded down.
        """
        own = torch.cat([gradients[name].flatten(1) for name in self.names], dim=1).float()  # (T, weights)
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            distributed.all_reduce(own)
        if not share or not own.isfinite().all():  # half precision may overflow, and that update is then left out
            return
        every = torch.arange(self.num_tasks, device=own.device)
        live = torch.cat([self.live(name, every).flatten(1) for name in self.names], dim=1).bool()
        mean = own.mean(dim=0)
        for number in range(self.num_tasks):
            alive, agreed = live[number].clone(), mean * own[number]
            count = min(int(share * int((~alive).sum())), int(alive.sum()))
            worth = (self.agreement * agreed + own[number].square()).masked_fill(~alive, math.inf)
            live[number, worth.topk(count, largest=False).indices] = False
            live[number, agreed.masked_fill(alive, -math.inf).topk(count).indices] = True
        parts = live.split([gradients[name][0].numel() for name in self.names], dim=1)
        for name, part in zip(self.names, parts, strict=True):
            getattr(self, _buffer(name)).copy_(pack(part.view_as(gradients[name])))

    def refuse_unknown(self, task: Tensor) -> None:
        """Refuse tasks that have no mask.

        Raises:
            DataError: a task was not trained, or not told.
        """
        if bool((task < 0).any()):
            raise DataError(
                f"task: a policy with a mask for each task must be told which of the {self.num_tasks} that it was "
                "trained on, got none or another"
            )

    def _masked(self, tasks: Tensor) -> dict[str, Tensor]:
        """All matrices as the tasks (n,) see them, each (n, out, in)."""
        return {name: self.stack.get_parameter(name) * self.live(name, tasks) for name in self.names}

    def _known(self, tasks: Tensor) -> dict[str, Tensor]:
        """`_masked`, kept from step to step of an episode while nothing changes."""
        parts = [*map(self.stack.get_parameter, self.names), *self.buffers()]
        key = (tasks.tolist(), [(part.data_ptr(), part._version, part.dtype) for part in parts])
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self._masked(tasks)
        return self._kept[1]

    def _note(self, name: str, tasks: Tensor, gradient: Tensor) -> None:
        if name not in self._gradients:
            self._gradients[name] = gradient.new_zeros(self.num_tasks, *gradient.shape[1:])
        self._gradients[name].index_add_(0, tasks, gradient.detach())


def densities(shapes: list[torch.Size], density: float) -> list[float]:
    """Share of live weights of every matrix, in proportion to (in + out) / (in out), `density` of all together.

    Where that is more than 1, a matrix is dense and the others make up for it.
    """
    raw = [sum(shape) / math.prod(shape) for shape in shapes]
    dense: set[int] = set()
    while True:
        rest = [place for place in range(len(shapes)) if place not in dense]
        wanted = density * sum(map(math.prod, shapes)) - sum(math.prod(shapes[place]) for place in dense)
        scale = wanted / sum(raw[place] * math.prod(shapes[place]) for place in rest)
        full = {place for place in rest if scale * raw[place] > 1}
        if not full:
            return [1.0 if place in dense else scale * raw[place] for place in range(len(shapes))]
        dense |= full


def pack(live: Tensor) -> Tensor:
    """Masks (T, ...) of booleans as bits, eight tasks in a byte: (ceil(T / 8), ...)."""
    padded = nn.functional.pad(live.to(torch.uint8).movedim(0, -1), (0, -len(live) % 8)).movedim(-1, 0)
    bits = (2 ** torch.arange(8, device=live.device)).to(torch.uint8)
    shaped = padded.unflatten(0, (-1, 8)) * bits.view(1, 8, *[1] * (live.ndim - 1))
    return shaped.sum(dim=1, dtype=torch.uint8)


def _buffer(name: str) -> str:
    return "live_" + name.removesuffix(".weight").replace(".", "_")
