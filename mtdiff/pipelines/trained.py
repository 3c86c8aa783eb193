"""What all pipelines share: how they are saved, pushed and loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from diffusers import DiffusionPipeline
from torch import nn

from mtdiff.conditioning.mapping import Conditioning
from mtdiff.data.normalizer import Normalizer
from mtdiff.pipelines.prompts import PromptLibrary
from mtdiff.whole import SEAL


class TrainedPipeline(DiffusionPipeline):
    """Trained parts that are saved, pushed and loaded as one.

    Attributes:
        kind: what messages call it, and `pipeline:` in a recipe.
        makes: what messages call what a call of it returns.
        networks: names of the components that are trained, the one that acts or samples first.
    """

    kind: ClassVar[str]
    makes: ClassVar[str]
    networks: ClassVar[tuple[str, ...]]
    conditioning: Conditioning
    normalizer: Normalizer
    prompts: PromptLibrary

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """Names of its defaults, which a saved pipeline carries in its configuration."""
        return tuple(cls._get_signature_keys(cls)[1])

    def _take(self, parts: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.register_modules(**parts)
        self.register_to_config(**settings)
        for name in self.networks:
            _settle(parts[name])

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

    @property
    def network(self) -> nn.Module:
        """The network that acts or samples."""
        return getattr(self, self.networks[0])

    @property
    def defaults(self) -> dict[str, Any]:
        """What it does if nothing else is asked for."""
        return {key: self.config[key] for key in self.settings() if key != "suite"}


def _settle(module: Any) -> None:
    """Make a network sample alike whether it was just trained or loaded: no dropout, and aligned weights.

    A loaded file is mapped into memory at any address, and sums over unaligned weights are rounded otherwise.
    """
    if isinstance(module, nn.Module):
        module.eval()
        for parameter in module.parameters():
            if parameter.data_ptr() % 64:
                parameter.data = parameter.data.clone()
