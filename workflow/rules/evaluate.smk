# Records, speeds and probes of policies, and the tables collected from them.


rule evaluate_part:
    input:
        upstream("evaluate"),
    output:
        f"results/{EXPERIMENT}/cache/parts/{{name}}-{{key}}/{{part}}-of-{{parts}}.json",
    log:
        f"logs/{EXPERIMENT}/evaluate/{{name}}-{{key}}.{{part}}-of-{{parts}}.last.log",
    benchmark:
        f"benchmarks/{EXPERIMENT}/evaluate/{{name}}-{{key}}.{{part}}-of-{{parts}}.tsv"
    conda:
        CONDA
    threads: threads_for("evaluate")
    resources:
        **asked("evaluate"),
    params:
        run=RUN,
        config=CONFIG,
        until=until,
    shell:
        "{params.run} evaluate --config {params.config:q} --name {wildcards.name} --key {wildcards.key}"
        " --part {wildcards.part}/{wildcards.parts}{params.until}"


rule evaluate:
    input:
        upstream("evaluate"),
        parts_of_evaluation,
    output:
        outputs("evaluate"),
    log:
        log_of("evaluate"),
    benchmark:
        benchmark_of("evaluate")
    conda:
        CONDA
    threads: threads_for("evaluate")
    resources:
        **asked("evaluate"),
    params:
        run=RUN,
        config=CONFIG,
        until=until,
    shell:
        "{params.run} evaluate --config {params.config:q} --name {wildcards.name} --key {wildcards.key}{params.until}"


rule speed:
    input:
        upstream("speed"),
    output:
        outputs("speed"),
    log:
        log_of("speed"),
    benchmark:
        benchmark_of("speed")
    conda:
        CONDA
    threads: threads_for("speed", like="evaluate")
    resources:
        **asked("speed", like="evaluate"),
    params:
        run=RUN,
        config=CONFIG,
    shell:
        "{params.run} speed --config {params.config:q} --name {wildcards.name} --key {wildcards.key}"


rule probe:
    input:
        upstream("probe"),
    output:
        outputs("probe"),
    log:
        log_of("probe"),
    benchmark:
        benchmark_of("probe")
    conda:
        CONDA
    threads: threads_for("probe", like="evaluate")
    resources:
        **asked("probe", like="evaluate"),
    params:
        run=RUN,
        config=CONFIG,
    shell:
        "{params.run} probe --config {params.config:q} --name {wildcards.name} --key {wildcards.key}"


rule collect:
    input:
        upstream("collect"),
    output:
        outputs("collect"),
    log:
        log_of("collect"),
    benchmark:
        benchmark_of("collect")
    localrule: True
    conda:
        CONDA
    params:
        run=RUN,
        config=CONFIG,
    shell:
        "{params.run} collect --config {params.config:q} --name {wildcards.name} --key {wildcards.key}"
