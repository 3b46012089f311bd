"""Judge a visual tokenizer by its reconstructions and a pipeline by its samples."""
