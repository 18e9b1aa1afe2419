"""SlimCLR from the ImageNet archives and COCO to its tables: wiring only. `snakemake --profile local all`."""

from snakemake.utils import min_version

min_version("9.27")


report: "workflow/report/description.rst"


if not workflow.configfiles:

    configfile: f"{workflow.basedir}/config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/containers.smk"
include: "workflow/rules/environments.smk"


if CONFIG.cifar10:

    include: "workflow/rules/cifar.smk"

else:

    include: "workflow/rules/data.smk"


include: "workflow/rules/recordio.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/import_checkpoint.smk"
include: "workflow/rules/probe.smk"
include: "workflow/rules/quick.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/transfer.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        # The stages' results too: Snakemake does not miss a deleted file whose followers are still there.
        rules.report.input.pretrain,
        rules.report.input.probe,
        rules.report.input.quick,
        rules.report.input.finetune,
        rules.report.input.transfer,
        rules.report.input.latency,
        rules.report.output,
        expand("<results>/pretrain/{run}/state.safetensors", run=KEEP_STATE),
        rules.absent_checkpoints.output if ABSENT else [],


rule clean_checkpoints:
    log:
        "<logs>/clean_checkpoints.log",
    localrule: True
    container:
        image("train")
    params:
        checkpoints=str(WORK / "checkpoints"),
        results=str(WORK / "results"),
    shell:
        "train_env slimclr clean-checkpoints --checkpoints {params.checkpoints:q} --results {params.results:q} | tee {log:q}"
