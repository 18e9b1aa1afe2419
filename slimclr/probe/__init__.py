"""Probes of a frozen backbone."""

from slimclr.probe.linear import LinearProbe, OwnClassifier, evaluate

__all__ = ["LinearProbe", "OwnClassifier", "evaluate"]
