"""Compare this project with figures of the reference: `python -m tests.parity FILE...`.

A file holds encoder outputs and training steps, or functions (tests/golden/README.md); its top-level keys tell. Every
figure is computed anew with the production modules, training steps in float64. Prints `PASS|FAIL name
largest-relative-error` for each quantity; exit code 1 when one fails or a file asks for something unknown.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from slimclr.build.method import build_method
from slimclr.build.optimizer import build_optimizer
from slimclr.config import Pretrain
from slimclr.losses import (
    adaptive_temperature_distillation,
    decoupled_distillation,
    kl_distillation,
    loss_weights,
    mixed_loss,
    mse_distillation,
)
from slimclr.methods import MoCoV2, MoCoV3
from slimclr.methods.base import Encoder
from slimclr.nn import MLP, MoCoV3Projector, SimCLRHead, build_backbone, classifier
from slimclr.optim import LARS, key_momentum, learning_rate
from tests.helpers.golden_inputs import RULES, backbone_names, fill, head_names, images, norm_names, rng, tensor

SINGLE, DOUBLE = 1e-4, 1e-6
# Options that say how the model is built or trained; a file with any other is refused.
OPTIONS = {
    "slim_fc", "overlap_weight", "moco_mlp_dim", "simclr_mlp_dim", "depth", "width_mult_list", "inplace_distill",
    "inplace_distill_mixed", "image_size", "seed_loss", "mse_loss", "atkd_loss", "dkd_loss", "aux_loss_w",
    "slim_start_epoch", "teacher_T", "student_T", "full_distill", "slim_loss_weighted", "num_epochs",
}  # fmt: skip
OPTIMIZERS = {
    "SGD": {"name": "sgd", "lr": 0.2, "momentum": 0.9, "weight_decay": 1e-4},
    "LARS": {"name": "lars", "lr": 1.2, "momentum": 0.9, "weight_decay": 1e-6, "trust": 0.001},
}
ENCODER = {"mocov2": "module.encoder_q.", "simclr": "module.encoder_q.", "mocov3": "module.base_encoder."}


@dataclass(frozen=True)
class Row:
    """One compared quantity."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance

    def __str__(self) -> str:
        return f"{'PASS' if self.passed else 'FAIL'} {self.name} {self.error:.2e}"


class Unknown(Exception):
    """The file asks for something that this tool or the project does not know."""


# ------------------------------------------------------------------------------------------------------- comparing


def relative(got: Any, expected: Any, scale: float | None = None) -> float:
    """Largest difference over the largest expected value (or `scale`); infinite where one is missing or not finite."""
    if got is None or expected is None:
        return 0.0 if got is None and expected is None else math.inf
    ours = torch.as_tensor(got, dtype=torch.float64)
    theirs = torch.as_tensor(expected, dtype=torch.float64)
    if ours.shape != theirs.shape or not torch.isfinite(ours).all():
        return math.inf
    scale = theirs.abs().max().item() if scale is None else scale
    difference = (ours - theirs).abs().max().item()
    return difference / scale if scale else (0.0 if difference == 0 else math.inf)


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """The options, none of them unknown."""
    if unknown := sorted(config.keys() - OPTIONS):
        raise Unknown(f"unknown option {', '.join(unknown)}")
    if config.get("inplace_distill_mixed"):
        raise Unknown(f"unknown value inplace_distill_mixed {config['inplace_distill_mixed']}")
    for name, known in (("slim_loss_weighted", RULES), ("mse_loss", (0, 1, 2)), ("overlap_weight", (False, True))):
        if name in config and config[name] not in known:
            raise Unknown(f"unknown value {name} {config[name]}")
    return config


# ------------------------------------------------------------------------------------------------ encoders and steps


def shape_of(config: dict[str, Any]) -> dict[str, Any]:
    return {"depth": config["depth"], "widths": tuple(sorted(config["width_mult_list"], reverse=True))}


