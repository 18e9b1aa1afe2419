"""Trains with two processes; the loss is not a number once, at step 2, in the second one. Arguments: images, folder."""

import dataclasses
import sys
from pathlib import Path

import torch

from slimclr.data.stores import open_images
from slimclr.engine.distributed import process_group
from slimclr.errors import UserError
from tests.helpers.small_run import trainer


def main() -> None:
    images, folder = open_images(Path(sys.argv[1])), Path(sys.argv[2])
    with process_group(0, folder / "errors") as process:
        run = trainer(images, folder, method="simclr", epochs=1, process=process)
        run.checkpoint_minutes = 0  # one after every step, if it may
        forward, moved = run.method.forward, []

        def spoilt(*arguments):
            moved.append([parameter.detach().clone() for parameter in run.method.parameters()])
            output = forward(*arguments)
            broken = len(moved) == 2 and process.rank == 1
            return dataclasses.replace(output, loss=output.loss * float("nan")) if broken else output

        run.method.forward = spoilt
        try:
            run.train()
        except UserError as error:
            left = [parameter.detach() for parameter in run.method.parameters()]
            torch.save(
                {
                    "error": str(error),
                    "first step moved": not all(map(torch.equal, moved[0], moved[1])),
                    "later ones moved": not all(map(torch.equal, moved[1], left)),
                },
                folder / f"told_{process.rank}.pt",
            )


if __name__ == "__main__":
    main()
