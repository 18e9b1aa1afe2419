"""Virtual environments from envs/*.lock, made when the first job needs one."""


rule environment:
    output:
        marker=f"{ROOT}/.venvs/{{environment}}/installed.sha256",
    log:
        "<logs>/environments/{environment}.log",
    benchmark:
        "<benchmarks>/environments/{environment}.tsv"
    # Compute nodes often reach no package registry.
    localrule: True
    params:
        installer=f"{ROOT}/envs/install.sh",
        # It must not replace the environment that Snakemake itself runs in.
        in_use=sys.prefix,
    run:
        shell(
            "{params.installer} {wildcards.environment} {params.in_use} >{log} 2>&1 && touch {output.marker}"
        )
