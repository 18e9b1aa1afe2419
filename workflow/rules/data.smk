"""Archives to folders of images to LMDB."""

if CONFIG.miniature:

    rule miniature:
        input:
            environment("train"),
        output:
            train=str(RAW / CONFIG.imagenet.train),
            val=str(RAW / CONFIG.imagenet.val),
            devkit=str(RAW / CONFIG.imagenet.devkit),
            coco_train=str(RAW / CONFIG.coco / "annotations/instances_train2017.json"),
            coco_val=str(RAW / CONFIG.coco / "annotations/instances_val2017.json"),
        log:
            "<logs>/miniature.log",
        container:
            image("train")
        params:
            seed=CONFIG.miniature.seed,
            raw=lambda wildcards, output: os.path.dirname(output.train),
        shell:
            "train_env slimclr miniature --seed {params.seed} --out {params.raw} 2>&1 | tee {log}"


rule extract_train:
    input:
        environment("train"),
        archive=lambda wildcards: raw_files(
            CONFIG.imagenet.train,
            product=WORK / "data/imagenet/train/manifest.parquet",
        ),
    output:
        manifest="<data>/imagenet/train/manifest.parquet",
    log:
        "<logs>/data/extract_train.log",
    benchmark:
        "<benchmarks>/data/extract_train.tsv"
    container:
        image("train")
    params:
        archive=str(RAW / CONFIG.imagenet.train),
        expect=CONFIG.imagenet.expect,
        folder=lambda wildcards, output: os.path.dirname(output.manifest),
    shell:
        "train_env slimclr extract --split train --archive {params.archive:q} --expect {params.expect}"
        " --out {params.folder:q} 2>&1 | tee {log}"


rule extract_val:
    input:
        environment("train"),
        archives=lambda wildcards: raw_files(
            CONFIG.imagenet.val,
            CONFIG.imagenet.devkit,
            product=WORK / "data/imagenet/val/manifest.parquet",
        ),
    output:
        manifest="<data>/imagenet/val/manifest.parquet",
    log:
        "<logs>/data/extract_val.log",
    benchmark:
        "<benchmarks>/data/extract_val.tsv"
    container:
        image("train")
    params:
        archive=str(RAW / CONFIG.imagenet.val),
        devkit=str(RAW / CONFIG.imagenet.devkit),
        expect=CONFIG.imagenet.expect,
        folder=lambda wildcards, output: os.path.dirname(output.manifest),
    shell:
        "train_env slimclr extract --split val --archive {params.archive:q} --devkit {params.devkit:q}"
        " --expect {params.expect} --out {params.folder:q} 2>&1 | tee {log}"


rule convert:
    input:
        environment("train"),
        manifest="<data>/imagenet/{split}/manifest.parquet",
    output:
        lmdb="<data>/imagenet/{split}.lmdb",
    log:
        "<logs>/data/convert_{split}.log",
    benchmark:
        "<benchmarks>/data/convert_{split}.tsv"
    container:
        image("train")
    params:
        folder=lambda wildcards, input: os.path.dirname(input.manifest),
    shell:
        "train_env slimclr convert --folder {params.folder:q} --out {output.lmdb:q} 2>&1 | tee {log}"
