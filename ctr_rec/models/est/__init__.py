"""EST (arXiv 2602.10811): every raw input a token, feature tokens attending to behaviours that attend by content."""
