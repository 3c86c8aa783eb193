"""Lets this process, which has imported huggingface_hub long ago, talk to a Hub of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import WRITER, Hub


def environment(hub: Hub, home: Path, token: str = WRITER) -> dict[str, str]:
    """What another process needs instead."""
    return {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip


def connect(patch: pytest.MonkeyPatch, hub: Hub, home: Path, token: str | None = WRITER) -> None:
    """Set what huggingface_hub and datasets took from the environment when they were imported."""
    import datasets
    from huggingface_hub import constants, hf_api

    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }.items():
        patch.setattr(constants, name, value)
    patch.setattr(hf_api.api, "endpoint", hub.url)
    patch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    patch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)
    if token is not None:
        patch.setenv("HF_TOKEN", token)
