"""On-policy training: the model answers questions, our verifier rewards the answers, TRL's trainer learns from these
rewards or from a teacher.

    questions   rows → prompts with their true answers
    verifier    answers → rewards
    trainers    a configuration → TRL's GRPO trainer, ppo on top of it, or distillation on its trainer of that
    worker      what one worker does from the first question to the exported model

TRL is the extra `online`.
"""
