"""What a learner is: from transitions that somebody recorded to a policy, without acting meanwhile.

B batch, O state, A action. States and rewards are in physical units wherever a learner is handed them.
"""

# No postponed annotations: a learner of your own inherits these arguments, and their types are read from its module.
import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam

from mtdiff.errors import DataError, at_least
from mtdiff.learners.networks import flatten

__all__ = ["Learner", "LearnerAgent", "positive", "unit"]

Network = TypeVar("Network", bound=nn.Module)

_ADDED_STD = 1e-3  # as TD3+BC's authors do, so that a constant dimension is not divided by 0


@dataclass(kw_only=True, eq=False)
class Learner(ABC):
    """Networks, their optimisers and the random numbers they draw; the settings are the arguments.

    A learner of your own is a dataclass that inherits from this one, writes `_build`, `_update` and `_act`, and is
    registered.

    Args:
        state_dim: O, from the data.
        action_dim: A, from the data.
        device: where networks and batches live.
        seed: of the first weights and of what is drawn while learning.
        hidden: widths of the hidden layers of every network.
        learning_rate: Adam's, of every network.
        discount: what a reward is worth one step later, between 0 and 1.
        tau: share of the new weights that target networks take over in an update, above 0 and at most 1.
        standardize: subtract the data's mean state and divide by its standard deviation, per dimension.
        reward_scale: rewards are multiplied by this; see `return_scale`.

    Raises:
        ValueError: an argument is out of range, by its name.
    """

    state_dim: int
    action_dim: int
    device: torch.device | str = "cpu"
    seed: int = 0
    hidden: tuple[int, ...] = (256, 256)
    learning_rate: float = 3e-4
    discount: float = 0.99
    tau: float = 0.005
    standardize: bool = True
    reward_scale: float = 1.0

    def __post_init__(self) -> None:
        at_least(1, state_dim=self.state_dim, action_dim=self.action_dim)
        if not self.hidden or min(self.hidden) < 1:
            got = ", ".join(map(str, self.hidden)) or "none"
            raise ValueError(f"hidden: must be one or more widths of at least 1, got {got}")
        unit(discount=self.discount, tau=self.tau)
        positive(learning_rate=self.learning_rate, tau=self.tau, reward_scale=self.reward_scale)
        self.updates = 0  # made so far
        self.planned = 0  # in all, from `begin`; 0: not known, and no learning rate falls
        self.networks = nn.ModuleDict()
        self.optimizers: dict[str, Adam] = {}
        self._flat: dict[nn.Module, Tensor] = {}
        self._averaged: list[tuple[Tensor, Tensor]] = []
        with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
            torch.default_generator.manual_seed(self.seed)  # and no GPU's
            self._build()
        self.generator = torch.Generator(self.device).manual_seed(self.seed)
        self.state_loc = torch.zeros(self.state_dim, device=self.device)
        self.state_scale = torch.ones(self.state_dim, device=self.device)

    @abstractmethod
    def _build(self) -> None:
        """Make the networks, with `_network` and `_target`, and the optimisers, with `_optimizer`."""

    @abstractmethod
    def _update(self, states: Tensor, actions: Tensor, rewards: Tensor, next_states: Tensor, goes_on: Tensor) -> Any:
        """Learn from one batch whose states are standardised; return metrics. `goes_on` (B,) is 0 after a real end."""

    @abstractmethod
    def _act(self, states: Tensor) -> Tensor:
        """Return the policy's actions (B, A) for standardised states (B, O)."""

    @property
    @abstractmethod
    def critic(self) -> nn.Module:
        """From standardised states and actions side by side, (B, O + A), to two estimates (2, B, 1) of the return."""

    def begin(self, states: np.ndarray | Tensor, *, updates: int) -> None:
        """Measure how states are standardised, and say how many updates there will be.

        Args:
            states: (N, O) in physical units. With data of your own and synthetic ones, take your own.
            updates: in all; a learning rate that falls is 0 after them.
        """
        at_least(1, updates=updates)
        self.planned = updates
        if self.standardize:
            values = torch.as_tensor(states).double()  # on the CPU: the same for every device
            loc, scale = values.mean(0), values.std(0, correction=0) + _ADDED_STD
            self.state_loc, self.state_scale = (v.to(self.state_loc) for v in (loc, scale))

    def update(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Make one update, without waiting for a GPU.

        Args:
            batch: state (B, O), action (B, A) in [-1, 1], reward (B,), next_state (B, O), and terminated (B,), whether
                nothing is to be earned after this step. An episode that was only cut off is not terminated: what
                follows is estimated.

        Returns:
            Losses and estimates as tensors without dimensions, on the device.
        """
        metrics = self._update(
            self.standard(batch["state"]),
            batch["action"],
            batch["reward"] * self.reward_scale,
            self.standard(batch["next_state"]),
            1 - batch["terminated"].to(batch["reward"].dtype),
        )
        self.updates += 1
        return {name: value.detach() for name, value in metrics.items()}

    def standard(self, states: Tensor) -> Tensor:
        """Return states (B, O) as the networks see them."""
        return (states - self.state_loc) / self.state_scale

    def policy(self, states: Tensor) -> Tensor:
        """Return the actions (B, A) in [-1, 1] of the policy, without noise, for states (B, O)."""
        return self._act(self.standard(states))

    def q(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return both critics' estimates (2, B) of the return after actions (B, A); gradients reach both arguments."""
        return self.critic(torch.cat([self.standard(states), actions], dim=-1)).squeeze(-1)

    def agent(self) -> "LearnerAgent":
        """Return what `mtdiff.evaluation.evaluate` runs; it acts with the weights of the moment."""
        return LearnerAgent(self)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments, as JSON has them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {"device": str(self.device), "hidden": list(self.hidden)}

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that the next update depends on, as tensors that `safetensors` can store: copies."""
        state = {f"networks.{name}": value for name, value in self.networks.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            for i, parameter in enumerate(_parameters(optimizer)):
                kept = optimizer.state.get(parameter, {})
                state |= {f"optimizers.{name}.{i}.{key}": value for key, value in kept.items()}
        state |= {"state_loc": self.state_loc, "state_scale": self.state_scale}
        state |= {"generator": self.generator.get_state(), "updates": torch.tensor([self.updates, self.planned])}
        return {name: value.detach().clone() for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state_dict` of a learner with equal settings: the next update is bit for bit the same.

        Raises:
            DataError: an entry is missing, too many, or of another shape.
        """
        rest = dict(state)
        steps: dict[str, list[dict[str, Tensor]]] = {}
        for name, optimizer in self.optimizers.items():
            steps[name] = []
            for i, parameter in enumerate(_parameters(optimizer)):
                prefix = f"optimizers.{name}.{i}."
                keys = [key for key in rest if key.startswith(prefix)]
                kept = {key.removeprefix(prefix): rest.pop(key).to(self.device).clone() for key in keys}
                for key, value in kept.items():
                    if value.ndim:
                        _require_shape(prefix + key, value, parameter)
                steps[name].append(kept)
        own = {key: value for key, value in self.state_dict().items() if not key.startswith("optimizers.")}
        if odd := sorted(own.keys() ^ rest.keys()):
            what = "is missing" if odd[0] in own else "is not one of its entries"
            raise DataError(f"the state of {type(self).__name__}: '{odd[0]}' {what}")
        for key, value in own.items():
            _require_shape(key, rest[key], value)
        prefix = "networks."
        self.networks.load_state_dict({k.removeprefix(prefix): v for k, v in rest.items() if k.startswith(prefix)})
        for name, optimizer in self.optimizers.items():
            for parameter, kept in zip(_parameters(optimizer), steps[name], strict=True):
                optimizer.state[parameter] = kept
        self.state_loc, self.state_scale = (rest[k].to(self.device).clone() for k in ("state_loc", "state_scale"))
        self.generator.set_state(rest["generator"].cpu())
        self.updates, self.planned = rest["updates"].tolist()

    def _network(self, name: str, network: Network) -> Network:
        self.networks[name] = network.to(self.device)
        self._flat[network] = flatten(network)
        return network

    def _target(self, name: str, network: Network) -> Network:
        """Return a copy of a network that `_average` lets follow it."""
        target = self._network(name, copy.deepcopy(network)).requires_grad_(False)
        self._averaged.append((self._flat[target].detach(), self._flat[network].detach()))
        return target

    def _optimizer(self, name: str, *groups: nn.Module) -> None:
        """Make one Adam over networks, each a group with a learning rate of its own."""
        parameters = [{"params": [self._flat[network]]} for network in groups]
        self.optimizers[name] = Adam(parameters, lr=self.learning_rate, fused=True)

    def _descend(self, name: str, loss: Tensor) -> None:
        """Take one step of an optimiser down a loss that no other optimiser's networks have a part in."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()

    def _average(self) -> None:
        """Let every target follow its network."""
        for target, source in self._averaged:
            target.lerp_(source, self.tau)


class LearnerAgent:
    """A learner's policy as an agent: no noise, nothing remembered from step to step.

    Args:
        learner: whose policy it is.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def reset(self, tasks: Sequence[str], seeds: Sequence[int]) -> None:
        """Do nothing: the policy knows neither its task nor chance."""

    @torch.inference_mode()
    def act(self, states: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Return actions (n, A) in [-1, 1] for states (n, O)."""
        seen = torch.as_tensor(states, dtype=torch.float32, device=self.learner.device)
        return self.learner.policy(seen).cpu().numpy()


def positive(**values: float) -> None:
    """Refuse the first of the named arguments that is not above 0.

    Raises:
        ValueError: `<argument>: must be above 0, got <value>`.
    """
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}: must be above 0, got {value}")


def unit(**values: float) -> None:
    """Refuse the first of the named arguments that is not between 0 and 1.

    Raises:
        ValueError: `<argument>: must be between 0 and 1, got <value>`.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: must be between 0 and 1, got {value}")


def _parameters(optimizer: Adam) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _require_shape(name: str, got: Tensor, like: Tensor) -> None:
    if got.shape != like.shape:
        raise DataError(f"the state of a learner: '{name}' should have shape {[*like.shape]}, got {[*got.shape]}")
