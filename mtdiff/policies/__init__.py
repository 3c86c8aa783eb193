"""Policies by name: what acts without planning, and what planners are compared with."""

from mtdiff.policies.cloning import CloningPolicy
from mtdiff.policies.cql import CQLPolicy
from mtdiff.policies.decision_transformer import DecisionTransformer
from mtdiff.policies.diffusion_ql import DiffusionQLPolicy
from mtdiff.policies.iql import IQLPolicy
from mtdiff.policies.policy import Policy

__all__ = ["CQLPolicy", "CloningPolicy", "DecisionTransformer", "DiffusionQLPolicy", "IQLPolicy", "Policy"]
