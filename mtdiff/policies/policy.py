"""What a policy offers, whatever it is made of.

B batch, L states looked back on, H actions of an answer, O state, A action, C width of condition tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor

from mtdiff.conditioning.encoder import Condition

if TYPE_CHECKING:
    from mtdiff.data.normalizer import Normalizer
    from mtdiff.data.trajectories import TrajectoryDataset


class Policy(ModelMixin, ConfigMixin):
    """Networks that act in the present state, told their task by conditions, and what they are trained by.

    It reads states itself; conditions tell it what lasts an episode: the task, a return. A subclass takes keyword
    arguments only. `width` (C) is named in the recipe; `state_dim`, `action_dim`, `num_tasks` and `roles` come from
    the data and the conditions, and are declared as runtime arguments at registration.

    All its networks are trained by one optimiser on one loss, so parts of the loss that belong to one network must
    not reach another: detach what the other is read by.

    Attributes:
        length: L, states it looks back on, the present one included.
        horizon: H, actions of an answer.
        reads: "return" if it acts by the return asked for, beside what the conditions are told.
    """

    length: int = 1
    horizon: int = 1
    reads: Sequence[str] = ()

    def window(self) -> dict[str, Any]:
        """Keyword arguments of `mtdiff.data.Windows` beside horizon and history: `past=True`, `outcome=True`."""
        return {}

    def measure(self, normalizer: Normalizer, dataset: TrajectoryDataset) -> None:
        """Take from the data what its buffers keep, such as the scale of rewards; nothing by default."""

    def draw(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the random numbers of a loss, (size, ...) on the CPU: the same on every process."""
        return {}

    def losses(self, fields: Mapping[str, Tensor], condition: Condition, drawn: Mapping[str, Tensor]) -> Tensor:
        """Return a loss for each sample (B,), of which the mean is minimised.

        Args:
            fields: a batch of windows in model space; see `mtdiff.data.windows.Windows.gather`.
            condition: of the batch.
            drawn: what `draw` returned, this process's share of it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define losses(fields, condition, drawn)")

    def updated(self, updates: int) -> None:
        """Called after every optimiser update, counted from 1: target networks follow here."""

    def act(
        self,
        fields: Mapping[str, Tensor],
        condition: Condition,
        generators: Sequence[torch.Generator | None],
    ) -> Tensor:
        """Return actions (B, H, A) in model space.

        Args:
            fields: history (B, L, O) in model space, zeros before the episode; seen (B,), how many of them there are;
                past_actions (B, L, A) in model space and past_rewards (B, L, 1) in physical units, where the present
                step's are zero, because they are still to come; gained (B, 1), all rewards of the episode so far;
                steps (B,), how many it has had; return (B, 1), what is asked for; task (B,), its number, or -1 where
                the policy was not trained on it.
            condition: of the episodes.
            generators: of the samples; None draws from torch's global one.
        """
        raise NotImplementedError(f"{type(self).__name__} must define act(fields, condition, generators)")
