"""Where diffusers finds the class of this model; `genrefine.load` does without this file."""

try:
    from genrefine import ClassPipeline
except ImportError as error:
    raise ImportError("this model needs the package genrefine: pip install genrefine") from error

__all__ = ["ClassPipeline"]
