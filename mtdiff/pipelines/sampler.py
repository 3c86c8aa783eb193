"""What all pipelines share: their parts, how they are saved, and one draw from the sampling loop."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from mtdiff.backbones.backbone import Backbone
from mtdiff.conditioning.mapping import Conditioning
from mtdiff.data.normalizer import Normalizer
from mtdiff.diffusion import Predict, draw_noise, sample
from mtdiff.pipelines.prompts import PromptLibrary
from mtdiff.representations.representation import Representation
from mtdiff.schedulers.solver import Solver
from mtdiff.whole import SEAL

Generators = torch.Generator | Sequence[torch.Generator] | None


class SamplerPipeline(DiffusionPipeline):
    """Trained parts that sample.

    Attributes:
        kind: what messages call it, and `pipeline:` in a recipe.
        makes: what messages call a sample of it.
    """

    kind: ClassVar[str]
    makes: ClassVar[str]
    backbone: Backbone
    conditioning: Conditioning
    representation: Representation
    normalizer: Normalizer
    prompts: PromptLibrary

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """Names of its defaults, which a saved pipeline carries in its configuration."""
        return tuple(cls._get_signature_keys(cls)[1])

    def _take(self, parts: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.register_modules(**parts)
        self.register_to_config(**settings)
        for name in ("backbone", "conditioning"):
            _settle(parts[name])

    @property
    def sampling(self) -> dict[str, Any]:
        """How it samples if nothing else is asked for: its scheduler, by class and kind, and its defaults."""
        config = self.scheduler.config
        kind = config.get("algorithm_type")
        scheduler = type(self.scheduler).__name__ + (f" ({kind})" if kind else "")
        return {"scheduler": scheduler} | {key: self.config[key] for key in self.settings() if key != "suite"}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """As in diffusers, but only from safetensors, unless `trust_remote_code=True`."""
        if not kwargs.get("trust_remote_code"):
            kwargs.setdefault("use_safetensors", True)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def download(cls, pretrained_model_name: str | os.PathLike[str], **kwargs: Any) -> str:
        """Pull a repository into the cache and return its folder; what is damaged or would run code is refused."""
        from mtdiff.sharing.pull import pull
        from mtdiff.sharing.repository import Repository

        names = ("revision", "cache_dir", "local_files_only", "token", "trust_remote_code")
        settings = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        return str(pull(Repository.named(pretrained_model_name, **settings)))

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        revision: str | None = None,
        license: str | None = None,
    ) -> str:
        """Push to the Hub, in one commit and with a model card.

        A pipeline that was loaded from a run, and still has its weights, brings the run's recipe along, and the
        evaluations of it if it samples as it did in them.

        Args:
            repo_id: "user/name"; made if need be.
            commit_message: of the commit.
            private: whether a repository that is made now is private.
            token: by default HF_TOKEN, or that of `hf auth login`.
            create_pr: propose it as a pull request.
            revision: the branch to push to, made if need be; by default the main one.
            license: of the weights, an identifier of the Hub's; see `mtdiff.sharing.push.push`.

        Returns:
            The repository's address.

        Raises:
            MTDiffError: the Hub does not take it; the repository is as it was.
        """
        from mtdiff.sharing.push import push_pipeline

        done = push_pipeline(
            self, repo_id, private=private, revision=revision, message=commit_message, create_pr=create_pr,
            license=license, token=token,
        )  # fmt: skip
        return done["pull_request"] or done["url"]

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """As in diffusers, also into a run's folder, whose checksums are then void."""
        (Path(save_directory) / SEAL).unlink(missing_ok=True)
        pushes = kwargs.pop("push_to_hub", False)
        names = ("repo_id", "commit_message", "private", "token", "create_pr")
        options = {name: kwargs.pop(name) for name in names if name in kwargs} if pushes else {}
        super().save_pretrained(save_directory, **kwargs)
        if pushes:  # diffusers' own would write a card that says nothing
            self.push_to_hub(**({"repo_id": Path(save_directory).name} | options))

    def _temperatures(self, temperature: float | None, initial: float | None) -> dict[str, float | None]:
        """As asked, or the defaults; checked."""
        found = {
            "temperature": self.config.temperature if temperature is None else temperature,
            "initial_temperature": self.config.initial_temperature if initial is None else initial,
        }
        for name, value in found.items():
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name}: must be a finite number of at least 0, got {value}")
        return found

    def _draw(
        self,
        predict: Predict,
        solver: Solver,
        generators: Sequence[torch.Generator | None],
        *,
        entries: int,
        guidance_scale: float = 1.0,
        temperatures: Mapping[str, Any],
    ) -> Tensor:
        """Sample the first `entries` of x, (B, entries, D) in model space.

        Noise is drawn for the whole horizon and cut, so that sampling fewer entries changes none of them.
        """
        shape = (self.representation.horizon, self.representation.channels)
        noise = draw_noise(shape, generators, len(solver) + 1 if solver.stochastic else 1)
        return sample(
            predict,
            solver,
            noise[:, :, :entries].to(self.normalizer.where),
            prediction_type=self.scheduler.config.prediction_type,
            guidance_scale=guidance_scale,
            bounds=self.representation.bounds.float(),
            **temperatures,
        )


def count(generator: Generators) -> int:
    """How many samples generators are for, 1 for a shared one."""
    return 1 if generator is None or isinstance(generator, torch.Generator) else len(generator)


def per_sample(generator: Generators, batch: int) -> list[torch.Generator | None]:
    """One generator for each sample.

    Raises:
        ValueError: another number of them.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return [generator] * batch
    if len(generator) != batch:
        raise ValueError(f"generator: need one, or one for each of the {batch} samples, got {len(generator)}")
    return list(generator)


def _settle(module: Any) -> None:
    """Make a network sample alike whether it was just trained or loaded: no dropout, and aligned weights.

    A loaded file is mapped into memory at any address, and sums over unaligned weights are rounded otherwise.
    """
    if isinstance(module, nn.Module):
        module.eval()
        for parameter in module.parameters():
            if parameter.data_ptr() % 64:
                parameter.data = parameter.data.clone()
