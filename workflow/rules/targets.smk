# Every stage by name, <kind>_<name>: `figure_frontier`, `train_lightningrl`, `evaluate_base_gsm-mini`.

for stage in PLAN.stages[:-1]:

    rule:
        name:
            "_".join([stage.kind, *Path(stage.name).parts])
        input:
            files_of(stage),
        localrule: True
