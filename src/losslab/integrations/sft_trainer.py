"""Objectives in TRL's SFTTrainer: its data preparation, packing and adapters, with the fused loss of losslab.

trainer = ObjectiveSFTTrainer(model, args, train_dataset=rows, objective=DFT())
"""

from trl import SFTTrainer

from losslab.integrations.trainer import ObjectiveLoss


class ObjectiveSFTTrainer(ObjectiveLoss, SFTTrainer):
    """TRL's SFTTrainer with an objective of losslab instead of `loss_type`."""
