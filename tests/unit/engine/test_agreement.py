"""What processes agree on: at the same step, one step late, at once at an epoch's end."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist

from slimclr.engine.agreement import Agreement, Flags
from slimclr.engine.distributed import Process, leave

CPU = torch.device("cpu")
STOP, SAVE, NOT_FINITE = Flags(stop=True), Flags(save=True), Flags(not_finite=True)
NONE = Flags()


def test_a_single_process_acts_at_once_and_finishes_the_finite_check_first():
    agreement, checked = Agreement(Process(0, 1, CPU)), []

    def check_pending(found=False):
        checked.append(found)
        return found

    assert agreement.all_reduce(NONE, wait=False, check_pending=check_pending) == NONE
    assert checked == []
    assert agreement.all_reduce(STOP, wait=False, check_pending=check_pending) == STOP
    assert agreement.all_reduce(SAVE, wait=False, check_pending=lambda: check_pending(True)) == SAVE | NOT_FINITE
    assert agreement.all_reduce(NONE, wait=True, check_pending=lambda: check_pending(True)) == NOT_FINITE
    assert checked == [False, True, True]
    assert agreement.broadcast("a") == "a"
    assert agreement.gather("a") == ["a"]


# (flags of process 0, of process 1, wait, whether process 1 then finds a number that is not finite) and the result.
STEPS = [
    (NONE, NONE, False, False, NONE),
    (NONE, STOP, False, False, NONE),
    (SAVE, NONE, False, True, STOP | SAVE | NOT_FINITE),  # the last step's, and after the check this one's
    (NONE, NONE, False, False, NONE),  # told at the step before, it is not told again
    (NOT_FINITE, NONE, False, False, NONE),
    (NONE, NONE, True, False, NOT_FINITE),
    (SAVE, NONE, True, False, SAVE),
    (NONE, NONE, True, True, NOT_FINITE),
]


def agree_on_steps(rank, store, results):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    agreement, agreed = Agreement(Process(rank, 2, CPU)), []
    for *flags, wait, found, _ in STEPS:
        agreed.append(
            agreement.all_reduce(flags[rank], wait=wait, check_pending=lambda found=found: found and rank == 1)
        )
    results.put((rank, agreed, agreement.broadcast(("from", rank)), agreement.gather(rank)))
    del agreement
    leave()


@pytest.mark.ddp
def test_two_processes_agree_a_step_late_and_at_once_where_they_wait(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=agree_on_steps, args=(rank, tmp_path / "store", results)) for rank in range(2)]
    for process in processes:
        process.start()
    told = sorted((results.get(timeout=60) for _ in processes), key=lambda row: row[0])
    for process in processes:
        process.join()
        assert process.exitcode == 0
    for rank, agreed, first, everyone in told:
        assert agreed == [wanted for *_, wanted in STEPS], rank
        assert first == ("from", 0)
        assert everyone == [0, 1]
