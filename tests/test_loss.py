"""The training loss, against a computation by hand, diffusers and a closed form."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from mtdiff.diffusion import Denoiser, denoising_loss, draw_timesteps, target_of
from mtdiff.representations import ActionsRepresentation
from mtdiff.schedulers import PredictionType, ddpm, probe, vp_betas

PREDICTION_TYPES = get_args(PredictionType)
MU = torch.tensor([0.3, -0.5])
STD = torch.tensor([0.5, 0.6])


def batch(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (6, 5, 3)
    weight = torch.ones(shape)
    weight[1, 3:] = 0
    weight[4, 1:] = 0
    return {
        "x0": torch.randn(shape, generator=generator),
        "noise": torch.randn(shape, generator=generator),
        "weight": weight,
        "timestep": torch.tensor([0, 7, 19, 3, 11, 19]),
    }


def told(x: Tensor, timestep: Tensor, fields: Any, drop: Any) -> Tensor:
    """Stands where a denoiser does: depends on x, timestep and fields, each sample on its own."""
    return torch.sin(x + timestep[:, None, None]) * fields["scale"][:, None, None]


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_loss_equals_a_computation_by_hand(prediction_type: str) -> None:
    scheduler = ddpm(num_train_timesteps=20, prediction_type=prediction_type)
    data = batch()
    fields = {"scale": torch.linspace(0.5, 1.5, 6)}
    losses = denoising_loss(told, scheduler, **data, fields=fields)
    assert losses.shape == (6,)
    betas = vp_betas(20)
    for b in range(6):
        kept = 1.0
        for beta in betas[: int(data["timestep"][b]) + 1]:
            kept *= 1 - beta
        x0, noise = data["x0"][b].double(), data["noise"][b].double()
        x = kept**0.5 * x0 + (1 - kept) ** 0.5 * noise
        target = {
            "sample": x0,
            "epsilon": noise,
            "v_prediction": kept**0.5 * noise - (1 - kept) ** 0.5 * x0,
        }[prediction_type]
        total = 0.0
        for h in range(5):
            for d in range(3):
                predicted = torch.sin(x[h, d] + data["timestep"][b]) * fields["scale"][b]
                total += float(data["weight"][b, h, d] * (predicted - target[h, d]) ** 2)
        assert float(losses[b]) == pytest.approx(total / 15, rel=1e-5)


def test_huber_loss_equals_a_computation_by_hand() -> None:
    """e^2 / 2 below 1, |e| - 1/2 above; both sides of it occur."""
    scheduler, data = ddpm(num_train_timesteps=20, prediction_type="epsilon"), batch()
    data["noise"] *= 2

    def nothing(x: Tensor, *_: Any) -> Tensor:
        return torch.zeros_like(x)

    losses = denoising_loss(nothing, scheduler, **data, fields={}, loss="huber")
    sizes = data["noise"].abs()  # of the errors
    assert 0.2 < (sizes < 1).float().mean() < 0.8
    for b in range(6):
        total = 0.0
        for weight, size in zip(data["weight"][b].flatten().tolist(), sizes[b].flatten().tolist(), strict=True):
            total += weight * (size * size / 2 if size < 1 else size - 0.5)
        assert float(losses[b]) == pytest.approx(total / 15, rel=1e-5)


@pytest.mark.parametrize("weight", [1.0, 10.0, 0.0])
def test_the_first_action_weighs_what_the_representation_says(weight: float) -> None:
    actions = ActionsRepresentation(horizon=5, first_weight=weight, action_dim=3)
    mask = torch.tensor([[True] * 5, [True, False, False, False, False]])
    window = {"actions": torch.rand(2, 5, 3), "mask": mask}
    x0, weights = actions.encode(window)
    assert x0 is window["actions"]
    expected = torch.zeros(2, 5, 3)
    expected[0, 1:] = 1
    expected[:, 0] = weight
    assert torch.equal(weights, expected)
    assert window["mask"].sum() == 6  # it stays as it is
    scheduler = ddpm(num_train_timesteps=20, prediction_type="sample")
    losses = denoising_loss(
        lambda x, *_: torch.zeros_like(x),
        scheduler,
        x0=torch.ones(2, 5, 3),
        weight=weights,
        fields={},
        timestep=torch.zeros(2, dtype=torch.long),
        noise=torch.zeros(2, 5, 3),
    )
    torch.testing.assert_close(losses, torch.tensor([(4 + weight) / 5, weight / 5]))


def test_padding_counts_as_no_error_and_splits_average_to_the_whole() -> None:
    scheduler, data = ddpm(num_train_timesteps=20), batch()
    fields = {"scale": torch.ones(6)}
    whole = denoising_loss(told, scheduler, **data, fields=fields)
    changed = data | {"x0": torch.where(data["weight"] > 0, data["x0"], torch.tensor(50.0))}
    torch.testing.assert_close(denoising_loss(told, scheduler, **changed, fields=fields), whole, rtol=0, atol=0)
    unpadded = denoising_loss(told, scheduler, **(data | {"weight": torch.ones(6, 5, 3)}), fields=fields)
    assert (whole <= unpadded).all()
    assert torch.equal(whole == unpadded, torch.tensor([True, False, True, True, False, True]))
    parts = [
        denoising_loss(
            told,
            scheduler,
            **{name: value[part] for name, value in data.items()},
            fields={"scale": torch.ones(len(range(6)[part]))},
        ).mean()
        for part in (slice(0, 2), slice(2, 4), slice(4, 6))
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole.mean())


def test_the_exact_denoiser_has_the_least_loss() -> None:
    """Its expected loss is the variance of x0 given x, s^2 sigma^2 / v, at every timestep."""
    scheduler = ddpm(num_train_timesteps=20)
    generator = torch.Generator().manual_seed(0)
    count = 20_000
    shape = (count, 1, 2)
    x0 = MU + STD * torch.randn(shape, generator=generator)
    noise = torch.randn(shape, generator=generator)
    for k in (0, 5, 19):
        cumulative = float(scheduler.alphas_cumprod[k])
        alpha, sigma = cumulative**0.5, (1 - cumulative) ** 0.5
        variance = alpha**2 * STD**2 + sigma**2

        def exact(x: Tensor, *_: Any, alpha: float = alpha, variance: Tensor = variance) -> Tensor:
            return MU + alpha * STD**2 / variance * (x - alpha * MU)

        losses = denoising_loss(
            exact,
            scheduler,
            x0=x0,
            noise=noise,
            weight=torch.ones(shape),
            fields={},
            timestep=torch.full((count,), k),
        )
        least = float((STD**2 * sigma**2 / variance).mean())
        assert float(losses.mean()) == pytest.approx(least, abs=5 * float(losses.std()) / count**0.5)


def test_target_and_process_agree_with_diffusers() -> None:
    scheduler: DDPMScheduler = ddpm(num_train_timesteps=20)
    data = batch()
    seen = {}

    def spy(x: Tensor, timestep: Tensor, fields: Any, drop: Any) -> Tensor:
        seen["x"] = x
        return torch.zeros_like(x)

    denoising_loss(spy, scheduler, **data, fields={})
    x = scheduler.add_noise(data["x0"], data["noise"], data["timestep"])
    torch.testing.assert_close(seen["x"], x)
    cumulative = scheduler.alphas_cumprod[data["timestep"]][:, None, None]
    alpha, sigma = cumulative.sqrt(), (1 - cumulative).sqrt()
    velocity = target_of(data["x0"], data["noise"], alpha, sigma, "v_prediction")
    torch.testing.assert_close(velocity, scheduler.get_velocity(data["x0"], data["noise"], data["timestep"]))
    assert target_of(data["x0"], data["noise"], alpha, sigma, "sample") is data["x0"]
    assert target_of(data["x0"], data["noise"], alpha, sigma, "epsilon") is data["noise"]


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_sampling_undoes_what_the_loss_teaches(prediction_type: str) -> None:
    """A model that predicts the loss' target exactly is understood by the solver as the same x0."""
    scheduler, data = ddpm(num_train_timesteps=20, prediction_type=prediction_type), batch()
    solver = probe(scheduler, 20)
    for i, timestep in enumerate(solver.timesteps):
        alpha, sigma = torch.tensor(solver.alpha[i]), torch.tensor(solver.sigma[i])
        at = torch.full((6,), timestep)
        x = scheduler.add_noise(data["x0"], data["noise"], at)
        prediction = target_of(data["x0"], data["noise"], alpha, sigma, prediction_type)
        torch.testing.assert_close(solver.to_x0(prediction, x, i, prediction_type), data["x0"], rtol=0, atol=2e-5)


