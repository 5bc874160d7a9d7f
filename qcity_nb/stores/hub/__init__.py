"""The store on the Hugging Face Hub: a branch for each run, one commit for each publish."""
