"""Probes of a frozen backbone."""

from slimclr.probe.evaluation import evaluate
from slimclr.probe.linear import LinearProbe, OwnClassifier

__all__ = ["LinearProbe", "OwnClassifier", "evaluate"]
