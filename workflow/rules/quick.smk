"""Quick probes of all widths of a run: `snakemake --profile local quick`, and in `all` where a recipe has `quick`."""


rule quick_probe:
    input:
        environment("train"),
        weights="<results>/pretrain/{run}/weights.safetensors",
        train="<data>/train.lmdb",
        val="<data>/val.lmdb",
    output:
        metrics=in_report("<results>/quick/{run}/metrics.json"),
    log:
        "<logs>/quick/{run}.log",
    benchmark:
        "<benchmarks>/quick/{run}.tsv"
    container:
        image("train")
    threads: share_of_cores(quick_gpus)
    resources:
        gpu=as_gpu(quick_gpus),
        gres=as_gres(quick_gpus),
        nodes=1,
        cpus_per_task=for_each(quick_gpus, 16),
        mem_mb=for_each(quick_gpus, 32000),
        runtime=480,
        # Two minutes before the time limit Slurm asks to stop.
        slurm_extra="--signal=USR1@120",
    params:
        recipe=lambda wildcards: section(recipe(wildcards).quick_section),
        seed=lambda wildcards: SEED_OF[wildcards.run],
        checkpoints=lambda wildcards: str(WORK / f"checkpoints/quick/{wildcards.run}"),
    shell:
        STOP_AT_A_STEP
        + "train_env slimclr quick --name {wildcards.run:q} --seed {params.seed:q}"
        + ON_NODE
        + SCRATCH
        + settings(lambda run: RECIPES[run].quick_section)
        + " --weights {input.weights:q} --train {input.train:q} --val {input.val:q} --out {output.metrics:q}"
        " --checkpoints {params.checkpoints:q} --recipe {params.recipe:q} 2>&1 | keep_log -a {log:q}"


rule quick:
    input:
        expand(rules.quick_probe.output.metrics, run=RUNS),