def evaluate_encoder(case: dict[str, Any]) -> Iterator[Row]:
    config = checked(case["config"])
    shape, overlap, fc, out = shape_of(config), config["overlap_weight"], case["fc"], case["num_classes"]
    widths = shape["widths"]
    backbone = build_backbone(shape["depth"], 64, widths, overlap=overlap)
    size = backbone.out_features
    heads: dict[str, Callable[[], torch.nn.Module]] = {
        "mocov2_slim": lambda: MLP(size, out, widths, overlap=overlap),
        "mocov2_switch": lambda: MLP(size, out, widths, switchable=True),
        "mocov3_slim": lambda: MoCoV3Projector(size, config["moco_mlp_dim"], out, widths, overlap=overlap),
        "simclr_slim": lambda: SimCLRHead(size, config["simclr_mlp_dim"], out, widths, overlap=overlap),
        "supervised": lambda: classifier(size, out, widths, switchable=False, overlap=overlap),
        "supervised_switch": lambda: classifier(size, out, widths, switchable=True),
    }
    if fc not in heads:
        raise Unknown(f"unknown fc {fc}")
    encoder = Encoder(backbone, heads[fc](), normalize=False)
    fill(encoder, backbone_names(**shape) + head_names(fc, widths), "module.encoder_q.", head=fc, **shape)
    encoder.eval()
    batch = images(case["tag"], 4, case["size"])
    for width in widths:
        with torch.no_grad():
            features, output = backbone(batch, width), encoder(batch, width)
        got = {
            "features_head": features[:, :8],
            "features_dim": features.shape[1],
            "features_norm": features.norm(dim=1),
            "output_head": output[:, :8],
        }
        for quantity, value in got.items():
            yield Row(f"{case['name']}/{width}/{quantity}", relative(value, case[quantity][str(width)]), SINGLE)


def recipe(case: dict[str, Any]) -> Pretrain:
    """The production recipe that a golden case describes."""
    config, method = checked(case["config"]), case["method"]
    widths = list(shape_of(config)["widths"])
    heads = {"mocov2": ("mocov2_slim", "mocov2_switch"), "mocov3": ("mocov3_slim",), "simclr": ("simclr_slim",)}
    if method not in heads or config["slim_fc"] not in heads[method]:
        raise Unknown(f"unknown method {method} with slim_fc {config['slim_fc']}")
    if case["optimizer"] not in OPTIMIZERS:
        raise Unknown(f"unknown optimizer {case['optimizer']}")
    options = {
        "mocov2": {"queue": 64, "head": "switchable" if config["slim_fc"] == "mocov2_switch" else "slimmable"},
        "mocov3": {"hidden": config["moco_mlp_dim"]},
        "simclr": {"hidden": config["simclr_mlp_dim"]},
    }
    values: dict[str, Any] = {
        "method": {"name": method, **options[method]},
        "backbone": {"depth": config["depth"], "widths": widths, "overlap": config["overlap_weight"]},
        "epochs": config["num_epochs"],
        "batch": case["batch"],
        "bn_batch": case["batch"],
        "optimizer": OPTIMIZERS[case["optimizer"]],
        "views": method,
    }
    if len(widths) > 1:
        # The reference writes -1 where sub-networks train from the start.
        values["slow_start_epoch"] = max(config["slim_start_epoch"], 0)
        values["loss_weights"] = RULES[config["slim_loss_weighted"]]
        values["distillation"] = distillation(config, method)
    try:
        return Pretrain.model_validate(values)
    except ValidationError as error:
        raise Unknown(" ".join(str(error).split())) from None


