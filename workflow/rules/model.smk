# Weights: the base model, pre-trained here or taken from elsewhere, and what is trained from it.


rule pretrain:
    input:
        upstream("pretrain"),
    output:
        outputs("pretrain"),
    threads: threads_for("pretrain")
    shell:
        "{PYTHON:q} -m lightningrl pretrain --config {CONFIG:q} --name {wildcards.name} --key {wildcards.key}"


rule checkpoint:
    input:
        upstream("checkpoint"),
    output:
        outputs("checkpoint"),
    shell:
        "{PYTHON:q} -m lightningrl checkpoint --config {CONFIG:q} --name {wildcards.name} --key {wildcards.key}"


rule train:
    input:
        upstream("train"),
    output:
        outputs("train"),
    threads: threads_for("train")
    params:
        launch=launcher(),
    shell:
        "{PYTHON:q} -m {params.launch} train --config {CONFIG:q} --name {wildcards.name} --key {wildcards.key}"
