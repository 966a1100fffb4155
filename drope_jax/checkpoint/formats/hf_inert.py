"""Fields of config.json that change no logit of a causal language model.

Those that transformers' configurations have for generating, for training, for
other heads and for bookkeeping, and those that other programs leave behind.
None is read by the forward pass of an architecture here. Also fields that are
read where others are absent, and may be left over.
"""

_GENERATION = frozenset(
  {
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_ensemble_weight",
    "assistant_lookbehind",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "constraints",
    "continuous_batching_config",
    "decoder_start_token_id",
    "disable_compile",
    "diversity_penalty",
    "do_sample",
    "dola_layers",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "eos_token_id",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "force_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "guidance_scale",
    "is_assistant",
    "length_penalty",
    "low_memory",
    "max_cache_len",
    "max_length",
    "max_matching_ngram_size",
    "max_new_tokens",
    "max_time",
    "min_length",
    "min_new_tokens",
    "min_p",
    "no_repeat_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "penalty_alpha",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "remove_invalid_values",
    "renormalize_logits",
    "repetition_penalty",
    "return_dict_in_generate",
    "sep_token_id",
    "sequence_bias",
    "speculation_type",
    "stop_strings",
    "suppress_tokens",
    "target_lookbehind",
    "temperature",
    "token_healing",
    "top_h",
    "top_k",
    "top_p",
    "typical_p",
    "unk_token_id",
    "use_cache",
    "use_mtp",
    "watermarking_config",
  }
)
"""transformers' GenerationConfig's, which configs held before there was one."""

_BOOKKEEPING = frozenset(
  {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation_internal",
    "_flash_attn_2_enabled",
    "_from_model_config",
    "_name_or_path",
    "_num_labels",
    "_output_attentions",
    "_post_init_done",
    "architectures",
    "attn_implementation",
    "auto_map",  # Code beside a model whose model_type has transformers' own.
    "chunk_size_feed_forward",
    "finetuning_task",
    "id2label",
    "keys_to_ignore_at_inference",
    "label2id",
    "model_type",
    "name_or_path",
    "num_labels",
    "prefix",
    "problem_type",
    "return_dict",
    "task_specific_params",
    "tf_legacy_loss",
    "tokenizer_class",
    "torchscript",
    "transformers_version",
    "transformers_weights",
    "use_bfloat16",
    "use_flash_attention_2",
    "use_return_dict",
  }
)
"""Of transformers' configurations of every kind of model."""

_TRAINING = frozenset(
  {
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "classifier_dropout",
    "embd_pdrop",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "initializer_range",
    "neftune_noise_alpha",
    "resid_pdrop",
    "residual_dropout",
    "pretraining_tp",  # Splits a product, and changes its rounding alone.
  }
)

_OTHER_PROGRAMS = frozenset(
  {
    "is_llama_config",  # nanotron's.
    "max_sequence_length",  # Vicuna's, and the first conversions of Llama.
    "sliding_window_size",  # Beside Gemma 2's sliding_window.
    "tokenizer_model_max_length",
    "tokenizer_padding_side",
    "transformers.js_config",
    "unsloth_fixed",
    "unsloth_version",
  }
)

_LEFT_OVER = frozenset({"max_window_layers", "no_rope_layer_interval"})

_GPT2 = frozenset(
  {
    "n_ctx",  # n_positions, before transformers 4.
    "n_special",
    "predict_special_tokens",
    "reorder_and_upcast_attn",  # Changes rounding alone.
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
  }
)

INERT = (
  _GENERATION | _BOOKKEEPING | _TRAINING | _OTHER_PROGRAMS | _LEFT_OVER | _GPT2
)
