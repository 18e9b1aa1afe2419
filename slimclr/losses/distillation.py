"""Distillation of the full network into a sub-network (SlimCLR, section 3.2)."""

import torch.nn.functional as F
from torch import Tensor


def kl_distillation(
    student: Tensor, teacher: Tensor, *, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Cross-entropy of the student against the softened teacher, times the student's temperature squared.

    It is a KL divergence up to the teacher's entropy, which has no gradient; the value keeps it, as the reference's.

    Args:
        student: Logits (n, c).
        teacher: Logits (n, c); no gradient flows into them.
        student_temperature: Divides the student's logits.
        teacher_temperature: Divides the teacher's logits.

    Returns:
        Mean over the batch, a scalar.
    """
    target = F.softmax(teacher.detach() / teacher_temperature, dim=1)
    log_student = F.log_softmax(student / student_temperature, dim=1)
    return -(target * log_student).sum(dim=1).mean() * student_temperature**2
