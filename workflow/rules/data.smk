# Problems, the proof that their judge is sound here, and the tokenizer of their texts.


rule data:
    input:
        upstream("data"),
    output:
        outputs("data"),
    shell:
        "{PYTHON:q} -m lightningrl data --config {CONFIG:q} --name {wildcards.name} --key {wildcards.key}"


rule selfcheck:
    input:
        upstream("selfcheck"),
    output:
        outputs("selfcheck"),
    shell:
        "{PYTHON:q} -m lightningrl selfcheck --config {CONFIG:q} --name {wildcards.name} --key {wildcards.key}"


rule tokenizer:
    input:
        upstream("tokenizer"),
    output:
        outputs("tokenizer"),
    shell:
        "{PYTHON:q} -m lightningrl tokenizer --config {CONFIG:q} --name {wildcards.name} --key {wildcards.key}"