def distillation(config: dict[str, Any], method: str) -> dict[str, Any] | None:
    """The reference's switches by their precedence: mse, KL, DKD, ATKD."""
    features = config["mse_loss"] == 1 if config["mse_loss"] else bool(config["inplace_distill"])
    switches = {
        "mse": config["mse_loss"],
        "kl": config["seed_loss"] or config["inplace_distill"],
        "dkd": config["dkd_loss"],
        "atkd": config["atkd_loss"],
    }
    kind = next((kind for kind, on in switches.items() if on), None)
    if kind is None:
        return None
    if config["full_distill"] and method == "mocov3":
        raise Unknown("full_distill with mocov3, which the reference refuses")
    return {
        "kind": kind,
        "on": "features" if features and kind in ("mse", "kl") else "logits",
        "share": config["aux_loss_w"],
        "teacher_temperature": config["teacher_T"],
        "student_temperature": config["student_T"],
        "full_distill": bool(config["full_distill"]) and method == "mocov2",
    }


def evaluate_steps(case: dict[str, Any], steps: int | None = None) -> Iterator[Row]:
    """Rows of a case's first `steps` training steps; None: of all."""
    settings, config = recipe(case), case["config"]
    shape, fc = shape_of(config), config["slim_fc"]
    widths = shape["widths"]
    backbone = build_backbone(**settings.backbone.model_dump())
    method = build_method(settings, backbone, classes=0)
    encoder = getattr(method, "encoder", None) or method.query_encoder
    predictor = None
    if isinstance(method, MoCoV3):
        encoder, predictor = method.query_encoder.base, method.query_encoder.predictor
        names = ["predictor.0.weight", *norm_names("predictor.1", widths), "predictor.3.weight"]
        predictors = fill(predictor, names, "module.", head=fc, strip="head.", **shape)
    ours = fill(encoder, backbone_names(**shape) + head_names(fc, widths), ENCODER[case["method"]], head=fc, **shape)
    if isinstance(method, MoCoV2):
        method.queue.copy_(tensor("module.queue", tuple(method.queue.shape)))
    if hasattr(method, "key_encoder"):
        method.key_encoder.load_state_dict(encoder.state_dict())
    method.double().train()
    outputs: list[Any] = []
    combine = method.combine
    # Of MoCo v3's two directions the figures hold the first.
    method.combine = lambda *parts: outputs.append(combine(*parts)) or outputs[-1]
    optimizer = build_optimizer(settings.optimizer, method.trainable())
    parameters = dict(encoder.named_parameters())
    labels = torch.zeros(case["batch"], dtype=torch.long)

    def gradient(tensor: torch.Tensor) -> float | None:
        return None if tensor.grad is None else tensor.grad.norm().item()

    for number, step in enumerate(case["steps"][:steps]):
        views = [images(f"{view}{number}", case["batch"], config["image_size"]).double() for view in "qk"]
        method.require_gradients(step["epoch"])
        optimizer.zero_grad()
        outputs.clear()
        method.before_step(step["epoch"], number, [views])
        loss = method(views, labels, step["epoch"]).loss
        loss.backward()
        method.after_step()
        # name -> (ours, expected, what the difference is measured by)
        got: dict[str, list[tuple[Any, Any, float | None]]] = {"loss": [(loss.item(), step["loss"], None)]}
        by_width = [outputs[0].widths[w].loss.item() if w in outputs[0].widths else 0.0 for w in widths]
        got["losses_by_width"] = list(zip(by_width, step["losses_by_width"], [None] * len(widths), strict=True))
        got["grad_norm"] = [
            (gradient(parameters[ours[name]]), value, None) for name, value in step["grad_norm"].items()
        ]
        every = [p.grad.norm() for p in method.trainable().parameters() if p.grad is not None]
        got["total_grad_norm"] = [(torch.stack(every).norm().item(), step["total_grad_norm"], None)]
        if predictor is not None:
            tensors = dict(predictor.named_parameters())
            got["predictor_grad_norm"] = [
                (gradient(tensors[predictors[f"predictor.{name}"]]), value, None)
                for name, value in step["predictor_grad_norm"].items()
            ]
        optimizer.step()
        average = dict(method.key_encoder.named_parameters()) if hasattr(method, "key_encoder") else {}
        for prefix, tensors in (("", parameters), ("momentum_", average)):
            for kind in ("sum", "norm"):
                got[f"{prefix}param_{kind}_after"] = [
                    (
                        getattr(t := tensors[ours[name]], kind)().item(),
                        value,
                        t.norm().item() if kind == "sum" else None,
                    )
                    for name, value in step.get(f"{prefix}param_{kind}_after", {}).items()
                ]
        if isinstance(method, MoCoV2):
            got["queue_ptr"] = [(method.queue_pointer.item(), step["queue_ptr"], 1.0)]
            got["queue_abs_sum"] = [(method.queue.abs().sum().item(), step["queue_abs_sum"], None)]
            got["queue_row0"] = [(method.queue[0, : len(step["queue_row0"])], step["queue_row0"], None)]
        means = [norm.running_mean for norm in backbone.bn1.norms.children()]
        got["bn1_running_mean_sum"] = [
            (mean.sum().item(), value, mean.norm().item())
            for mean, value in zip(means, step["bn1_running_mean_sum"], strict=True)
        ]
        if unknown := sorted(step.keys() - got.keys() - {"epoch"}):
            raise Unknown(f"unknown quantity {', '.join(unknown)}")
        for quantity, comparisons in got.items():
            if quantity in step:
                error = max(relative(*comparison) for comparison in comparisons)
                yield Row(f"{case['case']}/step{number}/{quantity}", error, DOUBLE)


