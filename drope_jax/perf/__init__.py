"""What programs cost: FLOPs, and what the TPU's compiler says of them."""
