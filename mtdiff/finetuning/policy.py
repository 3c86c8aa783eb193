"""A planner as a stochastic policy: chains of denoising, and their probabilities under weights that have changed.

Shapes: B plans, L history, O state, H horizon, D action, S sampling timesteps, T of them that are learnt.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mtdiff.conditioning.encoder import Condition
from mtdiff.diffusion import Denoiser, Transitions, draw_noise, sample, transitions
from mtdiff.schedulers.solver import probe

if TYPE_CHECKING:
    from mtdiff.backbones.backbone import Backbone
    from mtdiff.conditioning.mapping import Conditioning
    from mtdiff.pipelines.planner import PlannerPipeline


class ChainPolicy(nn.Module):
    """Plans by a chain of Gaussians whose means are the network's (SODP's denoising MDP).

    State (s, k, a^k), action a^{k-1}, reward only at the end: log p(a^{k-1} | a^k, s) = log N(mu_k(a^k, s), std_k^2).
    Only the entries of x that the carried out actions depend on are part of it: all of them, or the first ones where
    the backbone is causal.

    Args:
        pipeline: how plans are sampled; its networks are copied, not changed.
        std_floor: least standard deviation of every call's noise, above 0.
        last: T; None means all.

    Raises:
        ValueError: the scheduler draws no noise, so its steps are not Gaussian.
    """

    def __init__(self, pipeline: PlannerPipeline, *, std_floor: float, last: int | None = None):
        super().__init__()
        backbone, conditioning = copy.deepcopy(pipeline.backbone), copy.deepcopy(pipeline.conditioning)
        self.backbone: Backbone = backbone.requires_grad_(True)
        self.conditioning: Conditioning = conditioning.requires_grad_(True)
        self.denoiser = Denoiser(self.backbone, self.conditioning).eval()
        self.scheduler = pipeline.scheduler
        self.solver = probe(pipeline.scheduler, pipeline.config.num_inference_steps)
        require_gaussian(self.solver.stochastic, type(pipeline.scheduler).__name__)
        self.prediction_type = pipeline.scheduler.config.prediction_type
        self.normalizer, self.representation = pipeline.normalizer, pipeline.representation
        self.bounds: Tensor
        self.register_buffer("bounds", pipeline.representation.bounds.float(), persistent=False)
        self.temperature, self.initial = pipeline.config.temperature, pipeline.config.initial_temperature
        self.execute, self.std_floor = pipeline.config.execute, std_floor
        self.entries = pipeline._entries(self.execute)
        self.last = len(self.solver) if last is None else last
        history = pipeline.conditioning.reading("history")
        self.length = history.length if history is not None else 1
        self.timesteps: Tensor
        self.register_buffer("timesteps", torch.tensor(self.solver.timesteps), persistent=False)

    def fields(self, history: Tensor) -> dict[str, Tensor]:
        """What encoders read, from histories (B, L, O) in model space, zeros before the episode began."""
        return {"history": history, "present": history[:, -1]}

    @torch.no_grad()
    def plan(self, history: Tensor, generators: Sequence[torch.Generator | None]) -> tuple[Tensor, Tensor]:
        """Sample plans; each draws from its own generator alone.

        Returns:
            Actions to carry out (B, n, A) in physical units, and the chains (S + 1, B, entries, D).
        """
        shape = (self.representation.horizon, self.representation.channels)
        noise = draw_noise(shape, generators, len(self.solver) + 1)[:, :, : self.entries].to(history.device)
        condition = self.conditioning(self.fields(history))
        chain = sample(
            self.backbone.prepare(condition, self.solver.timesteps),
            self.solver,
            noise,
            prediction_type=self.prediction_type,
            bounds=self.bounds,
            temperature=self.temperature,
            initial_temperature=self.initial,
            std_floor=self.std_floor,
            chain=True,
        )
        actions = self.normalizer.physical_actions(self.representation.decode(chain[-1])["actions"])
        return actions[:, : self.execute], chain

    def forward(self, history: Tensor, chain: Tensor) -> Transitions:
        """The Gaussians of the last T calls of chains (S + 1, B, entries, D), in one flat batch.

        The conditions are encoded once per plan, and the backbone is called once for all calls and plans.
        """
        condition, backbone = self.conditioning(self.fields(history)), self.backbone

        def predict(x: Tensor, call: Tensor) -> Tensor:
            known, repeats = backbone.read(condition), len(x) // len(history)
            if isinstance(known, Tensor):
                known = known.repeat(repeats, *[1] * (known.ndim - 1))
            elif isinstance(known, Condition):
                known = known.rows(torch.arange(len(history), device=x.device).repeat(repeats))
            return backbone.denoise(x.to(backbone.dtype), self.timesteps[call], known)

        return transitions(
            predict,
            self.solver,
            chain,
            last=self.last,
            prediction_type=self.prediction_type,
            bounds=self.bounds,
            temperature=self.temperature,
            std_floor=self.std_floor,
        )

    def weights(self) -> dict[str, Tensor]:
        """The networks' tensors, by the names that `mtdiff.pipelines.copies.weights_of` gives them."""
        return {name: value.detach().cpu().clone() for name, value in self.denoiser.state_dict().items()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over what `weights` returned."""
        self.denoiser.load_state_dict(dict(weights))


def require_gaussian(stochastic: bool, name: str) -> None:
    """Refuse a scheduler whose steps have no probability density.

    Raises:
        ValueError: `scheduler: ...`.
    """
    if not stochastic:
        raise ValueError(
            "scheduler: must draw Gaussian noise in its steps, because fine-tuning needs their probabilities, "
            f"got {name}, which is deterministic. Take ddpm, ddim with eta above 0, or dpm_solver with stochastic: true"
        )
