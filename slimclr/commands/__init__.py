"""The subcommands: each module has its HELP, `add_arguments(parser)` and `run(options, arguments)` -> exit code."""

from types import ModuleType

from slimclr.commands import (
    check,
    cifar,
    clean_checkpoints,
    convert,
    doctor,
    evaluate,
    export,
    extract,
    features,
    import_checkpoint,
    miniature,
    plan,
    predict,
    pretrain,
    probe,
    quick,
    recipe,
    recordio,
    report,
    schema,
    transfer,
    verify,
)

# In the order of the pipeline, as `slimclr --help` shows them.
COMMANDS: dict[str, ModuleType] = {
    "miniature": miniature,
    "extract": extract,
    "convert": convert,
    "verify": verify,
    "recordio": recordio,
    "cifar": cifar,
    "pretrain": pretrain,
    "probe": probe,
    "evaluate": evaluate,
    "quick": quick,
    "transfer": transfer,
    "import": import_checkpoint,
    "export": export,
    "predict": predict,
    "features": features,
    "report": report,
    "recipe": recipe,
    "check": check,
    "schema": schema,
    "doctor": doctor,
    "plan": plan,
    "clean-checkpoints": clean_checkpoints,
}
