# Tables and figures, and the release that gathers them.


rule table:
    input:
        upstream("table"),
    output:
        report(
            f"results/{EXPERIMENT}/table/{{name}}-{{key}}/{{name}}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{name}"},
        ),
        f"results/{EXPERIMENT}/table/{{name}}-{{key}}/{{name}}.csv",
        f"results/{EXPERIMENT}/table/{{name}}-{{key}}/{{name}}.md",
        f"results/{EXPERIMENT}/table/{{name}}-{{key}}/{{name}}.tex",
        f"results/{EXPERIMENT}/table/{{name}}-{{key}}/manifest.json",
    log:
        log_of("table"),
    benchmark:
        benchmark_of("table")
    localrule: True
    conda:
        CONDA
    params:
        run=RUN,
        config=CONFIG,
    shell:
        "{params.run} table --config {params.config:q} --name {wildcards.name} --key {wildcards.key}"


rule figure:
    input:
        upstream("figure"),
    output:
        report(
            f"results/{EXPERIMENT}/figure/{{name}}-{{key}}/{{name}}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{name}"},
        ),
        f"results/{EXPERIMENT}/figure/{{name}}-{{key}}/{{name}}.pdf",
        f"results/{EXPERIMENT}/figure/{{name}}-{{key}}/{{name}}.csv",
        f"results/{EXPERIMENT}/figure/{{name}}-{{key}}/manifest.json",
    log:
        log_of("figure"),
    benchmark:
        benchmark_of("figure")
    localrule: True
    conda:
        CONDA
    params:
        run=RUN,
        config=CONFIG,
    shell:
        "{params.run} figure --config {params.config:q} --name {wildcards.name} --key {wildcards.key}"


rule replay:
    input:
        upstream("replay"),
    output:
        *[
            report(
                f"results/{EXPERIMENT}/replay/{{name}}-{{key}}/{file}",
                caption="../report/replay.rst",
                category="Replays",
                labels={"run": "{name}", "problem": f"{number}"},
            )
            for number, file in enumerate(PLAN.patterns("replay"), 1)
        ],
        f"results/{EXPERIMENT}/replay/{{name}}-{{key}}/manifest.json",
    log:
        log_of("replay"),
    benchmark:
        benchmark_of("replay")
    conda:
        CONDA
    threads: threads_for("replay", like="evaluate")
    resources:
        **asked("replay", like="evaluate"),
    params:
        run=RUN,
        config=CONFIG,
    shell:
        "{params.run} replay --config {params.config:q} --name {wildcards.name} --key {wildcards.key}"


rule release:
    input:
        upstream("release"),
    output:
        expand(
            f"results/{EXPERIMENT}/release-{{{{key}}}}/{{file}}",
            file=[file for file in PLAN.release.outputs if file != "provenance.html"],
        ),
        report(
            f"results/{EXPERIMENT}/release-{{key}}/provenance.html",
            caption="../report/provenance.rst",
            category="Provenance",
            labels={"what": "configuration and provenance of every stage"},
        ),
    log:
        f"logs/{EXPERIMENT}/release/release-{{key}}.last.log",
    benchmark:
        f"benchmarks/{EXPERIMENT}/release/release-{{key}}.tsv"
    localrule: True
    conda:
        CONDA
    params:
        run=RUN,
        config=CONFIG,
    shell:
        "{params.run} release --config {params.config:q} --key {wildcards.key}"
