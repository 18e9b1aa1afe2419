"""When jobs run: each as soon as what it needs is done and the machine has room."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from slimclr.plan.jobs import Machine


@dataclass(frozen=True)
class Task:
    """A job with its length.

    Attributes:
        name: Its name.
        needs: Tasks that come before.
        seconds: Alone on the machine.
        slots: Cores that Snakemake counts for it.
        gpus: GPUs that it holds.
        cores: Cores that it really keeps busy.
    """

    name: str
    needs: tuple[str, ...]
    seconds: float
    slots: int = 1
    gpus: int = 0
    cores: float = 1.0


@dataclass
class _State:
    waiting: list[Task]
    left: dict[str, float] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)


def schedule(tasks: Sequence[Task], machine: Machine) -> dict[str, tuple[float, float]]:
    """Begin and end of every task in seconds.

    Tasks that share one machine and want more cores than it has are all slowed down alike. Among those that could
    begin, the one with the longest way to the end does.

    Args:
        tasks: What is to be done; `needs` that no task has count as done.
        machine: What runs at the same time.
    """
    by_name = {task.name: task for task in tasks}
    way = _ways(tasks)
    state = _State(sorted(tasks, key=lambda task: -way[task.name]))
    now = 0.0
    while state.waiting or state.left:
        for task in [task for task in state.waiting if _fits(task, state, by_name, machine)]:
            # The list was made before the first of them began.
            if _fits(task, state, by_name, machine):
                state.waiting.remove(task)
                state.left[task.name] = task.seconds
                state.spans[task.name] = (now, now)
        assert state.left, "a task that fits no machine, or tasks that need each other"
        speed = _speed([by_name[name] for name in state.left], machine)
        step = min(state.left.values()) / speed
        now += step
        for name in list(state.left):
            state.left[name] -= step * speed
            if state.left[name] <= 1e-9:
                del state.left[name]
                state.done.add(name)
                state.spans[name] = (state.spans[name][0], now)
    return state.spans


def _ways(tasks: Sequence[Task]) -> dict[str, float]:
    """Seconds from a task's begin to the end of the last one that follows from it."""
    followers: dict[str, list[Task]] = {task.name: [] for task in tasks}
    for task in tasks:
        for name in task.needs:
            followers.get(name, []).append(task)
    known: dict[str, float] = {}

    def way(task: Task) -> float:
        if task.name not in known:
            known[task.name] = task.seconds + max((way(next_) for next_ in followers[task.name]), default=0.0)
        return known[task.name]

    return {task.name: way(task) for task in tasks}


def _fits(task: Task, state: _State, by_name: dict[str, Task], machine: Machine) -> bool:
    running = [by_name[name] for name in state.left]
    if any(name in by_name and name not in state.done for name in task.needs):
        return False
    if machine.jobs is not None and len(running) >= machine.jobs:
        return False
    if not running:
        return True
    gpus, slots = sum(other.gpus for other in running), sum(other.slots for other in running)
    if machine.shared and slots + task.slots > machine.cores:
        return False
    return machine.gpus is None or not task.gpus or gpus + task.gpus <= machine.gpus


def _speed(running: list[Task], machine: Machine) -> float:
    wanted = sum(task.cores for task in running)
    return min(1.0, machine.cores / wanted) if machine.shared and wanted else 1.0
