"""Runs Snakemake in forks of a process that has imported it, which is most of what a dry run costs.

A line of JSON comes in for each run (folder, arguments, variables, and the file for what it says); its exit code goes
out. The package itself is not imported here: each fork imports that of its folder.
"""

import json
import os
import sys

import snakemake.cli
import snakemake.dag
import snakemake.workflow


def run(folder: str, arguments: list[str], variables: dict[str, str], log: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor, place in ((os.open(os.devnull, os.O_RDONLY), 0), (said, 1), (said, 2)):
        os.dup2(descriptor, place)
    sys.argv, sys.path[0] = ["snakemake", *arguments], folder
    snakemake.cli.main()
    sys.exit(0)


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            sys.exit(run(**json.loads(line)))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()
