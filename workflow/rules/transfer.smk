"""Mask R-CNN on COCO with a run's backbone."""


rule transfer:
    input:
        environment("detection"),
        weights="<results>/pretrain/{run}/weights.safetensors",
        coco=lambda wildcards: raw_files(
            f"{CONFIG.coco}/annotations/instances_train2017.json",
            f"{CONFIG.coco}/annotations/instances_val2017.json",
            product=WORK / f"results/transfer/{wildcards.run}/metrics.json",
        ),
    output:
        metrics=in_report("<results>/transfer/{run}/metrics.json"),
        detector="<results>/transfer/{run}/detector.safetensors",
        config="<results>/transfer/{run}/config.json",
        pictures=directory("<results>/transfer/{run}/pictures"),
    log:
        "<logs>/transfer/{run}.log",
    benchmark:
        "<benchmarks>/transfer/{run}.tsv"
    container:
        image("detection")
    threads: share_of_cores(transfer_gpus)
    resources:
        gpu=as_gpu(transfer_gpus),
        gres=as_gres(transfer_gpus),
        cpus_per_task=for_each(transfer_gpus, 8),
        mem_mb=for_each(transfer_gpus, 32000),
        runtime=1440,
        # Two minutes before the time limit Slurm asks for a checkpoint.
        slurm_extra="--signal=USR1@120",
    params:
        recipe=section(CONFIG.detection),
        seed=lambda wildcards: SEED_OF[wildcards.run],
        coco=str(RAW / CONFIG.coco),
        checkpoints=lambda wildcards: str(
            WORK / f"checkpoints/transfer/{wildcards.run}"
        ),
    shell:
        STOP_AT_A_STEP
        + "detection_env slimclr transfer --name {wildcards.run:q} --seed {params.seed:q} --gpus {resources.gpu:q} --gres={resources.gres:q}"
        + settings(lambda run: CONFIG.detection)
        + " --weights {input.weights:q} --coco {params.coco:q} --out {output.metrics:q}"
        " --checkpoints {params.checkpoints:q} --recipe {params.recipe:q} 2>&1 | keep_log -a {log:q}"
