(** * Softmax policies

    The policy of a table of preferences, its score, and the policy gradient
    that follows. In the book this chapter comes before the theorem; the last
    section here needs the theorem. *)

From Coq Require Import FunctionalExtensionality.
From PolicyGradient Require Export reinforce.

Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Open Scope R_scope.

Section Softmax.
Context {State Action Reward : finType} (M : mdp State Action Reward).
Implicit Types (s : State) (a b : Action) (h : State -> Action -> R).

(** ** The policy

    The preferences are any real numbers. The exponentials of the available
    actions are divided by their sum; an action that is not available has the
    probability 0. *)

Definition weight h s a : R := ind (available M s a) * exp (h s a).

(* Book: def-softmax-policy, eq-softmax-policy *)
Definition softmax h a s : R := weight h s a / \sum_b weight h s b.

Lemma weight_ge0 h s a : 0 <= weight h s a.
Proof.
rewrite /weight /ind; have := exp_pos (h s a).
by case: (available M s a) => /= ?; lra.
Qed.

Lemma weights_pos h s : ~~ terminal M s -> 0 < \sum_b weight h s b.
Proof.
move=> /negPn /existsP [a sa].
apply: Rlt_le_trans (term_le_sum a (weight_ge0 h s)).
by rewrite /weight sa /= Rmult_1_l; apply: exp_pos.
Qed.

Lemma softmax_ge0 h a s : 0 <= softmax h a s.
Proof.
case: (boolP (terminal M s)) => st.
  rewrite /softmax /weight (negbTE (terminal_unavailable a st)) /=.
  by rewrite /Rdiv !Rmult_0_l; lra.
by apply: Rdiv_le_0_compat; [exact: weight_ge0|exact: weights_pos].
Qed.

Lemma softmax_support h a s : ~~ available M s a -> softmax h a s = 0.
Proof. by move=> /negbTE sa; rewrite /softmax /weight sa /Rdiv !Rmult_0_l. Qed.

Lemma softmax_sum1 h s : ~~ terminal M s -> \sum_a softmax h a s = 1.
Proof.
move=> st; rewrite /softmax /Rdiv -sum_mulr.
by apply: Rinv_r; have := weights_pos h st; lra.
Qed.

Definition softmax_policy h : policy M :=
  Policy (softmax_ge0 h) (softmax_support h) (softmax_sum1 h).

Lemma softmax_pos h a s : available M s a -> 0 < softmax h a s.
Proof.
move=> sa; apply: Rdiv_lt_0_compat; last exact: weights_pos (available_live sa).
by rewrite /weight sa /= Rmult_1_l; apply: exp_pos.
Qed.

(** ** Its derivative and its score

    The preferences are differentiable functions of the parameters; [dh s a]
    is the derivative of h(s,a). *)

Section Parameters.
Variables (V : NormedModule R_AbsRing) (h : V -> State -> Action -> R) (θ : V).
Variable dh : State -> Action -> V -> R.
Hypothesis h_dh : forall s a, gradient_at (fun θ' => h θ' s a) θ (dh s a).

Let π θ' := softmax_policy (h θ').

(** The derivative of the softmax: π(a|s) times what the preference of [a]
    gains on the average preference. *)
Definition dsoftmax a s (k : V) : R :=
  π θ a s * (dh s a k - \sum_b π θ b s * dh s b k).

Lemma weight_gradient s a :
  gradient_at (fun θ' => weight (h θ') s a) θ (fun k =>
    weight (h θ) s a * dh s a k).
Proof.
rewrite /weight; apply: gradient_same; last first.
  exact: gradient_scal (gradient_chain (is_derive_exp _) (h_dh s a)).
by move=> k /=; ring.
Qed.

Lemma weights_gradient s : gradient_at (fun θ' => \sum_b weight (h θ') s b) θ
  (fun k => \sum_b weight (h θ) s b * dh s b k).
Proof. by apply: gradient_sum => b; apply: weight_gradient. Qed.

