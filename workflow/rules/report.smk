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

# Figures that somebody types in stay out of the repository's file.
REPORT_REFERENCES = [
    file
    for file in (REFERENCES, REFERENCES.with_suffix(".user.yaml"))
    if file.is_file()
]
REPORT = (
    "train_env slimclr report --results {params.results:q} --out {params.out:q}"
    + " --references"
    + "".join(option("", str(file)) for file in REPORT_REFERENCES)
    + " --config {params.config:q}"
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
        page=in_report("<results>/report/index.html", "page", "Report"),
        markdown=in_report("<results>/report/tables.md", "tables", "Report"),
        csv=in_report("<results>/report/tables.csv", "tables", "Report"),
        latex=in_report("<results>/report/tables.tex", "tables", "Report"),
        figures=report(
            directory("<results>/report/figures"),
            patterns=["{figure}.svg"],
            caption=os.path.join(workflow.basedir, "workflow/report/figure.rst"),
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        recipes=directory("<results>/report/recipes"),
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
        references=[sha256(file) for file in REPORT_REFERENCES],
        results=lambda wildcards, output: os.path.dirname(os.path.dirname(output.page)),
        out=lambda wildcards, output: os.path.dirname(output.page),
    shell:
        f"{REPORT} 2>&1 | keep_log {{log:q}}"


rule report_partial:
    input:
        environment("train"),
    log:
        "<logs>/report_partial.log",
    container:
        image("train")
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        config=lambda wildcards: REPORTED,
        results=str(WORK / "results"),
        out=str(WORK / "results/report_partial"),
    shell:
        f"{REPORT} --partial 2>&1 | keep_log {{log:q}}"