# -------------------------------------------------------------------------------------------------------- functions


def drawn(tag: str, *shape: int) -> torch.Tensor:
    return torch.tensor(rng(tag).standard_normal(shape), dtype=torch.float32)


def evaluate_loss_weights(cases: list[dict[str, Any]]) -> Iterator[Row]:
    for case in cases:
        if case["mode"] not in RULES:
            raise Unknown(f"unknown loss_weights mode {case['mode']}")
        got = list(loss_weights(RULES[case["mode"]], case["widths"]).values())
        yield Row(f"loss_weights/{case['mode']}/{len(case['widths'])}", relative(got, case["weights"]), SINGLE)


def evaluate_lr(cases: list[dict[str, Any]]) -> Iterator[Row]:
    for number, case in enumerate(cases):
        if case["mode"] not in ("cos", "step"):
            raise Unknown(f"unknown lr mode {case['mode']}")
        errors = [
            relative(
                learning_rate(
                    step,
                    base=case["base_lr"],
                    steps=case["total_steps"],
                    warmup_steps=case["warmup_steps"],
                    milestones=[epoch * case["steps_per_epoch"] for epoch in case.get("milestone_epochs", [])],
                    gamma=case.get("gamma", 0.1),
                    slim_start_step=case.get("slim_start_step"),
                    slim_start_lr=case.get("slim_start_lr"),
                ),
                expected,
            )
            for step, expected in zip(case["steps"], case["lr"], strict=True)
        ]
        yield Row(f"lr/{number}-{case['mode']}", max(errors), SINGLE)


def evaluate_distillation(cases: dict[str, Any]) -> Iterator[Row]:
    zeros, arange = torch.zeros(6, dtype=torch.long), torch.arange(6)

    def kl(student: float, teacher: float) -> Callable[..., torch.Tensor]:
        temperatures = {"student_temperature": student, "teacher_temperature": teacher}
        return lambda s, t: kl_distillation(s, t, **temperatures)

    losses: dict[str, Callable[..., torch.Tensor]] = {
        "kl_T1": kl(1, 1),
        "kl_T5": kl(5, 5),
        "kl_student3_teacher2": kl(3, 2),
        "mse": mse_distillation,
        "dkd_target0": lambda s, t: decoupled_distillation(s, t, zeros),
        "dkd_target_arange": lambda s, t: decoupled_distillation(s, t, arange),
        "atkd": adaptive_temperature_distillation,
    }
    for name, expected in cases.items():
        if name == "inputs":
            continue
        if name not in losses:
            raise Unknown(f"unknown distillation {name}")
        yield from evaluate_loss(f"distillation/{name}", losses[name], expected)


