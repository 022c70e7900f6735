"""MMDetection's Runner made resumable: loops, hooks, data loader, random number generators."""
