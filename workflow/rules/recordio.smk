"""LMDB to RecordIO, on request only: `snakemake --profile local recordio`, or one of the files."""


rule convert_recordio:
    input:
        environment("recordio"),
        # Whole or absent, whichever way the images came into it.
        lmdb="<data>/imagenet/{split}.lmdb",
    output:
        rec="<data>/imagenet/{split}.rec",
        idx="<data>/imagenet/{split}.idx",
        lst="<data>/imagenet/{split}.lst",
    log:
        "<logs>/data/recordio_{split}.log",
    benchmark:
        "<benchmarks>/data/recordio_{split}.tsv"
    container:
        image("recordio")
    threads: half_the_cores()
    shell:
        "recordio_env slimclr recordio --data {input.lmdb:q} --out {output.rec:q} --jobs {threads} 2>&1 | tee {log}"


rule recordio:
    input:
        expand(rules.convert_recordio.output, split=["train", "val"]),
