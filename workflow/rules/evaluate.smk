# Records of every policy, and the tables collected from them.


rule evaluate:
    input:
        upstream("evaluate"),
    output:
        outputs("evaluate"),
    log:
        log_of("evaluate"),
    benchmark:
        benchmark_of("evaluate")
    conda:
        "../envs/lightningrl.yaml"
    threads: threads_for("evaluate")
    resources:
        **asked("evaluate"),
    params:
        run=RUN,
        config=CONFIG,
        until=until,
    shell:
        "{params.run} evaluate --config {params.config:q} --name {wildcards.name} --key {wildcards.key}{params.until}"


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
        "../envs/lightningrl.yaml"
    params:
        run=RUN,
        config=CONFIG,
    shell:
        "{params.run} collect --config {params.config:q} --name {wildcards.name} --key {wildcards.key}"
