"""One vocabulary for all checks: under which names people's functions take an argument."""

import itertools

# Parts of an argument's name that say nothing about what it is.
_FILLER_WORDS = (
    "all arr array b batch buf buffer ep episode flat in input is its list mb my np per ph seq sequence step t tensor "
    "the token tokens tm1 traj trajectory vec x"
)
_FILLERS = frozenset(_FILLER_WORDS.split())

#: Log-probabilities without an adjective.
LOG_PROB_WORDS = (
    "log_probs log_prob logprobs logprob logps logp lps lp log_p log_ps log_pi logpi log_pis logpis log_probas "
    "log_proba logprobas logpa logpas log_likelihood log_likelihoods log_probabilities"
)
_LOG_PROBS = LOG_PROB_WORDS.split()


def affixed(*affixes: str) -> str:
    """Log-probabilities with an adjective before or behind: `old_log_probs`, `logp_old`, `oldlogp`."""
    pairs = list(itertools.product(affixes, _LOG_PROBS))
    return " ".join([f"{a}_{n} {n}_{a}" for a, n in pairs] + [f"{a}{n} {n}{a}" for a, n in pairs if "_" not in n])


_POLICY = affixed(
    "new", "current", "cur", "curr", "theta", "now", "updated", "policy", "selected", "action", "actions", "actor",
    "model", "completion", "response", "student", "next", "pi", "saved", "target", "train", "trainer", "chosen",
)  # fmt: skip
_OLD = affixed(
    "old", "prev", "previous", "behavior", "behaviour", "sampling", "sampled", "sampler", "rollout", "fixed", "mu",
    "generation", "gen", "collected", "stored", "orig", "original", "inference", "vllm", "sglang", "actor_old",
    "old_action", "old_actions",
    "pi_old", "prox", "proximal",
)  # fmt: skip
_REFERENCE = affixed(
    "ref",
    "reference",
    "base",
    "sft",
    "init",
    "initial",
    "ref_policy",
    "ref_model",
    "reference_policy",
    "teacher",
    "pi_ref",
)

