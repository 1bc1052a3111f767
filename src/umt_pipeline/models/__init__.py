"""Networks: video encoder and student, CLIP teacher, text and fusion encoder, video-text model, checkpoints."""
