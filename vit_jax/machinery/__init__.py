"""What a run stands on and nobody looks for by name: processes, devices, folders, flags."""
