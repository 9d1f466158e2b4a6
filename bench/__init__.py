"""The benchmark: one application, many servers, side by side in one run. See README.md."""
