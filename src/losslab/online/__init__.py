"""Online training: the model answers questions, our verifier rewards the answers, TRL's trainer learns from them.

    questions   rows → prompts with their true answers
    verifier    answers → rewards
    trainers    a configuration → TRL's GRPO trainer, or ppo on top of it
    worker      what one worker does from the first question to the exported model

TRL is the extra `online`.
"""
