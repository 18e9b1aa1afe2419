"""Linear probes of all widths of a run."""


rule probe:
    input:
        environment("train"),
        weights="<results>/pretrain/{run}/weights.safetensors",
        train=lambda wildcards: (
            "<data>/train.lmdb" if recipe(wildcards).probe.epochs else []
        ),
        val="<data>/val.lmdb",
    output:
        metrics=in_report("<results>/probe/{run}/metrics.json"),
        classifier="<results>/probe/{run}/classifier.safetensors",
    log:
        "<logs>/probe/{run}.log",
    benchmark:
        "<benchmarks>/probe/{run}.tsv"
    container:
        image("train")
    threads: share_of_cores(probe_gpus)
    resources:
        gpu=as_gpu(probe_gpus),
        gres=as_gres(probe_gpus),
        nodes=1,
        cpus_per_task=for_each(probe_gpus, 8),
        mem_mb=for_each(probe_gpus, 32000),
        runtime=lambda wildcards: 1440 if recipe(wildcards).probe.epochs else 120,
        # Two minutes before the time limit Slurm asks for a checkpoint.
        slurm_extra="--signal=USR1@120",
    params:
        recipe=lambda wildcards: section(recipe(wildcards).probe),
        train=lambda wildcards, input: ["--train", input.train] if input.train else [],
        seed=lambda wildcards: SEED_OF[wildcards.run],
        checkpoints=lambda wildcards: str(WORK / f"checkpoints/probe/{wildcards.run}"),
    shell:
        STOP_AT_A_STEP
        + "train_env slimclr probe --name {wildcards.run:q} --seed {params.seed:q}"
        + ON_NODE
        + SCRATCH
        + settings(lambda run: RECIPES[run].probe)
        + " --weights {input.weights:q} {params.train:q} --val {input.val:q} --out {output.metrics:q}"
        " --checkpoints {params.checkpoints:q} --recipe {params.recipe:q} 2>&1 | keep_log -a {log:q}"
