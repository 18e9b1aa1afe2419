"""Distillation of a wider network into a sub-network (SlimCLR, section 3.2, and the alternatives it compares).

Students and teachers are (n, c); no gradient flows into a teacher. Every loss is a mean over the batch, a scalar. All
take `targets`, the right column of each row (n,), so that one can stand for another; only the decoupled one reads it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_distillation(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor | None = None,
    *,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Cross-entropy of the student against the softened teacher, times the student's temperature squared.

    It is a KL divergence up to the teacher's entropy, which has no gradient; the value keeps it, as the reference's.

    Args:
        student: Logits (n, c).
        teacher: Logits (n, c).
        targets: Not read.
        student_temperature: Divides the student's logits.
        teacher_temperature: Divides the teacher's logits.
    """
    target = F.softmax(teacher.detach() / teacher_temperature, dim=1)
    log_student = F.log_softmax(student / student_temperature, dim=1)
    return -(target * log_student).sum(dim=1).mean() * student_temperature**2


def mse_distillation(student: Tensor, teacher: Tensor, targets: Tensor | None = None) -> Tensor:
    """Mean squared error between logits or features (n, c), over all elements."""
    return F.mse_loss(student, teacher.detach())


def decoupled_distillation(
    student: Tensor, teacher: Tensor, targets: Tensor, *, alpha: float = 1.0, beta: float = 0.5
) -> Tensor:
    """DKD at temperature 1 (arXiv 2203.08679, equation 7).

    Args:
        student: Logits (n, c).
        teacher: Logits (n, c).
        targets: The right column of each row (n,).
        alpha: Weight of the KL divergence between "right or not".
        beta: Weight of the KL divergence among the wrong columns.
    """
    teacher = teacher.detach()
    wrong = torch.ones_like(student, dtype=torch.bool).scatter_(1, targets[:, None], False)

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(logits, dim=1)
        others = logits[wrong].view(len(logits), -1)
        right, rest = log_p.gather(1, targets[:, None]), log_p[wrong].view_as(others).logsumexp(dim=1, keepdim=True)
        return torch.cat([right, rest], dim=1), F.log_softmax(others, dim=1)

    target_class, non_target = (
        F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        for ours, theirs in zip(parts(student), parts(teacher), strict=True)
    )
    return alpha * target_class + beta * non_target


def adaptive_temperature_distillation(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor | None = None,
    *,
    scale: float = 2.0,
    temperature: float = 4.0,
) -> Tensor:
    """ATKD: KL divergence between logits that are brought to one mean and deviation first, times T squared.

    The gradient goes through the student's mean and deviation too.

    Args:
        student: Logits (n, c).
        teacher: Logits (n, c).
        targets: Not read.
        scale: Deviation of the logits after normalisation.
        temperature: Divides both.
    """

    def log_p(logits: Tensor) -> Tensor:
        return F.log_softmax(scale * F.layer_norm(logits, logits.shape[1:], eps=1e-5) / temperature, dim=1)

    divergence = F.kl_div(log_p(student), log_p(teacher.detach()), reduction="batchmean", log_target=True)
    return divergence * temperature**2


def mixed_loss(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """Mean of the cross-entropies with the labels and with the teacher's predictions (a sub-width's linear probe).

    Args:
        student: Logits (n, c).
        teacher: Logits (n, c).
        targets: Classes (n,).
    """
    soft = teacher.detach().softmax(dim=1)
    return 0.5 * (F.cross_entropy(student, targets) + F.cross_entropy(student, soft))
