"""LMDB to RecordIO, on request only: `snakemake --profile local recordio`, or one of the files."""


rule convert_recordio:
    input:
        environment("recordio"),
        # Whole or absent, whichever way the images came into it.
        lmdb="<data>/{split}.lmdb",
    output:
        rec="<data>/{split}.rec",
        idx="<data>/{split}.idx",
        lst="<data>/{split}.lst",
    log:
        "<logs>/data/recordio_{split}.log",
    benchmark:
        "<benchmarks>/data/recordio_{split}.tsv"
    container:
        image("recordio")
    threads: share_of_cores()
    resources:
        cpus_per_task=4,
        mem_mb=8000,
        runtime=600,
    params:
        resize=(
            ["--resize", CONFIG.imagenet.recordio_resize]
            if CONFIG.imagenet.recordio_resize
            else []
        ),
    shell:
        "recordio_env slimclr recordio --data {input.lmdb:q} --out {output.rec:q} {params.resize:q} --jobs {threads:q}"
        " 2>&1 | keep_log {log:q}"


rule recordio:
    input:
        expand(rules.convert_recordio.output, split=["train", "val"]),