def test_denoiser_hands_the_encoded_conditions_to_the_backbone() -> None:
    class Conditions(torch.nn.Module):
        def forward(self, fields: Any, drop: Any) -> Any:
            return fields["value"] * (1 - drop["value"].float())

    class Network(torch.nn.Module):
        def forward(self, x: Tensor, timestep: Tensor, condition: Any) -> Tensor:
            return x + timestep[:, None, None] + condition[:, None, None]

    x, timestep = torch.zeros(3, 2, 1), torch.tensor([1, 2, 3])
    denoiser = Denoiser(Network(), Conditions())
    got = denoiser(x, timestep, {"value": torch.ones(3)}, {"value": torch.tensor([False, True, False])})
    assert got[:, 0, 0].tolist() == [2.0, 2.0, 4.0]


@pytest.mark.parametrize("bias", [0.0, 1.0, 3.0])
def test_timesteps_are_drawn_as_often_as_the_bias_says(bias: float) -> None:
    timesteps, size = 20, 200_000
    drawn = draw_timesteps(size, timesteps, bias=bias, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=timesteps) / size
    below = (torch.arange(timesteps + 1) / timesteps) ** (bias + 1)
    torch.testing.assert_close(shares, below.diff(), atol=0.003, rtol=0)


def test_without_bias_timesteps_are_those_of_before() -> None:
    drawn = draw_timesteps(50, 200, generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn, torch.randint(200, (50,), generator=torch.Generator().manual_seed(3)))
