"""What replicas follow at run time: who else is there, and whether attack mode is on."""
