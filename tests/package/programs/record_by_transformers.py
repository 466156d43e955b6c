"""The callback of the extra `transformers`, in a Trainer."""

import numpy as np
from own_program import data, flat
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import losspath
from losspath.transformers import RecorderCallback

if __name__ == "__main__":
    sizes = {"vocab_size": 5, "n_positions": 4, "n_embd": 4, "n_layer": 1, "n_head": 1}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    tokens = (data()[0].abs() * 2).long().clamp(max=4)
    trainer = Trainer(
        model,
        TrainingArguments(
            "out",
            num_train_epochs=2,
            per_device_train_batch_size=20,
            learning_rate=0.1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
        callbacks=[RecorderCallback("by-transformers")],
    )
    trainer.train()
    path = losspath.Trajectory("by-transformers")
    assert (len(path), path.closed) == (7, True)
    np.testing.assert_array_equal(path[-1], flat(model))
