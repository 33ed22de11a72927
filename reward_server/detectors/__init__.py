"""What finds objects in photographs and names their colours, as GenEval's published evaluation does (arXiv:2310.11513)."""
