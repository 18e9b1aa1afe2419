"""Slimmable pre-training. Rolling checkpoints are no output: Snakemake deletes the outputs of a failed job."""


rule pretrain:
    input:
        environment("train"),
        data=lambda wildcards: (
            []
            if recipe(wildcards).pretrain.method.name == "random"
            else "<data>/train.lmdb"
        ),
        init=begins_with,
        # Only where a recipe asks for it: without, new validation images must not rerun a training.
        val=lambda wildcards: (
            "<data>/val.lmdb" if recipe(wildcards).pretrain.validation else []
        ),
    output:
        weights="<results>/pretrain/{run}/weights.safetensors",
        config="<results>/pretrain/{run}/config.yaml",
        metrics=in_report("<results>/pretrain/{run}/metrics.json"),
        records="<results>/pretrain/{run}/metrics.jsonl",
        events=directory("<results>/pretrain/{run}/tensorboard"),
    log:
        "<logs>/pretrain/{run}.log",
    benchmark:
        "<benchmarks>/pretrain/{run}.tsv"
    wildcard_constraints:
        run=pre_trained(keep_state=False),
    container:
        image("train")
    threads: share_of_cores(pretrain_gpus)
    resources:
        gpu=as_gpu(pretrain_gpus),
        gres=as_gres(pretrain_gpus),
        nodes=1,
        cpus_per_task=for_each(pretrain_gpus, 8),
        mem_mb=for_each(pretrain_gpus, 32000),
        runtime=lambda wildcards: 1440 if pretrain_gpus(wildcards) else 60,
        # Two minutes before the time limit Slurm asks for a checkpoint.
        slurm_extra="--signal=USR1@120",
    params:
        recipe=lambda wildcards: section(recipe(wildcards).pretrain),
        seed=lambda wildcards: SEED_OF[wildcards.run],
        paper=lambda wildcards: ["--paper"] if recipe(wildcards).paper else [],
        data=lambda wildcards, input: ["--data", input.data] if input.data else [],
        init=lambda wildcards, input: (
            ["--init", str(RAW / recipe(wildcards).pretrain.init)]
            if recipe(wildcards).pretrain.init_is_file
            else ["--init", *input.init] if input.init else []
        ),
        out=lambda wildcards, output: os.path.dirname(output.weights),
        checkpoints=lambda wildcards: str(
            WORK / f"checkpoints/pretrain/{wildcards.run}"
        ),
    shell:
        STOP_AT_A_STEP
        + "train_env slimclr pretrain --name {wildcards.run:q} --seed {params.seed:q}"
        + ON_NODE
        + SCRATCH
        + settings(lambda run: RECIPES[run].pretrain)
        # No input, as a new one must not rerun a training: where it is there its classes are compared.
        + option("--val", str(WORK / "data" / DATA_SET / "val.lmdb"))
        + " {params.paper:q} {params.data:q} {params.init:q} --out {params.out:q} --checkpoints {params.checkpoints:q}"
        " --recipe {params.recipe:q} 2>&1 | keep_log -a {log:q}"


use rule pretrain as pretrain_keep_state with:
    output:
        weights="<results>/pretrain/{run}/weights.safetensors",
        config="<results>/pretrain/{run}/config.yaml",
        metrics="<results>/pretrain/{run}/metrics.json",
        records="<results>/pretrain/{run}/metrics.jsonl",
        events=directory("<results>/pretrain/{run}/tensorboard"),
        state="<results>/pretrain/{run}/state.safetensors",
    wildcard_constraints:
        run=pre_trained(keep_state=True),