Lemma softmax_differentiable : differentiable_policy π θ dsoftmax.
Proof.
move=> a s; case: (boolP (terminal M s)) => st.
  have sa := terminal_unavailable a st.
  apply: (gradient_ext (f := fun=> 0)) => [θ'|].
    by rewrite /= softmax_support.
  apply: gradient_same (gradient_const 0 θ) => k.
  by rewrite /dsoftmax /= softmax_support // Rmult_0_l.
have Z0 := weights_pos (h θ) st.
have inverse : is_derive Rinv (\sum_b weight (h θ) s b)
    (- 1 / (\sum_b weight (h θ) s b) ^ 2).
  by apply: (is_derive_inv (fun z => z)); [exact: is_derive_id|lra].
apply: gradient_same; last first.
  apply: gradient_mult (weight_gradient s a) _.
  exact: gradient_chain inverse (weights_gradient s).
move=> k; rewrite /dsoftmax /= /softmax /=.
set Z := \sum_b weight (h θ) s b.
have -> : \sum_b weight (h θ) s b / Z * dh s b k =
    (\sum_b weight (h θ) s b * dh s b k) / Z.
  by rewrite /Rdiv sum_mulr; apply: eq_bigr => b _; ring.
by field; rewrite /Z; lra.
Qed.

(** The score: what the preference of [a] gains on the average preference. With
    linear preferences, [dh s a] is the inner product with the features. *)

Lemma softmax_score a s k : available M s a ->
  score π θ dsoftmax s a k = dh s a k - \sum_b π θ b s * dh s b k.
Proof.
move=> sa; rewrite /score /dsoftmax /=; field.
by have := softmax_pos (h θ) sa; lra.
Qed.

(* Book: eq-score-chain, prop-score-linear, eq-score-linear *)
Theorem softmax_score_is_gradient a s : available M s a ->
  gradient_at (fun θ' => ln (π θ' a s)) θ
    (fun k => dh s a k - \sum_b π θ b s * dh s b k).
Proof.
move=> sa; apply: gradient_same (score_is_gradient softmax_differentiable _).
  by move=> k; apply: softmax_score.
exact: softmax_pos.
Qed.

(** ** The policy gradient of a softmax policy *)

(* Book: def-advantage *)
Definition advantage γ (ρ : policy M) s a := q γ ρ s a - v γ ρ s.

(* Book: cor-softmax-gradient, eq-parameter-gradient *)
Theorem softmax_gradient γ μ : summable γ (π θ) ->
  gradient_at (fun θ' => J γ (π θ') μ) θ (fun k =>
    \sum_s \sum_a η γ (π θ) μ s * π θ a s * advantage γ (π θ) s a * dh s a k).
Proof.
move=> sm; apply: gradient_same (policy_gradient softmax_differentiable μ sm)
  => k.
apply: eq_bigr => s _; rewrite -[RHS]Rmult_1_l.
have -> : \sum_a q γ (π θ) s a * dsoftmax a s k =
    \sum_a π θ a s * advantage γ (π θ) s a * dh s a k.
  rewrite /dsoftmax /advantage (state_value s sm).
  set m := \sum_b π θ b s * dh s b k; set w := \sum_b π θ b s * q γ (π θ) s b.
  have -> : \sum_a q γ (π θ) s a * (π θ a s * (dh s a k - m)) =
      (\sum_a π θ a s * q γ (π θ) s a * dh s a k) - w * m.
    rewrite /w sum_mulr -sum_minus; apply: eq_bigr => a _; ring.
  have -> : \sum_a π θ a s * (q γ (π θ) s a - w) * dh s a k =
      (\sum_a π θ a s * q γ (π θ) s a * dh s a k) - w * m.
    rewrite /m sum_mull -sum_minus; apply: eq_bigr => a _; ring.
  by [].
by rewrite Rmult_1_l sum_mull; apply: eq_bigr => a _; ring.
Qed.

End Parameters.

