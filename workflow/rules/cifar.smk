"""CIFAR-10 to LMDB, in the place of ImageNet (`cifar10` in the config)."""


rule cifar:
    input:
        environment("train"),
        source=lambda wildcards: raw_files(
            CONFIG.cifar10, product=WORK / "data/cifar10/val.lmdb"
        ),
    output:
        train="<data>/train.lmdb",
        val="<data>/val.lmdb",
    log:
        "<logs>/data/cifar.log",
    benchmark:
        "<benchmarks>/data/cifar.tsv"
    container:
        image("train")
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        source=str(RAW / CONFIG.cifar10),
        folder=lambda wildcards, output: os.path.dirname(output.train),
    shell:
        "train_env slimclr cifar --source {params.source:q} --out {params.folder:q} 2>&1 | keep_log {log:q}"
