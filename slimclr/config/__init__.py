"""The configuration: frozen, typed, and refused before any job starts when a key or a combination is wrong.

`config/config.yaml` names the data and the runs; `config/runs/<run>.yaml` is one recipe. There is one module for each
section. This package imports neither torch nor Snakemake, so that a dry run is quick.
"""

from slimclr.config.backbone import Backbone
from slimclr.config.base import Model, Positive, dump
from slimclr.config.checkpoint import RELEASED, Checkpoint
from slimclr.config.detection import Detection
from slimclr.config.distillation import Distillation
from slimclr.config.finetune import FineTune
from slimclr.config.identity import OPERATIONAL, decisive, fingerprint, operational
from slimclr.config.load import load_config, load_recipe, load_recipes, parse_section
from slimclr.config.loader import Backend
from slimclr.config.method import NEGATIVES_IN_BATCH, MoCoV2, Random
from slimclr.config.optimizer import Optimizer, Schedule
from slimclr.config.pipeline import Config
from slimclr.config.pretrain import KNN, STARVED, Pretrain
from slimclr.config.probe import Probe
from slimclr.config.quick import Quick
from slimclr.config.recipe import Recipe, seeded_runs
from slimclr.config.schema import json_schema
from slimclr.config.strict_yaml import read_yaml
from slimclr.config.validation import Validation

__all__ = [
    "KNN",
    "NEGATIVES_IN_BATCH",
    "OPERATIONAL",
    "RELEASED",
    "STARVED",
    "Backbone",
    "Backend",
    "Checkpoint",
    "Config",
    "Detection",
    "Distillation",
    "FineTune",
    "MoCoV2",
    "Model",
    "Optimizer",
    "Positive",
    "Pretrain",
    "Probe",
    "Quick",
    "Random",
    "Recipe",
    "Schedule",
    "Validation",
    "decisive",
    "dump",
    "fingerprint",
    "json_schema",
    "load_config",
    "load_recipe",
    "load_recipes",
    "operational",
    "parse_section",
    "read_yaml",
    "seeded_runs",
]
