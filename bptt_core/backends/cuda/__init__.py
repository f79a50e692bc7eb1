"""The GPU engine of the learners: CUDA source, the shapes it is made for, how a lesson is brought to it and back."""
