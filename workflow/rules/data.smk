"""Archives to folders of images to LMDB, or straight to LMDB (`keep_folder: false`)."""

if CONFIG.miniature:
    # Snakemake deletes what a rule may make as its job starts, also somebody's own archives.
    GENERATED = RAW / ".miniature"
    for name in (CONFIG.imagenet.train, CONFIG.imagenet.val, CONFIG.imagenet.devkit):
        if (RAW / name).exists() and not GENERATED.exists():
            raise WorkflowError(
                f"{RAW / name}: not generated here, and the miniature would replace it; name another folder as paths.raw, "
                "or leave out miniature (a miniature of an earlier version: delete it)"
            )

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
        resources:
            mem_mb=4000,
            runtime=60,
        params:
            seed=CONFIG.miniature.seed,
            raw=lambda wildcards, output: os.path.dirname(output.train),
        shell:
            "mkdir -p {params.raw:q}; touch {params.raw:q}/.miniature; "
            "train_env slimclr miniature --seed {params.seed:q} --out {params.raw:q} 2>&1 | keep_log {log:q}"


# What the two extractions have in common. An MD5 changes nothing in their output, so it is no parameter.
EXTRACT_OPTIONS = {
    "expect": CONFIG.imagenet.expect,
    "check_images": CONFIG.imagenet.check_images,
    "on_corrupt": CONFIG.imagenet.on_corrupt,
}
# The other split is no parameter either: where it is there its classes are compared, long before a probe would.
EXTRACT_SHELL = (
    " --expect {params.expect:q} --check-images {params.check_images:q} --on-corrupt {params.on_corrupt:q}"
    + (" --check-md5" if CONFIG.imagenet.check_md5 else "")
    + ("" if CONFIG.imagenet.keep_folder else " --lmdb {output.lmdb:q}")
    + " --out {params.folder:q} 2>&1 | keep_log {log:q}"
)


rule extract_train:
    input:
        environment("train"),
        archive=lambda wildcards: raw_files(
            CONFIG.imagenet.train,
            product=WORK / "data/imagenet/train/manifest.parquet",
        ),
    output:
        **extracted("train"),
    log:
        "<logs>/data/extract_train.log",
    benchmark:
        "<benchmarks>/data/extract_train.tsv"
    container:
        image("train")
    resources:
        cpus_per_task=8,
        mem_mb=8000,
        runtime=600,
    params:
        **EXTRACT_OPTIONS,
        archive=str(RAW / CONFIG.imagenet.train),
        folder=lambda wildcards, output: os.path.dirname(output.manifest),
    shell:
        "train_env slimclr extract --split train --archive {params.archive:q}"
        + option("--other", str(RAW / CONFIG.imagenet.val))
        + option("--devkit", str(RAW / CONFIG.imagenet.devkit))
        + EXTRACT_SHELL


rule extract_val:
    input:
        environment("train"),
        archives=lambda wildcards: raw_files(
            CONFIG.imagenet.val,
            CONFIG.imagenet.devkit,
            product=WORK / "data/imagenet/val/manifest.parquet",
        ),
    output:
        **extracted("val"),
    log:
        "<logs>/data/extract_val.log",
    benchmark:
        "<benchmarks>/data/extract_val.tsv"
    container:
        image("train")
    resources:
        cpus_per_task=8,
        mem_mb=8000,
        runtime=120,
    params:
        **EXTRACT_OPTIONS,
        archive=str(RAW / CONFIG.imagenet.val),
        devkit=str(RAW / CONFIG.imagenet.devkit),
        folder=lambda wildcards, output: os.path.dirname(output.manifest),
    shell:
        "train_env slimclr extract --split val --archive {params.archive:q} --devkit {params.devkit:q}"
        + option("--other", str(RAW / CONFIG.imagenet.train))
        + EXTRACT_SHELL


if CONFIG.imagenet.keep_folder:

    rule convert:
        input:
            environment("train"),
            manifest="<data>/{split}/manifest.parquet",
        output:
            lmdb="<data>/{split}.lmdb",
        log:
            "<logs>/data/convert_{split}.log",
        benchmark:
            "<benchmarks>/data/convert_{split}.tsv"
        container:
            image("train")
        resources:
            cpus_per_task=4,
            mem_mb=8000,
            runtime=600,
        params:
            folder=lambda wildcards, input: os.path.dirname(input.manifest),
            resize=lambda wildcards: resized(wildcards.split),
        shell:
            "train_env slimclr convert --folder {params.folder:q} --out {output.lmdb:q} {params.resize:q}"
            " 2>&1 | keep_log {log:q}"
