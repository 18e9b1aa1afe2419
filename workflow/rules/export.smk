"""Every width of the runs as a folder to publish, and how fast it is here: targets `export` and `latency`."""

LATENCY_RUNS = RUNS if CONFIG.latency.report else []


# What calibrates int8, and what its accuracy is measured on; nothing else looks at images.
LOOKED_AT = {
    split: f"<data>/{split}.lmdb" if "int8" in CONFIG.export.formats else []
    for split in ("train", "val")
}


rule export_width:
    input:
        environment("train"),
        weights="<results>/pretrain/{run}/weights.safetensors",
        # Beside it lies the classifier.
        probe="<results>/probe/{run}/metrics.json",
        train=LOOKED_AT["train"],
        val=LOOKED_AT["val"],
    output:
        folder=directory("<results>/export/{run}/{width}"),
    log:
        "<logs>/export/{run}_{width}.log",
    wildcard_constraints:
        width=r"\d+\.\d+",
    container:
        image("train")
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        head=lambda wildcards: (
            "none"
            if not CONFIG.export.head
            else "probe" if recipe(wildcards).probe.epochs else "own"
        ),
        formats=list(CONFIG.export.formats),
        fold=["--fold"] if CONFIG.export.fold else [],
        photos=lambda wildcards, input: (
            ["--data", input.train, "--val", input.val] if input.train else []
        ),
        calibrate=CONFIG.export.calibrate,
        licence=CONFIG.export.licence,
    shell:
        "train_env slimclr export {input.weights:q} --width {wildcards.width:q} --head {params.head:q}"
        " --format {params.formats:q} {params.fold:q} {params.photos:q} --calibrate {params.calibrate:q}"
        " --licence {params.licence:q} --metrics {input.probe:q} --out {output.folder:q} 2>&1 | keep_log {log:q}"


rule export:
    input:
        lambda wildcards: [
            str(WORK / f"results/export/{run}/{width}")
            for run in RUNS
            for width in widths_of(run)
        ],


rule measure_latency:
    input:
        environment("train"),
        weights="<results>/pretrain/{run}/weights.safetensors",
    output:
        metrics=in_report("<results>/latency/{run}/metrics.json"),
    log:
        "<logs>/latency/{run}.log",
    container:
        image("train")
    # All cores: another job beside it would be measured, too.
    threads: workflow.resource_settings.cores or 1
    resources:
        cpus_per_task=4,
        mem_mb=8000,
        runtime=60,
    params:
        batches=list(CONFIG.latency.batches),
        engines=list(CONFIG.latency.engines),
        precisions=list(CONFIG.latency.precisions),
        repeats=CONFIG.latency.repeats,
    shell:
        "train_env slimclr latency {input.weights:q} --name {wildcards.run:q} --batch {params.batches:q}"
        " --engine {params.engines:q} --precision {params.precisions:q} --repeats {params.repeats:q}"
        + option("--threads", str(CONFIG.latency.threads or ""))
        + " --out {output.metrics:q} 2>&1 | keep_log {log:q}"


rule latency:
    input:
        expand(rules.measure_latency.output.metrics, run=RUNS),
