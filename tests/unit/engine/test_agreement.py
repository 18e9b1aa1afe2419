"""What processes agree on: at the same step, one step late, at once at an epoch's end."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist

from slimclr.engine.agreement import Agreement, Wishes
from slimclr.engine.distributed import Processes, leave

CPU = torch.device("cpu")
STOP, SAVE, NOT_FINITE = Wishes(stop=True), Wishes(save=True), Wishes(not_finite=True)
NONE = Wishes()


def test_a_process_alone_meets_its_own_wishes_at_once_and_settles_first():
    agreement, settled = Agreement(Processes(0, 1, CPU)), []

    def settle(found=False):
        settled.append(found)
        return found

    assert agreement.agree(NONE, wait=False, settle=settle) == NONE
    assert settled == []
    assert agreement.agree(STOP, wait=False, settle=settle) == STOP
    assert agreement.agree(SAVE, wait=False, settle=lambda: settle(True)) == SAVE | NOT_FINITE
    assert agreement.agree(NONE, wait=True, settle=lambda: settle(True)) == NOT_FINITE
    assert settled == [False, True, True]
    assert agreement.broadcast("a") == "a"
    assert agreement.gather("a") == ["a"]


# (wishes of process 0, of process 1, wait, what settling tells process 1) and what both agree on, step by step.
STEPS = [
    (NONE, NONE, False, False, NONE),
    (NONE, STOP, False, False, NONE),
    (SAVE, NONE, False, True, STOP | SAVE | NOT_FINITE),  # the last step's, and after settling this one's
    (NONE, NONE, False, False, NONE),  # told at the step before, it is not told again
    (NOT_FINITE, NONE, False, False, NONE),
    (NONE, NONE, True, False, NOT_FINITE),
    (SAVE, NONE, True, False, SAVE),
    (NONE, NONE, True, True, NOT_FINITE),
]


def agree_on_steps(rank, store, results):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    agreement, agreed = Agreement(Processes(rank, 2, CPU)), []
    for *wishes, wait, found, _ in STEPS:
        agreed.append(agreement.agree(wishes[rank], wait=wait, settle=lambda found=found: found and rank == 1))
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
