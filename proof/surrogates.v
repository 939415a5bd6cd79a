(** * The performance difference

    How much better one policy is than another, exactly, for policies that may
    be far apart; and the surrogate that has the same gradient. *)

From PolicyGradient Require Export softmax_policy.

Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Open Scope R_scope.

Section Surrogates.
Context {State Action Reward : finType} {M : mdp State Action Reward}.
Implicit Types (π π_old : policy M) (s : State) (a : Action) (μ : State -> R).

(** The mean advantage of the actions of [π], where the advantages are those
    of [π_old]. In a terminal state it is 0. *)
Definition gain γ π π_old s : R := \sum_a π a s * advantage γ π_old s a.

Lemma gain_terminal γ π π_old s : terminal M s -> gain γ π π_old s = 0.
Proof.
by move=> st; apply: sum_zero => a; rewrite prob_terminal // Rmult_0_l.
Qed.

Lemma gain_lookahead γ π π_old s : summable γ π_old -> gain γ π π_old s =
  r π s + γ * (\sum_x P π s x * v γ π_old x) - v γ π_old s.
Proof.
move=> sm; case: (boolP (terminal M s)) => st.
  rewrite gain_terminal // r_terminal // (v_terminal sm st) sum_zero => [|x].
    by ring.
  by rewrite P_terminal // Rmult_0_l.
rewrite -lookahead_policy /gain /advantage.
under eq_bigr do rewrite Rmult_minus_distr_l.
by rewrite sum_minus -sum_mulr prob_sum1 // Rmult_1_l.
Qed.

(** The difference of the values solves the Bellman equation of [π] with the
    gain as its reward. *)
Lemma value_difference γ π π_old s : summable γ π -> summable γ π_old ->
  v γ π s - v γ π_old s = total γ π (gain γ π π_old) s.
Proof.
move=> sm sm_old; have [γ01 [N [β [β01 tl]]]] := sm.
apply: (total_unique γ01 β01 tl (w := fun s => v γ π s - v γ π_old s)) => x.
have -> : \sum_y P π x y * (v γ π y - v γ π_old y) =
    (\sum_y P π x y * v γ π y) - \sum_y P π x y * v γ π_old y.
  by rewrite -sum_minus; apply: eq_bigr => y _; ring.
by rewrite gain_lookahead // /v {1}(total_solves γ01 β01 tl); ring.
Qed.

(* Book: lem-performance-difference, eq-performance-difference *)
Theorem performance_difference γ π π_old μ :
  summable γ π -> summable γ π_old ->
  J γ π μ - J γ π_old μ =
    \sum_s η γ π μ s * \sum_a π a s * advantage γ π_old s a.
Proof.
move=> sm sm_old; rewrite /J -sum_minus.
under eq_bigr do rewrite -Rmult_minus_distr_l value_difference //.
have [γ01 [N [β [β01 tl]]]] := sm.
by rewrite (visitation_expectation γ01 β01 tl) // => s; apply: gain_terminal.
Qed.

(** The surrogate weighs the states as the old policy visits them. *)

(* Book: def-surrogate, eq-surrogate-objective *)
Definition surrogate γ π_old μ π : R := J γ π_old μ +
  \sum_s η γ π_old μ s * \sum_a π a s * advantage γ π_old s a.

(* Book: thm-surrogate-gradient, eq-surrogate-gradient *)
Theorem surrogate_gradient (V : NormedModule R_AbsRing) (π : V -> policy M)
    (θ : V) dπ γ μ :
  summable γ (π θ) -> differentiable_policy π θ dπ ->
  surrogate γ (π θ) μ (π θ) = J γ (π θ) μ /\
  exists D, gradient_at (fun θ' => surrogate γ (π θ) μ (π θ')) θ D /\
            gradient_at (fun θ' => J γ (π θ') μ) θ D.
Proof.
move=> sm π_dπ; split.
  by rewrite /surrogate -performance_difference //; ring.
exists (fun h => \sum_s η γ (π θ) μ s * \sum_a q γ (π θ) s a * dπ a s h).
split; last exact: policy_gradient.
apply: gradient_same; last first.
  apply: gradient_plus (gradient_const _ _) _; apply: gradient_sum => s.
  apply: gradient_scal; apply: gradient_sum => a.
  apply: (gradient_ext (f := fun θ' => advantage γ (π θ) s a * π θ' a s)).
    by move=> θ'; rewrite Rmult_comm.
  exact: gradient_scal (π_dπ a s).
move=> h; rewrite /= Rplus_0_l.
exact: (baseline_changes_nothing π_dπ γ μ (v γ (π θ)) h).
Qed.

End Surrogates.
