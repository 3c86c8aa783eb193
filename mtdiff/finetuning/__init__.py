"""SODP's second stage: pre-trained planners, fine-tuned per task by policy gradient on their own denoising."""

from mtdiff.finetuning.settings import FineTuning

__all__ = ["FineTuning"]
