"""A checkpoint of `paths.raw`/released/ in the place of a pre-training, for runs whose recipe names one."""


checkpoint import_checkpoint:
    input:
        environment("train"),
        # Its hash says what it is, and its age nothing.
        file=ancient(
            lambda wildcards: raw_files(
                checkpoint_file(wildcards.run),
                product=WORK / f"results/pretrain/{wildcards.run}/weights.safetensors",
            )
        ),
    output:
        weights="<results>/pretrain/{run}/weights.safetensors",
        config="<results>/pretrain/{run}/config.yaml",
        metrics="<results>/pretrain/{run}/metrics.json",
        records="<results>/pretrain/{run}/metrics.jsonl",
    log:
        "<logs>/import_checkpoint/{run}.log",
    benchmark:
        "<benchmarks>/import_checkpoint/{run}.tsv"
    wildcard_constraints:
        run=one_of(run for run in IMPORTED if run not in EXTERNAL),
    container:
        image("train")
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        file=lambda wildcards: str(RAW / checkpoint_file(wildcards.run)),
        recipe=lambda wildcards: section(recipe(wildcards).checkpoint),
        out=lambda wildcards, output: os.path.dirname(output.weights),
    shell:
        "train_env slimclr import {params.file:q} --name {wildcards.run:q} --out {params.out:q} --recipe {params.recipe:q}"
        " 2>&1 | keep_log {log:q}"


rule absent_checkpoints:
    input:
        # Last: what does not need them is done by then.
        "<results>/report/index.html",
    output:
        # Never made: as long as one is absent, `all` ends with an error.
        "<results>/absent_checkpoints",
    log:
        "<logs>/absent_checkpoints.log",
    localrule: True
    container:
        image("train")
    params:
        # A function: addresses may have braces, which a plain parameter would fill in.
        lines=lambda wildcards: list(ABSENT_LINES),
    shell:
        "printf 'error: left out: %s\\n' {params.lines:q} 2>&1 | keep_log {log:q} >&2; exit 1"
