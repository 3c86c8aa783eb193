"""The task by its number: what a prompt is compared with (MTDiff-P-onehot, He et al. 2023, table 1)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import one_hot

from mtdiff.activations import Activation
from mtdiff.conditioning.encoder import Encoder, mlp
from mtdiff.registry import CONDITIONING


@CONDITIONING.register("one_hot", runtime=("num_tasks", "width"))
class OneHot(Encoder):
    """One token for the number of the task. It cannot name a task that was not trained.

    Args:
        hidden: widths of the hidden layers; none makes it a table of one learnt vector per task.
        activation: of the hidden layers; "mish" is the paper's, "gelu" and "silu" are far cheaper on a CPU.
        dropout: probability of withholding it in training, which makes guidance on it possible.
        num_tasks: from the data.
        width: C, from the backbone.
    """

    reads = ("task",)
    lifetime = "episode"

    def __init__(
        self,
        *,
        hidden: tuple[int, ...] = (),
        activation: Activation = "mish",
        dropout: float = 0.0,
        num_tasks: int,
        width: int,
    ):
        super().__init__(dropout=dropout, width=width)
        if num_tasks < 1:
            raise ValueError("one_hot: needs the names of the tasks, got none")
        self.num_tasks = num_tasks
        self.embed = mlp([num_tasks, *hidden, width], activation)

    def encode(self, fields: Mapping[str, Tensor]) -> Tensor:
        numbers = one_hot(fields["task"].long(), self.num_tasks)  # (B, tasks)
        return self.embed(numbers.to(next(self.embed.parameters()).dtype))[:, None]  # (B, 1, C)
