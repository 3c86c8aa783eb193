"""Learners of offline reinforcement learning by name: what data, real or synthetic, are worth to a policy."""

from mtdiff.learners.batches import Batches, Transitions
from mtdiff.learners.iql import IQL
from mtdiff.learners.learner import Learner, LearnerAgent
from mtdiff.learners.td3_bc import TD3BC
from mtdiff.learners.train import return_scale, train_learner

__all__ = [
    "IQL", "TD3BC", "Batches", "Learner", "LearnerAgent", "Transitions", "return_scale", "train_learner",
]  # fmt: skip
