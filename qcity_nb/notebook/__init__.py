"""Inside the notebook: loop, panel, outputs; around it: the papermill engine."""
