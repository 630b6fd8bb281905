# Records and speeds of every policy, and the tables collected from them.


rule evaluate_part:
    input:
        upstream("evaluate"),
    output:
        f"results/{EXPERIMENT}/cache/parts/{{name}}-{{key}}/{{part}}-of-{{parts}}.json",
    threads: threads_for("evaluate")
    shell:
        "{PYTHON:q} -m lightningrl evaluate --config {CONFIG:q} --name {wildcards.name} --key {wildcards.key}"
        " --part {wildcards.part}/{wildcards.parts}"


rule evaluate:
    input:
        upstream("evaluate"),
        parts_of_evaluation,
    output:
        outputs("evaluate"),
    threads: threads_for("evaluate")
    shell:
        "{PYTHON:q} -m lightningrl evaluate --config {CONFIG:q} --name {wildcards.name} --key {wildcards.key}"


rule speed:
    input:
        upstream("speed"),
    output:
        outputs("speed"),
    threads: threads_for("speed")
    shell:
        "{PYTHON:q} -m lightningrl speed --config {CONFIG:q} --name {wildcards.name} --key {wildcards.key}"


rule collect:
    input:
        upstream("collect"),
    output:
        outputs("collect"),
    shell:
        "{PYTHON:q} -m lightningrl collect --config {CONFIG:q} --name {wildcards.name} --key {wildcards.key}"
