"""One update of TD3+BC and of IQL written a second time: plain functions of tensors, and Adam by hand.

Weights are lists of (weight (F, D), bias (F,)), a network each.
"""

import torch
from torch.nn.functional import linear


def mlp(layers, x):
    for weight, bias in layers[:-1]:
        x = torch.relu(linear(x, weight, bias))
    return linear(x, *layers[-1])


def networks(perceptrons):
    """The members of mtdiff's perceptrons, as lists of layers that need gradients."""
    return [
        [
            (w[i].T.detach().clone().requires_grad_(), b[i, 0].detach().clone().requires_grad_())
            for w, b in zip(perceptrons.weights, perceptrons.biases, strict=True)
        ]
        for i in range(len(perceptrons.weights[0]))
    ]


def flat(*layers_of_networks):
    return [value for layers in layers_of_networks for layer in layers for value in layer]


class Adam:
    """Kingma and Ba 2015, with bias corrections."""

    def __init__(self, values, lr):
        self.values, self.lr, self.step_count = values, lr, 0
        self.means = [torch.zeros_like(value) for value in values]
        self.squares = [torch.zeros_like(value) for value in values]

    def step(self, loss, scale=1.0):
        self.step_count += 1
        gradients = torch.autograd.grad(loss, self.values)
        with torch.no_grad():
            for i, (value, gradient) in enumerate(zip(self.values, gradients, strict=True)):
                self.means[i] = 0.9 * self.means[i] + 0.1 * gradient
                self.squares[i] = 0.999 * self.squares[i] + 0.001 * gradient**2
                mean = self.means[i] / (1 - 0.9**self.step_count)
                square = self.squares[i] / (1 - 0.999**self.step_count)
                value -= scale * self.lr * mean / (square.sqrt() + 1e-8)


def follow(targets, sources, tau):
    with torch.no_grad():
        for target, source in zip(targets, sources, strict=True):
            target.copy_(tau * source + (1 - tau) * target)


class SlowTD3BC:
    def __init__(self, learner):
        self.like, self.count = learner, 0
        self.actor, self.actor_target = (networks(learner.networks[n])[0] for n in ("actor", "actor_target"))
        self.critics, self.targets = (networks(learner.networks[n]) for n in ("critic", "critic_target"))
        self.actor_adam = Adam(flat(self.actor), learner.learning_rate)
        self.critic_adam = Adam(flat(*self.critics), learner.learning_rate)

    def update(self, s, a, r, s2, ended, noise):
        like, targets = self.like, []
        for i in range(len(r)):  # sample by sample
            shaken = torch.tanh(mlp(self.actor_target, s2[i])) + (noise[i] * like.policy_noise).clamp(
                -like.noise_clip, like.noise_clip
            )
            both = torch.cat([s2[i], shaken.clamp(-1, 1)])
            worst = min(mlp(critic, both).item() for critic in self.targets)
            targets.append(r[i] if ended[i] else r[i] + like.discount * worst)
        target = torch.stack(targets)
        both = torch.cat([s, a], 1)
        self.critic_adam.step(sum(((mlp(critic, both)[:, 0] - target) ** 2).mean() for critic in self.critics))
        self.count += 1
        if self.count % like.policy_delay == 0:
            chosen = torch.tanh(mlp(self.actor, s))
            q = mlp(self.critics[0], torch.cat([s, chosen], 1))
            weight = like.alpha / q.abs().mean().item()
            self.actor_adam.step(-weight * q.mean() + ((chosen - a) ** 2).mean())
            follow(flat(self.actor_target, *self.targets), flat(self.actor, *self.critics), like.tau)

    def expected(self):
        return {
            "actor": [self.actor], "actor_target": [self.actor_target],
            "critic": self.critics, "critic_target": self.targets,
        }  # fmt: skip


class SlowIQL:
    def __init__(self, learner):
        self.like = learner
        self.mean, self.value = (networks(n)[0] for n in (learner.networks["actor"].mean, learner.networks["value"]))
        self.log_std = learner.networks["actor"].log_std.detach().clone().requires_grad_()
        self.critics, self.targets = (networks(learner.networks[n]) for n in ("critic", "critic_target"))
        self.actor_adam = Adam([*flat(self.mean), self.log_std], learner.learning_rate)
        self.value_adam = Adam(flat(self.value), learner.learning_rate)
        self.critic_adam = Adam(flat(*self.critics), learner.learning_rate)

    def update(self, s, a, r, s2, ended, noise, share_of_rate):
        like, both = self.like, torch.cat([s, a], 1)
        good = torch.stack([mlp(critic, both)[:, 0] for critic in self.targets]).amin(0).detach()
        v, v2 = mlp(self.value, s)[:, 0], mlp(self.value, s2)[:, 0].detach()
        pairs = zip(good, v, strict=True)
        loss = sum((like.expectile if q > x else 1 - like.expectile) * (q - x) ** 2 for q, x in pairs) / len(v)
        weight = torch.tensor([min(2.718281828459045 ** (like.beta * x), like.max_weight) for x in (good - v).tolist()])
        normal = torch.distributions.Normal(torch.tanh(mlp(self.mean, s)), self.log_std.exp())
        imitation = -(weight * normal.log_prob(a).sum(1)).mean()
        target = torch.where(ended, r, r + like.discount * v2)
        of_critics = sum(((mlp(critic, both)[:, 0] - target) ** 2).mean() for critic in self.critics)
        self.value_adam.step(loss)
        self.critic_adam.step(of_critics)
        self.actor_adam.step(imitation, scale=share_of_rate)
        follow(flat(*self.targets), flat(*self.critics), like.tau)

    def expected(self):
        return {"actor.mean": [self.mean], "value": [self.value], "critic": self.critics, "critic_target": self.targets}
