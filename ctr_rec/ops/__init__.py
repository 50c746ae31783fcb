"""Pure tensor functions, one folder for each: public signature and choice of backend, reference, fast paths."""
