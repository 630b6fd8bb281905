# Weights: the base model, pre-trained here or taken from elsewhere, what is trained from it, and what is quantised of it.


rule pretrain:
    input:
        upstream("pretrain"),
    output:
        outputs("pretrain"),
    log:
        log_of("pretrain"),
    benchmark:
        benchmark_of("pretrain")
    conda:
        CONDA
    threads: threads_for("pretrain")
    resources:
        **asked("pretrain"),
    params:
        run=RUN,
        config=CONFIG,
        until=until,
    shell:
        "{params.run} pretrain --config {params.config:q} --name {wildcards.name} --key {wildcards.key}{params.until}"


rule checkpoint:
    input:
        upstream("checkpoint"),
    output:
        outputs("checkpoint"),
    log:
        log_of("checkpoint"),
    benchmark:
        benchmark_of("checkpoint")
    localrule: True
    conda:
        CONDA
    params:
        run=RUN,
        config=CONFIG,
    shell:
        "{params.run} checkpoint --config {params.config:q} --name {wildcards.name} --key {wildcards.key}"


rule train:
    input:
        upstream("train"),
    output:
        outputs("train"),
    log:
        log_of("train"),
    benchmark:
        benchmark_of("train")
    conda:
        CONDA
    threads: threads_for("train")
    resources:
        **asked("train"),
    params:
        run=launch,
        config=CONFIG,
        until=until,
    shell:
        "{params.run} train --config {params.config:q} --name {wildcards.name} --key {wildcards.key}{params.until}"


rule quantize:
    input:
        upstream("quantize"),
    output:
        outputs("quantize"),
    log:
        log_of("quantize"),
    benchmark:
        benchmark_of("quantize")
    conda:
        CONDA
    threads: threads_for("quantize", like="evaluate")
    resources:
        **asked("quantize", like="evaluate"),
    params:
        run=RUN,
        config=CONFIG,
    shell:
        "{params.run} quantize --config {params.config:q} --name {wildcards.name} --key {wildcards.key}"
