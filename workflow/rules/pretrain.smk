"""Slimmable pre-training. Rolling checkpoints are no output: Snakemake deletes the outputs of a failed job."""


rule pretrain:
    input:
        environment("train"),
        data=lambda wildcards: (
            []
            if recipe(wildcards).pretrain.method.name == "random"
            else "<data>/train.lmdb"
        ),
    output:
        weights="<results>/pretrain/{run}/weights.safetensors",
        config="<results>/pretrain/{run}/config.yaml",
        metrics="<results>/pretrain/{run}/metrics.json",
        records="<results>/pretrain/{run}/metrics.jsonl",
        events=directory("<results>/pretrain/{run}/tensorboard"),
    log:
        "<logs>/pretrain/{run}.log",
    benchmark:
        "<benchmarks>/pretrain/{run}.tsv"
    container:
        image("train")
    threads: half_the_cores()
    resources:
        gpu=gpus,
        nodes=1,
    params:
        recipe=lambda wildcards: section(recipe(wildcards).pretrain),
        seed=lambda wildcards: SEED_OF[wildcards.run],
        paper=lambda wildcards: "--paper" if recipe(wildcards).paper else "",
        data=lambda wildcards, input: f"--data {input.data}" if input.data else "",
        out=lambda wildcards, output: os.path.dirname(output.weights),
        checkpoints=lambda wildcards: str(
            WORK / f"checkpoints/pretrain/{wildcards.run}"
        ),
    shell:
        STOP_AT_A_STEP
        + "train_env slimclr pretrain --name {wildcards.run} --seed {params.seed} --gpus {resources.gpu} --nodes {resources.nodes} {params.paper}"
        " {params.data} --out {params.out:q} --checkpoints {params.checkpoints:q}"
        " --recipe {params.recipe:q} 2>&1 | tee -a {log}"
