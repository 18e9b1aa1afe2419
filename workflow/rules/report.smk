"""Tables, figures and the page over all runs of the config."""

REPORTED = json.dumps(
    {
        "name": " + ".join(Path(file).stem for file in workflow.configfiles),
        # Where images are read from changes no table.
        "config": dump(CONFIG)
        | {"paths": {"raw": CONFIG.paths.raw, "work": CONFIG.paths.work}},
        "recipes": {run: dump(value) for run, value in RECIPES.items()},
        "absent": ABSENT | LEFT_OUT,
    },
    sort_keys=True,
)


rule report:
    input:
        environment("train"),
        pretrain=expand("<results>/pretrain/{run}/metrics.json", run=RUNS),
        probe=expand("<results>/probe/{run}/metrics.json", run=RUNS),
        quick=expand("<results>/quick/{run}/metrics.json", run=QUICK_RUNS),
        finetune=expand("<results>/finetune/{run}/metrics.json", run=FINETUNE_RUNS),
        transfer=expand("<results>/transfer/{run}/metrics.json", run=TRANSFER_RUNS),
        latency=expand("<results>/latency/{run}/metrics.json", run=LATENCY_RUNS),
    output:
        page="<results>/report/index.html",
        markdown="<results>/report/tables.md",
        csv="<results>/report/tables.csv",
        latex="<results>/report/tables.tex",
        figures=directory("<results>/report/figures"),
    log:
        "<logs>/report.log",
    container:
        image("train")
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        # A function: a folder of the config may have braces, which a plain parameter would fill in.
        config=lambda wildcards: REPORTED,
        # Its content and not the file: where the repository lies must not rerun this.
        references=sha256(REFERENCES),
        results=lambda wildcards, output: os.path.dirname(os.path.dirname(output.page)),
        out=lambda wildcards, output: os.path.dirname(output.page),
    shell:
        "train_env slimclr report --results {params.results:q} --out {params.out:q}"
        + option("--references", str(REFERENCES))
        + " --config {params.config:q} 2>&1 | keep_log {log:q}"
