"""TorchX components: `torchx run -s SCHEDULER torchx_components/ctr.py:VERB ...`."""