#: The names of each argument; a name that stands in two rows has two meanings, and a check that has both asks.
NAMES: dict[str, str] = {
    "rewards": "reward rew rews r rs r_t rewards_t reward_batch token_level_rewards saved_rewards rewards_buffer "
    "raw_rewards",
    "gamma": "g gam disc discount discount_factor discount_rate reward_discount y gamma_ df gae_gamma",
    "lam": "lambda_ lambda lmbda lamda lambd lmbd lamb gae_lambda gae_lam gae_lmbda gae_tau lambda_gae lam_gae tau "
    "advantage_discount trace_decay lda lambda_t td_lambda lambda_gae_adv lambda_coefficient",
    "discounts": "discount_t discounts_t discount_array",
    "values": "value v vs vals val v_s state_values state_value value_preds value_pred vpred vpreds v_pred v_preds "
    "v_tm1 critic_values baselines baseline values_old old_values value_estimates vf_preds vf_pred vf_values",
    "next_values": "next_vals values_next vals_next next_state_values next_state_value state_values_next v_next next_v "
    "next_vs vs_next v_prime v_s_ values_ v_ v_tp1 values_tp1 next_obs_values next_value_preds true_next_values "
    "val_tp1 vals_tp1 successor_values nextvalues next_values_t",
    "next_value": "next_val value_next val_next next_vpred nextvpred",
    "last_value": "last_values bootstrap_value bootstrap_values bootstrap final_value last_val last_vals v_last last_v "
    "v_final last_state_value final_val bootstrap_val val_last value_last end_value last_r",
    "terminated": "terminations termination terminateds term terms is_terminated terminated_flags",
    "truncated": "truncations truncation truncateds trunc truncs is_truncated timeouts time_outs timeout time_out",
    "dones": "done d ds terminal terminals is_terminal is_terminals is_done is_dones dones_t done_flags ended "
    "episode_ends next_terminals done_mask",
    "ends": "end_flag end_flags end",
    "starts": "episode_starts is_first is_firsts first firsts episode_start start",
    "next_done": "last_done next_dones last_dones next_terminal next_terminated final_done",
    "not_dones": "not_done nonterminal nonterminals non_terminal non_terminals not_terminal not_terminals notdone "
    "notdones nondone nondones continues cont conts next_non_terminal next_nonterminal mask_lst alive done_mask "
    "undone undones",
    "mask": "masks m valid valids is_valid valid_mask loss_mask loss_masks response_mask response_masks resp_mask "
    "completion_mask completion_masks action_mask action_masks attention_mask target_mask token_mask generated_mask "
    "generated_token_mask generation_mask answer_mask assistant_mask output_mask eos_mask step_mask taken "
    "padding_mask pad_mask padding_masks active_mask active_masks label_mask labels_mask unmask unmasks",
    "padding": "is_pad is_padding paddings key_padding_mask padding_mask pad_mask padding_masks pad",
    "lengths": "length lens len seq_lens seq_lengths episode_lengths ep_lens",
    "returns": "return ret rets rtg rtgs rewards_to_go reward_to_go returns_to_go discounted_returns "
    "discounted_rewards targets target value_targets td_targets gt reward_sum reward_sums v_teacher vs_teacher",
    "advantages": "advantage adv advs adv_t a gae gaes advantage_estimates advantages_t advt advants a_hat ahat delta "
    "advantage_t adv_targ td_error",
    "log_probs": f"{' '.join(_LOG_PROBS)} {_POLICY} per_token_logps token_log_probs",
    "old_log_probs": _OLD,
    "ref_log_probs": _REFERENCE,
    "old_neg_log_probs": "oldneglogp oldneglogpac old_neglogp old_neglogprobs old_neg_log_prob old_neglogpac "
    "old_action_neglog_probs",
    "neg_log_probs": "neglogp neglogpac neglogprobs neglogprob nlp neg_log_prob neglogps neg_logp nll nlls "
    "action_neglog_probs",
    "probs": "prob proba probas probabilities probability pi pis dist distribution pmf softmax_probs action_probs "
    "policy_probs pi_a new_probs new_prob pi_new action_prob p_new",
    "old_probs": "old_prob prob_a pi_old probs_old prob_old old_action_probs p_old",
    "old_logits": "logits_old prev_logits behavior_logits",
    "logits": "logit new_logits policy_logits action_logits actor_logits current_logits raw_logits lm_logits "
    "next_logits last_logits",
    "actions": "action acts act actions_taken taken_actions labels tokens_taken token_ids completion_ids response_ids",
    "ratio": "ratios prob_ratio prob_ratios importance_ratio importance_ratios is_ratio rho rhos importance_weights",
    "clip": "eps epsilon clip_eps clip_epsilon clip_range clip_coef clip_ratio eps_clip cliprange clip_param "
    "clip_value clipping ppo_clip epsilon_clip clip_coefficient clip_threshold clip_parameter ratio_clip clipeps "
    "e_clip curr_e_clip",
    "clip_low": "epsilon_low eps_low clip_eps_low clip_range_low cliprange_low clip_ratio_low low low_clip low_eps "
    "clip_low_eps ratio_clip_min eps_clip_low eps_min clip_epsilon_low",
    "clip_high": "epsilon_high eps_high clip_eps_high clip_range_high cliprange_high clip_ratio_high high high_clip "
    "high_eps clip_high_eps ratio_clip_max eps_clip_high eps_max clip_epsilon_high",
    "stabiliser": "adv_eps adv_epsilon advantage_eps advantage_epsilon std_eps eps_std std_epsilon norm_eps eps_norm "
    "tiny small stability_eps numerical_eps eps_adv",
    "entropy": "entropies ent entropy_values dist_entropy token_entropy per_token_entropy",
    "entropy_coef": "ent_coef entropy_coeff entropy_weight entropy_beta entropy_coefficient coef_entropy ent_coeff "
    "entropy_loss_coef c2 entcoeff entropy_bonus",
    "value_coef": "vf_coef value_coeff value_loss_coef vf_coeff c1 value_weight critic_coef",
    "beta": "coef coeff coefficient kl_coef kl_coeff kl_weight kl_beta beta_kl lambda_kl kl_lambda kl_penalty_coef "
    "kl_loss_coef kl_coefficient init_kl_coef",
    "temperature": "temp",
    "group_size": "num_generations group n_samples n_generations n_samples_per_prompt num_samples samples_per_prompt "
    "size group_sz n_rollouts num_rollouts rollouts num_return_sequences n_responses num_responses n_per_prompt",
    "group_ids": "index uid uids group_id group_idx group_index group_indices prompt_index groups prompt_idx",
    "num_tokens": "n_tokens total_tokens num_items_in_batch token_count num_valid_tokens",
    "n_steps": "num_steps n_step rollout_length rollout_steps horizon num_timesteps steps max_episode_length",
    "n_envs": "num_envs n_env num_workers n_workers num_processes batch_size n_actors",
    "device": "",
}


def normalised(name: str) -> str:
    """An argument's name without what says nothing: `batch_rewards_list`, `rewards` and `reward` are the same."""
    parts = name.lower().strip("_").split("_")
    joined = "".join(part for part in parts if part not in _FILLERS) or "".join(parts)
    return joined.removesuffix("s") if len(joined) > 2 else joined
