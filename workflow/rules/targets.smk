# Every stage by name, <kind>_<name>: `figure_frontier`, `train_lightningrl`, `evaluate_base_gsm-mini`.

for stage in PLAN.stages[:-1]:

    rule:
        name:
            f"{stage.kind}_{stage.name.replace('/', '_')}"
        input:
            files_of(stage),
        localrule: True
