# Every stage by name: <kind>_<name>, like `train_lightningrl`, `evaluate_base_gsm-mini`; the paper's tables and figures by
# their own: `table1`, `figure3`. All of an experiment by its name: `study`.

for stage in PLAN.stages[:-1]:

    rule:
        name:
            stage.target
        input:
            files_of(stage),
        localrule: True


for name in sorted({EXPERIMENT, Path(CONFIG).stem}):
    if not workflow.is_rule(name):

        rule:
            name:
                name
            input:
                files_of(PLAN.release),
            localrule: True
