"""Numbers in physical units, which must not be rounded when a pipeline is cast to half precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from diffusers import ConfigMixin, ModelMixin
from torch import Tensor


class ExactModel(ModelMixin, ConfigMixin):
    """A component whose buffers move between devices but stay in single precision: when loaded, and in `.to(dtype)`."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Self:
        """Load as saved, whatever the dtype asked for."""
        return super().from_pretrained(*args, **{k: v for k, v in kwargs.items() if k not in ("dtype", "torch_dtype")})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            setattr(self, name, buffer.to(getattr(self, name).device))
        return self
