# What jobs run in, where `--sdm conda` or `--sdm apptainer` asks for it: the environment of workflow/envs, whose `python`
# PYTHON then is (common.smk). Without --sdm nothing here has an effect.
DEVICE = PLAN.experiment.resources.device
CONDA = ROOT / "workflow" / "envs" / f"lightningrl{'-cuda' if DEVICE == 'cuda' else ''}.yaml"
IMAGE = ROOT / "workflow" / "envs" / "lightningrl.sif"

if "apptainer" in DEPLOYMENT and not IMAGE.is_file():
    raise WorkflowError(f"--sdm apptainer needs {IMAGE}: build it, as the head of lightningrl.def beside it says")

if DEPLOYMENT:
    for each in workflow.rules:
        if each.shellcmd is not None:
            if "conda" in DEPLOYMENT:
                each.conda_env = str(CONDA)
            if "apptainer" in DEPLOYMENT:
                each.container_img = str(IMAGE)