(** ** A table of preferences

    The parameters are the preferences themselves, and one of them, that of
    [a0] in [s0], is moved. *)

Definition moved h s0 a0 (u : R) s a : R :=
  if (s == s0) && (a == a0) then u else h s a.

Section Table.
Variables (h : State -> Action -> R) (s0 : State) (a0 : Action).

Let dmoved s a (k : R) : R := k * ind ((s == s0) && (a == a0)).

Lemma moved_derivative s a :
  gradient_at (fun u : R => moved h s0 a0 u s a) (h s0 a0) (dmoved s a).
Proof.
rewrite /moved /dmoved; case: ((s == s0) && (a == a0)).
  apply: (filterdiff_ext_lin _ (fun k : R => k)); first exact: filterdiff_id.
  by move=> k; rewrite /= Rmult_1_r.
apply: gradient_same (gradient_const _ _) => k.
by rewrite /= Rmult_0_r.
Qed.

Lemma moved_back : moved h s0 a0 (h s0 a0) = h.
Proof.
apply: functional_extensionality => s; apply: functional_extensionality => a.
by rewrite /moved; case: andP => // -[/eqP -> /eqP ->].
Qed.

(** The derivative of ln π(a|s) by the preference of [a0] in [s0]: in the same
    state it is 1 if a = a0, less π(a0|s0); in any other state it is 0. It is 0
    too where [a0] is not available. *)

(* Book: prop-score-tabular, eq-score-tabular *)
Theorem tabular_score a s : available M s a ->
  is_derive (fun u => ln (softmax (moved h s0 a0 u) a s)) (h s0 a0)
    (ind (s == s0) *
     (ind (available M s0 a0) * ind (a == a0) - softmax h a0 s0)).
Proof.
move=> sa; apply: gradient_same (softmax_score_is_gradient moved_derivative sa)
  => k.
rewrite /dmoved moved_back /scal /= /mult /=.
case: eqP => [ss|_] /=; last by rewrite sum_zero => [|b]; ring.
rewrite (sum_only (x := a0)) => [|b /negbTE -> /=]; last by ring.
rewrite eqxx ss /=; case: eqP => [aa|_] /=; last by ring.
by rewrite -aa -ss sa /=; ring.
Qed.

(** The derivative of π(b|s0), the entry of the matrix diag(π) - π π'. *)

(* Book, in part: prop-softmax-jacobian, eq-softmax-jacobian *)
Theorem tabular_jacobian b :
  is_derive (fun u => softmax (moved h s0 a0 u) b s0) (h s0 a0)
    (softmax h b s0 * ind (b == a0) - softmax h b s0 * softmax h a0 s0).
Proof.
apply: gradient_same (softmax_differentiable moved_derivative b s0) => k.
rewrite /dsoftmax /dmoved eqxx /= (sum_only (x := a0)) => [|c /negbTE ca].
  rewrite eqxx /= !moved_back /scal /= /mult /=; ring.
by rewrite ca /= !Rmult_0_r.
Qed.

(* Book: cor-softmax-gradient, eq-softmax-gradient *)
Theorem tabular_gradient γ μ : summable γ (softmax_policy h) ->
  is_derive (fun u => J γ (softmax_policy (moved h s0 a0 u)) μ) (h s0 a0)
    (η γ (softmax_policy h) μ s0 * softmax h a0 s0 *
     advantage γ (softmax_policy h) s0 a0).
Proof.
rewrite -{1}moved_back => sm.
apply: gradient_same (softmax_gradient moved_derivative μ sm) => k.
rewrite moved_back /dmoved (sum_only (x := s0)) => [|s /negbTE ss].
  rewrite (sum_only (x := a0)) => [|a /negbTE aa].
    by rewrite !eqxx /= /scal /= /mult /=; ring.
  by rewrite aa andbF /= !Rmult_0_r.
by apply: sum_zero => a; rewrite ss /= !Rmult_0_r.
Qed.

End Table.
End Softmax.
