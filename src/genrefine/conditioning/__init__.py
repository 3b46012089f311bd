"""What a refiner is told about the picture it makes: classes, prompts, first frames."""
