# Records of every policy, and the tables collected from them.


rule evaluate:
    input:
        upstream("evaluate"),
    output:
        outputs("evaluate"),
    threads: threads_for("evaluate")
    shell:
        "{PYTHON:q} -m lightningrl evaluate --config {CONFIG:q} --name {wildcards.name} --key {wildcards.key}"


rule collect:
    input:
        upstream("collect"),
    output:
        outputs("collect"),
    shell:
        "{PYTHON:q} -m lightningrl collect --config {CONFIG:q} --name {wildcards.name} --key {wildcards.key}"
