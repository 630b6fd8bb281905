# Problems, the proof that their judge is sound here, and the tokenizer of their texts.


rule data:
    input:
        upstream("data"),
    output:
        outputs("data"),
    log:
        log_of("data"),
    benchmark:
        benchmark_of("data")
    localrule: True
    conda:
        CONDA
    params:
        run=RUN,
        config=CONFIG,
    shell:
        "{params.run} data --config {params.config:q} --name {wildcards.name} --key {wildcards.key}"


rule selfcheck:
    input:
        upstream("selfcheck"),
    output:
        outputs("selfcheck"),
    log:
        log_of("selfcheck"),
    benchmark:
        benchmark_of("selfcheck")
    conda:
        CONDA
    threads: threads_for("selfcheck")
    resources:
        **asked("selfcheck"),
    params:
        run=RUN,
        config=CONFIG,
        until=until,
    shell:
        "{params.run} selfcheck --config {params.config:q} --name {wildcards.name} --key {wildcards.key}{params.until}"


rule tokenizer:
    input:
        upstream("tokenizer"),
    output:
        outputs("tokenizer"),
    log:
        log_of("tokenizer"),
    benchmark:
        benchmark_of("tokenizer")
    localrule: True
    conda:
        CONDA
    params:
        run=RUN,
        config=CONFIG,
    shell:
        "{params.run} tokenizer --config {params.config:q} --name {wildcards.name} --key {wildcards.key}"
