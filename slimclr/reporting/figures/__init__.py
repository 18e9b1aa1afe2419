"""The figures of the report, drawn without a display and without global state."""

from slimclr.reporting.figures.accuracy import accuracy_drawing, latency_drawing
from slimclr.reporting.figures.drawing import Drawing
from slimclr.reporting.figures.probes import rates_drawing, seen_drawing
from slimclr.reporting.figures.training import gradients_drawing, training_drawing

__all__ = [
    "Drawing",
    "accuracy_drawing",
    "gradients_drawing",
    "latency_drawing",
    "rates_drawing",
    "seen_drawing",
    "training_drawing",
]
