"""The paper's claims in miniature: small controlled experiments on a corpus that fits in memory."""
