"""Fine-tuning of a run's network with all labels or few, where its recipe has `finetune`."""


rule finetune:
    input:
        environment("train"),
        weights="<results>/pretrain/{run}/weights.safetensors",
        train="<data>/train.lmdb",
        val="<data>/val.lmdb",
        names=lambda wildcards: raw_files(
            *filter(None, [recipe(wildcards).finetune.names]),
            product=WORK / f"results/finetune/{wildcards.run}/metrics.json",
        ),
    output:
        weights="<results>/finetune/{run}/weights.safetensors",
        metrics=in_report("<results>/finetune/{run}/metrics.json"),
        records="<results>/finetune/{run}/metrics.jsonl",
        events=directory("<results>/finetune/{run}/tensorboard"),
    log:
        "<logs>/finetune/{run}.log",
    benchmark:
        "<benchmarks>/finetune/{run}.tsv"
    wildcard_constraints:
        run=one_of(FINETUNE_RUNS),
    container:
        image("train")
    threads: share_of_cores(finetune_gpus)
    resources:
        gpu=as_gpu(finetune_gpus),
        gres=as_gres(finetune_gpus),
        nodes=1,
        cpus_per_task=for_each(finetune_gpus, 8),
        mem_mb=for_each(finetune_gpus, 32000),
        runtime=1440,
        # Two minutes before the time limit Slurm asks for a checkpoint.
        slurm_extra="--signal=USR1@120",
    params:
        recipe=lambda wildcards: section(recipe(wildcards).finetune),
        seed=lambda wildcards: SEED_OF[wildcards.run],
        names=lambda wildcards: (
            ["--names", str(RAW / recipe(wildcards).finetune.names)]
            if recipe(wildcards).finetune.names
            else []
        ),
        out=lambda wildcards, output: os.path.dirname(output.weights),
        checkpoints=lambda wildcards: str(
            WORK / f"checkpoints/finetune/{wildcards.run}"
        ),
    shell:
        STOP_AT_A_STEP
        + "train_env slimclr finetune --name {wildcards.run:q} --seed {params.seed:q}"
        + ON_NODE
        + SCRATCH
        + settings(lambda run: RECIPES[run].finetune)
        + " --weights {input.weights:q} --train {input.train:q} --val {input.val:q} {params.names:q}"
        " --out {params.out:q} --checkpoints {params.checkpoints:q} --recipe {params.recipe:q} 2>&1 | keep_log -a {log:q}"
