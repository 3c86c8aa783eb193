"""Denoising networks by name, one file per network."""

from mtdiff.backbones.backbone import Backbone
from mtdiff.backbones.gpt2 import GPT2Backbone
from mtdiff.backbones.residual_mlp import ResidualMLPBackbone
from mtdiff.backbones.temporal_unet import TemporalUNetBackbone

__all__ = ["Backbone", "GPT2Backbone", "ResidualMLPBackbone", "TemporalUNetBackbone"]
