"""The objectives of pre-training by name, for the config (`pretrain.diffusion.objective`)."""

OBJECTIVES = {
    "block_diffusion": "lightningrl.training.supervised.objectives.blocks:BlockDiffusion",
    "masked": "lightningrl.training.supervised.objectives.masked:Masked",
    "masked_next": "lightningrl.training.supervised.objectives.blocks:MaskedNext",
    "next_token": "lightningrl.training.supervised.objectives.next_token:NextToken",
}
