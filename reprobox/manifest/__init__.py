"""The artefact: what a run was, bound into one file that can be read again, checked and replayed."""
