"""The reward service as an ASGI application that knows nothing of Ray; cluster/reward_service.py deploys it."""
