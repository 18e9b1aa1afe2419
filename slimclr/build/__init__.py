"""From a recipe to what it describes: one concept per module, plain keyword arguments below this package.

`batch` and this module import no torch, so that `slimclr recipe` and a dry run are quick.
"""