def evaluate_loss(name: str, loss: Callable[..., torch.Tensor], expected: dict[str, Any]) -> Iterator[Row]:
    student = (2 * drawn("student", 6, 17)).requires_grad_()
    teacher = (2 * drawn("teacher", 6, 17)).requires_grad_()
    value = loss(student, teacher)
    value.backward()
    got = {"loss": value.item(), "grad_norm": student.grad.norm().item(), "grad_head": student.grad.flatten()[:6]}
    for quantity in expected.keys() & got.keys():
        yield Row(f"{name}/{quantity}", relative(got[quantity], expected[quantity]), SINGLE)
    yield Row(f"{name}/teacher_has_no_gradient", 0.0 if teacher.grad is None else math.inf, SINGLE)


def evaluate_probe_loss(case: dict[str, Any]) -> Iterator[Row]:
    yield from evaluate_loss("probe_mixed_loss", lambda s, t: mixed_loss(s, t, torch.arange(6)), case)


def evaluate_lars(case: dict[str, Any]) -> Iterator[Row]:
    weight = torch.nn.Parameter(drawn("lars_w", 5, 7))
    bias = torch.nn.Parameter(drawn("lars_b", 5))
    settings = {"lr": case["lr"], "momentum": case["momentum"], "weight_decay": case["weight_decay"]}
    optimizer = LARS([weight, bias], trust=case["trust_coefficient"], **settings)
    for number, step in enumerate(case["steps"]):
        weight.grad, bias.grad = drawn(f"lars_gw{number}", 5, 7), drawn(f"lars_gb{number}", 5)
        optimizer.step()
        yield Row(f"lars/step{number}/w_sum", relative(weight.sum().item(), step["w_sum"], step["w_norm"]), SINGLE)
        yield Row(f"lars/step{number}/w_norm", relative(weight.norm().item(), step["w_norm"]), SINGLE)
        yield Row(f"lars/step{number}/w_head", relative(weight[0].detach(), step["w_head"]), SINGLE)
        yield Row(f"lars/step{number}/b", relative(bias.detach(), step["b"]), SINGLE)


def evaluate_momentum(cases: list[dict[str, Any]]) -> Iterator[Row]:
    for case in cases:
        got = key_momentum(case["epoch"], base=case["base"], epochs=case["epochs"])
        yield Row(f"momentum_cos/epoch{case['epoch']}", relative(got, case["m"]), SINGLE)


# ------------------------------------------------------------------------------------------------------------- files


def evaluate(document: dict[str, Any]) -> Iterator[Row]:
    """Rows of a whole file; what is unknown becomes a failed row."""
    sections: dict[str, Callable[[Any], Iterator[Row]]] = {
        "loss_weights": evaluate_loss_weights,
        "lr": evaluate_lr,
        "distillation": evaluate_distillation,
        "probe_mixed_loss": evaluate_probe_loss,
        "lars": evaluate_lars,
        "momentum_cos": evaluate_momentum,
    }
    parts: list[tuple[str, Callable[[Any], Iterator[Row]], Any]] = []
    for key, content in document.items():
        if key == "encoder":
            parts += [(f"{key} {case.get('name')}", evaluate_encoder, case) for case in content]
        elif key == "training_step":
            parts += [(f"{key} {case.get('case')}", evaluate_steps, case) for case in content]
        elif key in sections:
            parts.append((key, sections[key], content))
        else:
            yield Row(f"{key}: unknown top-level key", math.inf, 0.0)
    for name, function, content in parts:
        try:
            yield from function(content)
        except Unknown as error:
            yield Row(f"{name}: {error}", math.inf, 0.0)
        except (KeyError, ValueError) as error:
            yield Row(f"{name}: {type(error).__name__} {error}", math.inf, 0.0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="figures of the reference (JSON)")
    passed = True
    for path in parser.parse_args(arguments).files:
        for row in evaluate(json.loads(path.read_text(encoding="utf-8"))):
            print(row, flush=True)
            passed = passed and row.passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
