"""The objectives of pre-training by name, for the config (`pretrain.diffusion.objective`)."""

OBJECTIVES = {
    "block_diffusion": "lightningrl.training.supervised.objectives.blocks:BlockDiffusion",
    "masked": "lightningrl.training.supervised.objectives.masked:Masked",
    "masked_next": "lightningrl.training.supervised.objectives.blocks:MaskedNext",
    "next_token": "lightningrl.training.supervised.objectives.next_token:NextToken",
}
USUAL = {
    "block_causal": OBJECTIVES["block_diffusion"],
    "full": OBJECTIVES["masked"],
    "causal": OBJECTIVES["next_token"],
}
"""How a model's positions see each other -> the objective by which such models are trained, and the control too."""
