"""The table of jobs in docs/slurm.md: `python docs/resources.py` writes it as a dry run for Slurm shows it."""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/slurm.md"
TABLE = re.compile(r"(<!-- docs/resources.py -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)
COLUMNS = {"nodes": "1", "gpu": "0", "cpus_per_task": "1", "mem_mb": "", "runtime": ""}


def planned(folder: Path, *options: str) -> list[dict[str, str]]:
    """Jobs of the paper's config: rule, run, and what each asks Slurm for.

    Args:
        folder: An empty folder to plan in, without data; its profiles/default is the user file.
        options: More of Snakemake's options.
    """
    snakemake = Path(sys.executable).with_name("snakemake")
    user = ["--workflow-profile", folder / "profiles/default"] if (folder / "profiles").exists() else []
    user = user or ["--workflow-profile", "none"]
    profile = ["--profile", ROOT / "slurm", *user, "--snakefile", ROOT / "Snakefile"]
    command = [snakemake, "all", *profile, "-n", *options]
    environment = {key: value for key, value in os.environ.items() if key != "SNAKEMAKE_PROFILE"}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SystemExit(done.stdout)
    jobs: list[dict[str, str]] = []
    for line in done.stdout.splitlines():
        if match := re.match(r"(?:local)?rule (\w+):", line):
            jobs.append({"rule": match[1]})
        elif match := re.match(r" +wildcards: .*?run=([^,]+)", line):
            jobs[-1]["run"] = match[1]
        elif match := re.match(r" +resources: (.*)", line):
            pairs = (pair.partition("=") for pair in match[1].split(", "))
            wanted = {*COLUMNS, "gres", "slurm_partition", "slurm_account", "slurm_extra"}
            jobs[-1] |= {key: value for key, _, value in pairs if key in wanted}
    jobs = [job for job in jobs if job["rule"] != "all"]
    return sorted(jobs, key=lambda job: (job["rule"], job.get("run", "")))


def table(jobs: list[dict[str, str]]) -> str:
    """The jobs as a Markdown table, those alike in one row, in the order of the data's way."""
    rows: Counter[tuple[str, ...]] = Counter()
    runs: dict[tuple[str, ...], list[str]] = {}
    for job in jobs:
        row = (job["rule"], *(job.get(column, default) for column, default in COLUMNS.items()))
        rows[row] += 1
        runs.setdefault(row, []).append(job.get("run", ""))
    order = [
        "extract_train",
        "extract_val",
        "convert",
        "pretrain",
        "probe",
        "quick_probe",
        "finetune",
        "transfer",
        "measure_latency",
        "report",
    ]
    lines = [
        "| rule | jobs | runs | nodes | GPUs | CPUs | memory, GB | time limit, h |",
        "| --- | ---: | --- |" + " ---: |" * 5,
    ]
    for row, count in sorted(rows.items(), key=lambda item: (order.index(item[0][0]), -int(item[0][2]))):
        rule, nodes, gpus, cpus, memory, minutes = row
        named = ", ".join(f"`{run}`" for run in sorted(filter(None, runs[row])))
        hours = f"{int(minutes) / 60:g}"
        lines.append(f"| {rule} | {count} | {named} | {nodes} | {gpus} | {cpus} | {int(memory) // 1000} | {hours} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table between its markers."""
    with tempfile.TemporaryDirectory() as folder:
        new = table(planned(Path(folder)))
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda match: match[1] + new + match[3], text), encoding="utf-8")


if __name__ == "__main__":
    main()
